import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { once } from 'node:events';
import type { Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { startHealthServer } from './health-server.ts';
import { silentLog } from './log.ts';
import { testMetrics } from './metrics.fixture.ts';

let server: Server;
let port: number;
let readiness: { ok: boolean; message: string };

beforeEach(async () => {
  readiness = { ok: true, message: '' };
  const options = { metrics: testMetrics('agent'), log: silentLog, ready: () => readiness };
  server = await startHealthServer({ host: '127.0.0.1', port: 0, ...options });
  ({ port } = server.address() as AddressInfo);
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

const ask = (path: string, init?: RequestInit): Promise<Response> => fetch(`http://127.0.0.1:${port}${path}`, init);

describe('the health server', () => {
  test('says that the process answers, and whether it does its work', async () => {
    expect((await ask('/healthz')).status).toBe(200);
    expect((await ask('/readyz')).status).toBe(200);
    readiness = { ok: false, message: 'the kernel has no ovpn driver' };
    const refused = await ask('/readyz');
    expect([refused.status, await refused.text()]).toEqual([503, 'the kernel has no ovpn driver\n']);
    expect((await ask('/healthz')).status).toBe(200);
  });

  test('serves metrics, with a query or not', async () => {
    const answer = await ask('/metrics?name=x');
    expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=/);
    expect(await answer.text()).toContain('ovpn_build_info{version="0.0.0"} 1');
  });

  test.each([
    ['POST', '/metrics', 405],
    ['DELETE', '/healthz', 405],
    ['HEAD', '/healthz', 200],
    ['GET', '/metrics/', 404],
    ['GET', '/', 404],
  ])('%s %s is answered by %i', async (method, path, status) => {
    const answer = await ask(path, { method });
    expect(answer.status).toBe(status);
    if (status === 405) expect(answer.headers.get('allow')).toBe('GET, HEAD');
  });

  test('a body is not read, and what follows it is not taken for a request', async () => {
    const socket = connect(port, '127.0.0.1');
    socket.write('GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\nGET /metrics');
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    await once(socket, 'close');
    const text = Buffer.concat(chunks).toString();
    expect(text).toMatch(/^HTTP\/1\.1 200 OK/);
    expect(text).toContain('connection: close');
    expect(text).not.toContain('ovpn_');
  });

  test('headers that are too long are refused', async () => {
    expect((await ask('/healthz', { headers: { x: 'y'.repeat(9000) } })).status).toBe(431);
  });

  test('a request that does not come whole is cut off', async () => {
    const socket = connect(port, '127.0.0.1');
    socket.write('GET /healthz HTTP/1.1\r\n');
    socket.resume();
    const began = performance.now();
    await once(socket, 'close');
    expect(performance.now() - began).toBeLessThan(15_000);
  }, 20_000);

  test('a probe is answered while somebody else holds all the connections that there are', async () => {
    const held = Array.from({ length: 100 }, () =>
      connect({ port, host: '127.0.0.1', localAddress: '127.0.0.2' }).on('error', () => undefined),
    );
    await Promise.all(held.map((socket) => once(socket, 'connect').catch(() => undefined)));
    const probe = connect({ port, host: '127.0.0.1', localAddress: '127.0.0.1' });
    probe.write('GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    const chunks: Buffer[] = [];
    probe.on('data', (chunk: Buffer) => chunks.push(chunk));
    await once(probe, 'close');
    expect(Buffer.concat(chunks).toString()).toMatch(/^HTTP\/1\.1 200 /);
    // Not without a bound.
    const count = await new Promise((resolve) => server.getConnections((_, connections) => resolve(connections)));
    expect(count).toBeLessThanOrEqual(32);
    for (const socket of held) socket.destroy();
  });

  test('an address that is taken is an error that says what to do', async () => {
    const options = { metrics: testMetrics('agent'), log: silentLog, ready: () => readiness };
    await expect(startHealthServer({ host: '127.0.0.1', port, ...options })).rejects.toThrow(
      /option --health: cannot listen on 127\.0\.0\.1:\d+: .*EADDRINUSE.*OVPN405/,
    );
  });
});
