import { Writable } from 'node:stream';
import type { Exec } from '@kubernetes/client-node';
import { describe, OvpnError } from '../../errors.ts';
import { asRecord } from '../../cluster/json.ts';
import type { Cluster } from './connection.ts';

/** A container of a pod. */
export interface ContainerRef {
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
}

/** What a command in a pod left behind. */
export interface Executed {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** More than this is no answer of a program of ours. Bytes. */
const maxBytes = 64 * 1024 * 1024;

/**
 * Runs a command in a container to its end, as `kubectl exec` does; what it exits with is a result.
 *
 * @throws OvpnError AccessDenied, ExecFailed
 */
export async function execInPod(
  { config, timeoutMs }: Pick<Cluster, 'config' | 'timeoutMs'>,
  where: ContainerRef,
  command: readonly string[],
): Promise<Executed> {
  // The library is loaded where it is needed: most commands do without.
  const { Exec: Executor } = await import('@kubernetes/client-node');
  const [stdout, stderr] = [new Collected(), new Collected()];
  try {
    const code = await finished(new Executor(config), where, command, { stdout, stderr, timeoutMs });
    return { code, stdout: stdout.text, stderr: stderr.text };
  } catch (error) {
    throw execRefusal(error, where);
  }
}

interface Streams {
  readonly stdout: Writable;
  readonly stderr: Writable;
  readonly timeoutMs: number;
}

/** What is needed of the library's WebSocket, whose own types it does not bring. */
interface Socket {
  onclose: () => void;
  onerror: (event: { readonly message: string }) => void;
  terminate(): void;
}

async function finished(
  executor: Exec,
  { namespace, pod, container }: ContainerRef,
  command: readonly string[],
  { stdout, stderr, timeoutMs }: Streams,
): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  // Given up on before it is awaited: a rejection must not end the process.
  promise.catch(() => undefined);
  const timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs / 1000} s`)), timeoutMs);
  for (const stream of [stdout, stderr]) stream.on('error', reject);
  const ended = (status: unknown): void => {
    const code = exitCode(status);
    if (code !== undefined) resolve(code);
    else reject(new Error(messageOf(status) ?? 'the command was not run'));
  };
  const words = [...command];
  const run = executor.exec(namespace, pod, container, words, stdout, stderr, null, false, ended) as unknown;
  const opening = run as Promise<Socket>;
  try {
    const socket = await Promise.race([opening, promise]);
    if (typeof socket === 'number') return socket;
    socket.onclose = () => reject(new Error('the connection ended before the command did'));
    socket.onerror = (event) => reject(new Error(event.message));
    return await promise;
  } finally {
    clearTimeout(timer);
    opening.then(
      (socket) => socket.terminate(),
      () => undefined,
    );
  }
}

/**
 * The exit code that a Status tells at the end of a command; undefined when it never ran.
 * (k8s.io/apimachinery/pkg/util/remotecommand: a code other than 0 is a failure with the reason NonZeroExitCode and
 * a cause ExitCode.)
 */
export function exitCode(status: unknown): number | undefined {
  const { status: outcome, reason, details } = asRecord(status) ?? {};
  if (outcome === 'Success') return 0;
  const { causes } = asRecord(details) ?? {};
  if (reason !== 'NonZeroExitCode' || !Array.isArray(causes)) return undefined;
  for (const cause of causes as unknown[]) {
    const { reason: about, message } = asRecord(cause) ?? {};
    if (about === 'ExitCode' && typeof message === 'string' && /^\d+$/.test(message)) return Number(message);
  }
  return undefined;
}

/** What it means that a command was not run. */
export function execRefusal(error: unknown, { namespace, pod, container }: ContainerRef): OvpnError {
  // The library hands out the event of its WebSocket, which is no Error but has the message of one.
  const text = messageOf(error) ?? describe(error);
  const status = /Unexpected server response: (\d+)/.exec(text)?.[1];
  if (status === '403') {
    const right = `you may not run commands in pods of namespace ${namespace}`;
    const remedy = `have an administrator give you \`create\` (before Kubernetes 1.35: \`get\`) of pods/exec in namespace ${namespace}`;
    return new OvpnError('AccessDenied', right, {}, { remedy, cause: error });
  }
  const object = `Pod ${namespace}/${pod}`;
  const problem =
    status === undefined ? text : status === '404' ? 'is not there any more' : `the API server answered ${status}`;
  return new OvpnError('ExecFailed', `container ${container}: ${problem}`, { object }, { cause: error });
}

function messageOf(value: unknown): string | undefined {
  const { message } = asRecord(value) ?? {};
  return typeof message === 'string' && message !== '' ? message : undefined;
}

/** Keeps what is written, up to a bound. */
class Collected extends Writable {
  readonly #chunks: Buffer[] = [];
  #size = 0;

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error) => void): void {
    this.#size += chunk.length;
    if (this.#size > maxBytes) {
      done(new Error('the answer is too long'));
      return;
    }
    this.#chunks.push(chunk);
    done();
  }

  get text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }
}
