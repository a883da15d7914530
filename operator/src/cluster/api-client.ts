import http from 'node:http';
import https from 'node:https';
import type { IncomingMessage } from 'node:http';
import { asRecord } from './json.ts';
import type { ApiAccess } from './kube-access.ts';
import type { Clock } from './clock.ts';

/** The API server answered, and the answer was no. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  /** The machine-readable reason of the Status object (`Expired`, `NotFound`), where there was one. */
  readonly reason: string;
  /** How long the server asks to wait; 0 when it does not say. */
  readonly retryAfterMs: number;

  constructor(status: number, reason: string, message: string, retryAfterMs = 0) {
    super(`${status}${reason === '' ? '' : ` ${reason}`}: ${message}`);
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }

  /** The resource version or continue token is too old for the server: only a new list helps. */
  get expired(): boolean {
    return this.status === 410 || this.reason === 'Expired' || this.reason === 'Gone';
  }

  /** There is no such object. */
  get notFound(): boolean {
    return this.status === 404;
  }

  /** The name is taken. */
  get alreadyExists(): boolean {
    return this.reason === 'AlreadyExists';
  }

  /** The object is not the one, or not in the version, that the request insisted on. */
  get conflict(): boolean {
    return this.status === 409 && !this.alreadyExists;
  }
}

export interface ApiCall {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** The path below the server's base, already escaped: `/api/v1/nodes`. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string | undefined>>;
  readonly body?: { readonly type: string; readonly text: string };
  /** The form of the answer, when it is not plain JSON: of lists and watches also their metadata alone. */
  readonly accept?: string;
  readonly signal: AbortSignal;
  /** How long the answer may take: its head for `open`, all of it for `json`. */
  readonly timeoutMs: number;
}

/** Error bodies are Status objects of a few hundred bytes; a proxy's HTML page need not be read to the end. */
const MAX_ERROR_BYTES = 64 * 1024;

/** Requests to one API server over connections that are kept. */
export class ApiClient {
  readonly #access: ApiAccess;
  readonly #clock: Clock;
  readonly #userAgent: string;
  readonly #base: URL;
  readonly #agent: http.Agent;

  constructor(access: ApiAccess, clock: Clock, userAgent: string) {
    this.#access = access;
    this.#clock = clock;
    this.#userAgent = userAgent;
    this.#base = new URL(access.server);
    const keep = { keepAlive: true, keepAliveMsecs: 30_000 };
    // Connections are pooled by their TLS options, so a rotated client certificate gets new ones.
    this.#agent = this.#base.protocol === 'https:' ? new https.Agent(keep) : new http.Agent(keep);
  }

  /** Closes the kept connections. */
  close(): void {
    this.#agent.destroy();
  }

  /** The whole answer, as JSON. Throws ApiError when the server refuses, something else when it is not reached. */
  async json(call: ApiCall): Promise<unknown> {
    const deadline = new AbortController();
    const cancel = this.#clock.after(call.timeoutMs, () => deadline.abort(new Error(timeoutText(call))));
    try {
      const response = await this.open({ ...call, signal: AbortSignal.any([call.signal, deadline.signal]) });
      return JSON.parse((await collect(response)).toString('utf8'));
    } catch (error) {
      throw deadline.signal.aborted && !(error instanceof ApiError) ? deadline.signal.reason : error;
    } finally {
      cancel();
    }
  }

  /** The answer once its head is there and says yes; the caller reads the body. Aborting ends the body too. */
  async open(call: ApiCall): Promise<IncomingMessage> {
    const auth = await this.#access.authenticate();
    const url = new URL(this.#base);
    url.pathname = `${url.pathname.replace(/\/$/, '')}${call.path}`;
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, value);
    }
    const options: https.RequestOptions = {
      agent: this.#agent,
      ...auth,
      method: call.method ?? 'GET',
      signal: call.signal,
      headers: {
        ...(auth.headers as http.OutgoingHttpHeaders | undefined),
        accept: call.accept ?? 'application/json',
        'user-agent': this.#userAgent,
        ...(call.body === undefined
          ? {}
          : { 'content-type': call.body.type, 'content-length': Buffer.byteLength(call.body.text) }),
      },
    };
    const response = await this.#exchange(url, options, call);
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 300) return response;
    throw await refusal(status, response);
  }

  #exchange(url: URL, options: https.RequestOptions, call: ApiCall): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const request = (url.protocol === 'https:' ? https : http).request(url, options);
      const cancel = this.#clock.after(call.timeoutMs, () => request.destroy(new Error(timeoutText(call))));
      request.on('response', (response) => {
        cancel();
        resolve(response);
      });
      // Stays for the life of the request: an error after the head surfaces on the body, not as a crash.
      request.on('error', (error) => {
        cancel();
        reject(error);
      });
      request.end(call.body?.text);
    });
  }
}

function timeoutText(call: ApiCall): string {
  return `no answer within ${call.timeoutMs / 1000} s to ${call.method ?? 'GET'} ${call.path}`;
}

async function collect(response: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function refusal(status: number, response: IncomingMessage): Promise<ApiError> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MAX_ERROR_BYTES) break;
    }
  } catch {
    // The status line says enough; the text is a courtesy.
  }
  const text = Buffer.concat(chunks).toString('utf8');
  const retryAfter = Number(response.headers['retry-after'] ?? Number.NaN);
  const retryAfterMs = Number.isFinite(retryAfter) && retryAfter > 0 ? retryAfter * 1000 : 0;
  return statusError(status, parseJson(text), text.trim().slice(0, 200), retryAfterMs);
}

/** The error that a Status object means (as a response's body, or inside an ERROR event of a watch). */
export function statusError(status: number, body: unknown, fallback: string, retryAfterMs = 0): ApiError {
  const fields = asRecord(body) ?? {};
  const { reason, message, code } = fields;
  const { retryAfterSeconds } = asRecord(fields['details']) ?? {};
  return new ApiError(
    typeof code === 'number' && status === 0 ? code : status,
    typeof reason === 'string' ? reason : '',
    typeof message === 'string' && message !== '' ? message : fallback === '' ? 'no message' : fallback,
    retryAfterMs > 0 ? retryAfterMs : typeof retryAfterSeconds === 'number' ? retryAfterSeconds * 1000 : 0,
  );
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
