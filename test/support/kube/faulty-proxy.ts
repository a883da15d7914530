import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** What becomes of one request on its way. Byte counts are of the answer's body. */
export type Fault =
  | { readonly kind: 'none' }
  /** Answered here: the server never hears of it. */
  | { readonly kind: 'refuse'; readonly status: number; readonly retryAfterSeconds?: number }
  /** The connection breaks off; or, `cleanly`, the answer ends as if it were whole. */
  | { readonly kind: 'cut'; readonly afterBytes: number; readonly cleanly: boolean }
  /** Nothing more comes, and nobody says so. */
  | { readonly kind: 'stall'; readonly afterBytes: number }
  /** Each part of the answer comes late. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** One byte becomes one that JSON has nowhere. */
  | { readonly kind: 'corrupt'; readonly atByte: number }
  /** The server carries it out, and its answer is lost. */
  | { readonly kind: 'swallow' };

export interface Passing {
  readonly method: string;
  readonly path: string;
  readonly watch: boolean;
}

export const noFault: Fault = { kind: 'none' };

/** What Kubernetes answers with, in the form of its Status objects. */
const reasons: Readonly<Record<number, string>> = {
  410: 'Expired',
  429: 'TooManyRequests',
  500: 'InternalError',
  503: 'ServiceUnavailable',
};

/** A way to an API server that does what networks, proxies and busy servers do. */
export class FaultyProxy {
  /** Decides what becomes of a request. */
  plan: (passing: Passing) => Fault = () => noFault;
  /** What came by, with what became of it. */
  readonly seen: { readonly passing: Passing; readonly fault: Fault; readonly at: number }[] = [];
  readonly #target: URL;
  readonly #agent: https.Agent;
  readonly #server: Server;
  readonly #open = new Set<ServerResponse>();

  private constructor(target: string, ca: string) {
    this.#target = new URL(target);
    this.#agent = new https.Agent({ ca, keepAlive: true });
    this.#server = createServer((request, response) => this.#pass(request, response));
  }

  /** @param way the server's address and CA; clients bring their own token */
  static async start(way: { readonly server: string; readonly ca: string }): Promise<FaultyProxy> {
    const proxy = new FaultyProxy(way.server, way.ca);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** From now on nothing goes wrong; what hangs is cut. */
  heal(): void {
    this.plan = () => noFault;
    this.cutAll();
  }

  /** Breaks all connections that are open. */
  cutAll(): void {
    for (const response of this.#open) response.destroy();
  }

  async stop(): Promise<void> {
    this.cutAll();
    this.#agent.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #pass(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', this.#target);
    const passing = {
      method: request.method ?? '',
      path: url.pathname,
      watch: url.searchParams.has('watch'),
    };
    const fault = this.plan(passing);
    this.seen.push({ passing, fault, at: performance.now() });
    this.#open.add(response);
    response.on('close', () => this.#open.delete(response));
    if (fault.kind === 'refuse') {
      refuse(response, fault);
      return;
    }
    const upstream = https.request(url, { method: passing.method, headers: request.headers, agent: this.#agent });
    upstream.on('error', () => response.destroy());
    response.on('close', () => upstream.destroy());
    upstream.on('response', (answer) => {
      answer.on('error', () => response.destroy());
      if (fault.kind === 'swallow') answer.resume().on('end', () => response.destroy());
      else void relay(answer, response, fault).catch(() => response.destroy());
    });
    request.pipe(upstream);
  }
}

function refuse(response: ServerResponse, { status, retryAfterSeconds }: Fault & { kind: 'refuse' }): void {
  const headers = retryAfterSeconds === undefined ? {} : { 'retry-after': String(retryAfterSeconds) };
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  const reason = reasons[status] ?? '';
  response.end(JSON.stringify({ kind: 'Status', apiVersion: 'v1', status: 'Failure', code: status, reason }));
}

async function relay(answer: IncomingMessage, response: ServerResponse, fault: Fault): Promise<void> {
  // Without a length: then an answer that is cut off can end as if it were whole.
  const headers = Object.entries(answer.headers).filter(([name]) => name !== 'content-length');
  response.writeHead(answer.statusCode ?? 502, Object.fromEntries(headers));
  response.flushHeaders();
  let sent = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    const end = sent + chunk.length;
    switch (fault.kind) {
      case 'delay':
        await sleep(fault.ms);
        break;
      case 'corrupt':
        if (fault.atByte >= sent && fault.atByte < end) chunk[fault.atByte - sent] = 0x01;
        break;
      case 'cut':
      case 'stall':
        if (end < fault.afterBytes) break;
        if (sent <= fault.afterBytes) response.write(chunk.subarray(0, fault.afterBytes - sent));
        sent = end;
        // What comes is taken from the server, and kept.
        if (fault.kind === 'stall') continue;
        if (fault.cleanly) response.end();
        else setImmediate(() => response.destroy());
        return;
      default:
    }
    response.write(chunk);
    sent = end;
  }
  if (fault.kind !== 'stall' || sent < fault.afterBytes) response.end();
}
