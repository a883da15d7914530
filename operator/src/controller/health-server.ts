import { createServer, type Server } from 'node:http';
import type { Health } from '../cluster/list-watch.ts';

export interface HealthServerOptions {
  readonly host: string;
  readonly port: number;
  /** Whether the process does its work; its message is shown when not. */
  readonly ready: () => Health;
}

/** `/healthz` (the process answers) and `/readyz` (the API server answers it), for the kubelet's probes. */
export async function startHealthServer(options: HealthServerOptions): Promise<Server> {
  const server = createServer((request, response) => {
    const { ok, message } =
      request.url === '/healthz'
        ? { ok: true, message: '' }
        : request.url === '/readyz'
          ? options.ready()
          : { ok: undefined, message: 'there are /healthz and /readyz' };
    response.writeHead(ok === undefined ? 404 : ok ? 200 : 503, { 'content-type': 'text/plain; charset=utf-8' });
    response.end(`${ok === true ? 'ok' : message}\n`);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, resolve);
  });
  return server;
}
