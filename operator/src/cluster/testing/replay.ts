import { readFileSync } from 'node:fs';
import type { ScriptedServer } from './api-server.ts';

/**
 * One exchange of a session with an API server: a list (one page), or a watch with its events. The order
 * within one path is the order of the exchanges.
 */
interface Exchange {
  readonly list?: string;
  readonly watch?: string;
  /** The resource version that the watch has to ask for. */
  readonly from?: string;
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly events?: readonly unknown[];
  readonly then?: 'end' | 'stay';
}

/** Has the server replay a session; gives what was asked otherwise than in the session. */
export function replay(server: ScriptedServer, file: URL): string[] {
  const surprises: string[] = [];
  for (const line of readFileSync(file, 'utf8').trim().split('\n')) {
    const exchange = JSON.parse(line) as Exchange;
    const path = exchange.list ?? exchange.watch ?? '';
    server.script(path, (response, { query }) => {
      const isWatch = query['watch'] !== undefined;
      if (isWatch !== (exchange.watch !== undefined)) surprises.push(`${path}: watch ${isWatch}`);
      if (isWatch && query['resourceVersion'] !== exchange.from)
        surprises.push(`${path}: ${query['resourceVersion'] ?? ''}`);
      response.writeHead(exchange.status ?? 200, { 'content-type': 'application/json', ...exchange.headers });
      if (exchange.body !== undefined) response.end(JSON.stringify(exchange.body));
      else {
        response.flushHeaders();
        for (const event of exchange.events ?? []) response.write(`${JSON.stringify(event)}\n`);
        if (exchange.then === 'end') response.end();
      }
    });
  }
  return surprises;
}
