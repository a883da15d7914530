import { writeFileSync } from 'node:fs';
import https from 'node:https';
import { join } from 'node:path';
import { attempt, type Finished } from '../run.ts';

/** An answer of the API server. */
export interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

export interface Credentials {
  readonly name: string;
  readonly server: string;
  readonly ca: string;
  readonly token: string;
}

/** The server refused a request that a test counts on. */
export class RequestRefused extends Error {
  override readonly name = 'RequestRefused';
  readonly status: number;

  constructor(method: string, path: string, { status, body }: Answer) {
    const { message } = body;
    super(`${method} ${path}: ${status} ${typeof message === 'string' ? message : JSON.stringify(body)}`);
    this.status = status;
  }
}

const applyType = 'application/apply-patch+yaml';

/** Somebody who talks to an API server: an administrator, or one of our processes by its service account. */
export class KubeUser {
  readonly credentials: Credentials;
  /** A kubeconfig file with these credentials only, for processes. */
  readonly kubeconfig: string;
  readonly #kubectl: string;
  readonly #agent: https.Agent;

  constructor(folder: string, kubectl: string, credentials: Credentials) {
    this.credentials = credentials;
    this.kubeconfig = join(folder, `${credentials.name.replaceAll(/[^\w.-]/g, '_')}.kubeconfig`);
    this.#kubectl = kubectl;
    this.#agent = new https.Agent({ keepAlive: true });
    this.writeKubeconfig();
  }

  /** Writes the kubeconfig file; with another server, its requests take another way (a proxy of a test). */
  writeKubeconfig(path = this.kubeconfig, server = this.credentials.server): void {
    const { ca, token } = this.credentials;
    // The client library takes plain HTTP, of a proxy of a test, from nobody else.
    const trust = server.startsWith('http:')
      ? { 'insecure-skip-tls-verify': true }
      : { 'certificate-authority-data': Buffer.from(ca).toString('base64') };
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'test', cluster: { server, ...trust } }],
      users: [{ name: 'test', user: { token } }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
      'current-context': 'test',
    };
    // JSON is YAML.
    writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
  }

  /** One request; a refusal is an answer. Rejects only when there is none. */
  async send(method: string, path: string, body?: object, type = 'application/json'): Promise<Answer> {
    const { server, ca, token } = this.credentials;
    const text = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const headers = {
        authorization: `Bearer ${token}`,
        accept: 'application/json',
        'user-agent': 'ovpn-test',
        ...(text === undefined ? {} : { 'content-type': type, 'content-length': Buffer.byteLength(text) }),
      };
      const request = https.request(`${server}${path}`, { method, ca, headers, agent: this.#agent }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => void chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const answered = Buffer.concat(chunks).toString('utf8');
          const isJson = response.headers['content-type']?.startsWith('application/json') === true;
          const parsed = isJson ? (JSON.parse(answered) as Record<string, unknown>) : { text: answered };
          resolve({ status: response.statusCode ?? 0, body: parsed });
        });
      });
      request.on('error', reject);
      request.setTimeout(60_000, () => request.destroy(new Error(`no answer within a minute to ${method} ${path}`)));
      request.end(text);
    });
  }

  /** One request that must succeed. @throws RequestRefused */
  async must(method: string, path: string, body?: object, type?: string): Promise<Record<string, unknown>> {
    const answer = await this.send(method, path, body, type);
    if (answer.status >= 300) throw new RequestRefused(method, path, answer);
    return answer.body;
  }

  async get<T = Record<string, unknown>>(path: string): Promise<T> {
    return (await this.must('GET', path)) as T;
  }

  /** Server-side apply of one object at its path; also of a subresource. */
  async apply(path: string, object: object, { manager = 'test', force = true } = {}): Promise<Record<string, unknown>> {
    return this.must('PATCH', `${path}?fieldManager=${manager}&force=${force}`, object, applyType);
  }

  /** A JSON merge patch (RFC 7386). */
  async merge(path: string, change: object): Promise<Record<string, unknown>> {
    return this.must('PATCH', path, change, 'application/merge-patch+json');
  }

  async delete(path: string): Promise<void> {
    await this.must('DELETE', path);
  }

  /** kubectl as this user; an exit code other than 0 is a result. */
  async tryKubectl(args: readonly string[], input?: string): Promise<Finished> {
    const options = ['--kubeconfig', this.kubeconfig, ...args];
    return attempt(this.#kubectl, options, {
      // Its caches of the API's groups are no part of a test.
      env: { KUBECACHEDIR: `${this.kubeconfig}.cache`, KUBECONFIG: '' },
      ...(input === undefined ? {} : { input }),
    });
  }

  /** kubectl as this user, which must succeed; gives its output. */
  async kubectl(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.tryKubectl(args);
    if (code !== 0) throw new Error(`kubectl ${args.join(' ')} exited with ${code}:\n${stderr}${stdout}`);
    return stdout;
  }

  /** Applies manifests as a person does: YAML of any number of objects. */
  async applyYaml(manifests: string): Promise<void> {
    const { code, stderr } = await this.tryKubectl(['apply', '--server-side', '-f', '-'], manifests);
    if (code !== 0) throw new Error(`kubectl apply exited with ${code}:\n${stderr}`);
  }

  close(): void {
    this.#agent.destroy();
  }
}
