import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { describe, OvpnError } from '../errors.ts';
import { shareConnections } from './fair-connections.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';

export interface HealthServerOptions {
  readonly host: string;
  readonly port: number;
  /** Whether the process does its work; its message is shown when not. */
  readonly ready: () => { readonly ok: boolean; readonly message: string };
  readonly metrics: Pick<Metrics, 'text' | 'contentType'>;
  readonly log: Log;
}

/** Requests have no body and few headers, and nobody who waits long is of use: what is more, or slower, is cut off. */
const limits = { maxHeaderSize: 8 * 1024, headersTimeout: 5_000, requestTimeout: 5_000, keepAliveTimeout: 5_000 };
/** An idle process wakes for it. Who is slow is cut off after 5 to 10 s. */
const checkEveryMs = 5_000;
/** For an answer to be taken; those of many peers are megabytes. */
const answerMs = 30_000;
const maxConnections = 32;

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

/**
 * `/healthz` (the process answers), `/readyz` (it does its work) and `/metrics`, for the kubelet and Prometheus.
 *
 * @throws OvpnError ConfigInvalid when the address cannot be listened on
 */
export async function startHealthServer(options: HealthServerOptions): Promise<Server> {
  const { host, port, log } = options;
  const server = createServer({ ...limits, connectionsCheckingInterval: checkEveryMs }, (request, response) => {
    answerTo(request, options)
      .catch((error: unknown) => {
        log.error({ event: 'health.defect', url: request.url, error: describe(error) }, 'a request was not answered');
        return plain(500, 'a defect; see the log');
      })
      .then((answer) => send(response, answer, request))
      .catch((error: unknown) => {
        log.error({ event: 'health.defect', error: describe(error) }, 'an answer could not be sent');
        response.destroy();
      });
  });
  shareConnections(server, maxConnections);
  server.setTimeout(answerMs);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new OvpnError(
          'ConfigInvalid',
          `cannot listen on ${host}:${port}: ${describe(error)}`,
          { object: 'option --health' },
          { cause: error },
        ),
      ),
    );
    server.listen(port, host, resolve);
  });
  return server;
}

async function answerTo({ method, url = '' }: IncomingMessage, options: HealthServerOptions): Promise<Answer> {
  const path = url.split('?', 1)[0];
  if (method !== 'GET' && method !== 'HEAD') return plain(405, 'only GET and HEAD');
  switch (path) {
    case '/healthz':
      return plain(200, 'ok');
    case '/readyz': {
      const { ok, message } = options.ready();
      return ok ? plain(200, 'ok') : plain(503, message);
    }
    case '/metrics':
      return { status: 200, type: options.metrics.contentType, text: await options.metrics.text() };
    default:
      return plain(404, 'there are /healthz, /readyz and /metrics');
  }
}

function plain(status: number, text: string): Answer {
  return { status, type: 'text/plain; charset=utf-8', text: `${text}\n` };
}

function send(response: ServerResponse, { status, type, text }: Answer, request: IncomingMessage): void {
  const hasBody = request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined;
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
    ...(status === 405 ? { allow: 'GET, HEAD' } : {}),
    // A body is not read: what follows on the connection would be taken for the next request.
    ...(hasBody ? { connection: 'close' } : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : text);
}
