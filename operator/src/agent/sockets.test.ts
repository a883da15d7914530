import { afterEach, describe, expect, test } from '@jest/globals';
import { closeSync } from 'node:fs';
import { connect } from 'node:net';
import { OvpnError } from '../errors.ts';
import type { SocketKeeper } from '../holder/client.ts';
import { boundAddress, openTcpListener, openUdpSocket } from '../kernel/transport-socket.ts';
import { TransportSockets } from './sockets.ts';

/** Listeners over TCP, beside those over UDP; what holds for both is tested in small-parts.test.ts. */

const open = new Set<() => void>();
afterEach(() => {
  for (const close of open) close();
  open.clear();
});

function sockets() {
  const held = new Map<string, number>();
  const keeper: SocketKeeper = {
    put: (name, fd) => void held.set(name, fd),
    get: (name) => held.get(name),
    drop: (name) => void held.delete(name),
    list: () => [...held.keys()],
  };
  const closing: number[] = [];
  const all = new TransportSockets(keeper, (fd) => closing.push(fd));
  open.add(() => all.close());
  return { all, held, closing };
}

/** A port that is free for both protocols. */
function freePort(): number {
  const fd = openTcpListener({ address: '127.0.0.1', port: 0 });
  const { port } = boundAddress(fd);
  closeSync(fd);
  return port;
}

async function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const stream = connect(port, '127.0.0.1');
    stream.on('connect', () => resolve(true)).on('error', () => resolve(false));
    open.add(() => stream.destroy());
  });
}

describe('a listener over TCP', () => {
  test('may have the port, and the name, of one over UDP', async () => {
    const { all, held } = sockets();
    const port = freePort();
    const at = { name: 'vpn', address: '127.0.0.1', port };
    const tcp = all.ensure('corp', { ...at, protocol: 'TCP' });
    const udp = all.ensure('corp', { ...at, protocol: 'UDP' });
    expect(tcp).not.toBe(udp);
    expect(await accepts(port)).toBe(true);
    expect([...held].sort()).toEqual([
      ['corp/vpn', udp],
      ['corp/vpn.tcp', tcp],
    ]);
    expect(all.ensure('corp', { ...at, protocol: 'TCP' })).toBe(tcp);
    expect(all.ensure('corp', { ...at, protocol: 'UDP' })).toBe(udp);
  });

  test('that changes its protocol leaves its old socket to be released', async () => {
    const { all, held, closing } = sockets();
    const at = { name: 'vpn', address: '127.0.0.1', port: freePort() };
    const tcp = all.ensure('corp', { ...at, protocol: 'TCP' });
    all.ensure('corp', { ...at, protocol: 'UDP' });
    all.release('corp', new Set(['vpn']));
    expect([...held.keys()]).toEqual(['corp/vpn']);
    expect(closing).toEqual([tcp]);
    expect(await accepts(at.port)).toBe(false);
  });

  test('moves to another port; whoever waits for the old descriptor is told before it is closed', async () => {
    const { all, held, closing } = sockets();
    const [before, after] = [freePort(), freePort()];
    const at = { name: 'vpn', address: '127.0.0.1', protocol: 'TCP' as const };
    const old = all.ensure('corp', { ...at, port: before });
    const fd = all.ensure('corp', { ...at, port: after });
    expect([closing, held.get('corp/vpn.tcp')]).toEqual([[old], fd]);
    expect([await accepts(before), await accepts(after)]).toEqual([false, true]);
  });

  test('moves to another address on its port, for which the old socket has to go first', async () => {
    const { all, closing } = sockets();
    const at = { name: 'vpn', port: freePort(), protocol: 'TCP' as const };
    const old = all.ensure('corp', { ...at, address: '127.0.0.1' });
    const fd = all.ensure('corp', { ...at, address: '0.0.0.0' });
    expect(closing).toEqual([old]);
    expect(boundAddress(fd)).toMatchObject({ address: '0.0.0.0', port: at.port });
    expect(await accepts(at.port)).toBe(true);
  });

  test('says what is in its way', () => {
    const { all } = sockets();
    const taken = openTcpListener({ address: '127.0.0.1', port: 0 });
    open.add(() => closeSync(taken));
    const { port } = boundAddress(taken);
    let problem: unknown;
    try {
      all.ensure('corp', { name: 'vpn', address: '127.0.0.1', port, protocol: 'TCP' });
    } catch (error) {
      problem = error;
    }
    expect(problem).toBeInstanceOf(OvpnError);
    expect(problem).toMatchObject({ name: 'KernelRefused', where: { field: 'spec.listeners[vpn]' } });
    expect((problem as OvpnError).message).toContain(`cannot listen on TCP 127.0.0.1:${port}`);
    // The same port over UDP is another matter.
    const udp = openUdpSocket({ address: '127.0.0.1', port });
    closeSync(udp);
  });
});
