import { createServer } from 'node:http';
import type { IncomingHttpHeaders, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { KubeConfig } from '@kubernetes/client-node';
import { kubeAccess } from '../kube-access.ts';
import type { ApiAccess } from '../kube-access.ts';
import { until } from './clock.ts';

/** A request as the server saw it. */
export interface Seen {
  readonly method: string;
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** What the server does with one request. */
export type Step = (response: ServerResponse, request: Seen) => void;

/** A page of a list, in the form of a Kubernetes API server. */
export function page(items: readonly object[], version: string, next?: string): Step {
  const metadata = { resourceVersion: version, ...(next === undefined ? {} : { continue: next }) };
  return (response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ apiVersion: 'v1', kind: 'List', metadata, items }));
  };
}

/** A refusal with a Status object. */
export function refuse(code: number, reason: string, headers: Record<string, string> = {}): Step {
  return (response) => {
    response.writeHead(code, { 'content-type': 'application/json', ...headers });
    response.end(JSON.stringify(statusObject(code, reason)));
  };
}

export function statusObject(code: number, reason: string): object {
  return {
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Failure',
    message: `refused: ${reason}`,
    reason,
    code,
  };
}

export function event(type: string, object: object): string {
  return `${JSON.stringify({ type, object })}\n`;
}

export function bookmark(version: string): string {
  return event('BOOKMARK', { kind: 'VpnPeer', metadata: { resourceVersion: version } });
}

/** A watch that sends this and then ends, breaks off, or stays open. */
export function watching(text: string | Buffer, then: 'end' | 'break' | 'stay' = 'stay'): Step {
  return (response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    if (then === 'end') response.end(text);
    else if (text.length > 0) response.write(text, () => then === 'break' && response.destroy());
    else if (then === 'break') response.destroy();
  };
}

/** Never answers. */
export const silence: Step = () => {};

/**
 * A server that does as it is told: one step per request to a path, in order. Without a step, a list is
 * empty, a watch stays open and brings nothing, and a write is taken.
 */
export class ScriptedServer {
  readonly requests: Seen[] = [];
  readonly #steps = new Map<string, Step[]>();
  readonly #open = new Set<{ path: string; watch: boolean; response: ServerResponse }>();
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      const url = new URL(request.url ?? '/', 'http://server');
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const seen: Seen = {
          method: request.method ?? '',
          path: url.pathname,
          query: Object.fromEntries(url.searchParams),
          headers: request.headers,
          body: Buffer.concat(chunks).toString('utf8'),
        };
        this.requests.push(seen);
        const entry = { path: seen.path, watch: seen.query['watch'] !== undefined, response };
        this.#open.add(entry);
        response.on('close', () => this.#open.delete(entry));
        this.#respond(seen, response);
      });
    });
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Access as a service account with a token would have it. */
  access(): ApiAccess {
    const config = new KubeConfig();
    config.loadFromClusterAndUser(
      { name: 'test', server: this.url, skipTLSVerify: true },
      { name: 'agent', token: 'test-token' },
    );
    return kubeAccess(config);
  }

  /** Appends what to do with the next requests to a path. */
  script(path: string, ...steps: Step[]): void {
    this.#steps.set(path, [...(this.#steps.get(path) ?? []), ...steps]);
  }

  /** Sends more on the open watch of a path, once there is one. */
  async send(path: string, text: string): Promise<void> {
    const watches = (): ServerResponse[] =>
      [...this.#open].filter((entry) => entry.path === path && entry.watch).map(({ response }) => response);
    await until(`a watch of ${path}`, () => watches().some(({ headersSent }) => headersSent));
    for (const response of watches()) response.write(text);
  }

  /** How many requests to a path are being answered. */
  open(path: string): number {
    return [...this.#open].filter((entry) => entry.path === path).length;
  }

  lists(path: string): Seen[] {
    return this.requests.filter((seen) => seen.path === path && seen.query['watch'] === undefined);
  }

  watches(path: string): Seen[] {
    return this.requests.filter((seen) => seen.path === path && seen.query['watch'] !== undefined);
  }

  writes(): Seen[] {
    return this.requests.filter(({ method }) => method === 'PATCH');
  }

  #respond(seen: Seen, response: ServerResponse): void {
    const step = this.#steps.get(seen.path)?.shift();
    if (step !== undefined) step(response, seen);
    else if (seen.method === 'PATCH') {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(seen.body);
    } else if (seen.query['watch'] === undefined) page([], '1')(response, seen);
    else watching('')(response, seen);
  }
}
