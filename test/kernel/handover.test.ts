import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  accept,
  AF_UNIX,
  bind,
  close,
  connect,
  listen,
  pollReadable,
  recvWithFd,
  sendWithFd,
  SOCK_SEQPACKET,
  socket,
} from '../../operator/src/kernel/libc.ts';
import { Scene } from './support.ts';

let scene: Scene;
let folder: string;
beforeEach(() => {
  scene = new Scene();
  folder = mkdtempSync(join(tmpdir(), 'handover-'));
});
afterEach(async () => {
  await scene.close();
  rmSync(folder, { recursive: true });
});

function unixAddress(path: string): Buffer {
  return Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]);
}
function listenAt(path: string): number {
  const fd = scene.ownFd(socket(AF_UNIX, SOCK_SEQPACKET, 0));
  bind(fd, unixAddress(path));
  listen(fd, 1);
  return fd;
}

describe('a transport socket handed to another process', () => {
  test("keeps its peers after the process that made them is gone, and until the new owner's is closed", async () => {
    const ns = scene.namespace();
    const device = ns.device('mp');
    const listener = scene.listen(ns);
    const path = join(folder, 'hand.sock');
    const server = listenAt(path);
    // The first owner: makes the socket and the peer, hands the socket over and is killed.
    const owner = fork(join(import.meta.dirname, 'handover-owner.ts'), [ns.path, `${device}`, path], {
      execArgv: ['--no-warnings'],
      stdio: 'inherit',
    });
    const exited = once(owner, 'exit');
    expect(pollReadable([server], 20_000)).toStrictEqual([server]);
    const client = accept(server);
    const data = Buffer.alloc(64);
    const { length, passed } = recvWithFd(client, data);
    expect(data.toString('utf8', 0, length)).toBe('here it is');
    close(client);
    const kept = scene.ownFd(passed!);
    owner.kill('SIGKILL');
    await exited;
    expect(ns.ovpn.getPeer(device, 5)).toMatchObject({ id: 5, vpnIpv4: '10.80.0.2' });
    // The socket is as good as our own: another peer may use it.
    ns.ovpn.send(
      ns.ovpn.requests.peerNew(device, {
        id: 6,
        socket: kept,
        remote: { address: '127.0.0.1', port: 1195 },
        vpnIpv4: '10.80.0.3',
      }),
    );
    expect(listener.seen).toStrictEqual([]);
    scene.closeFd(kept);
    await listener.wait(({ peerId }) => peerId === 5);
    await listener.wait(({ peerId }) => peerId === 6);
    expect(ns.ovpn.dumpPeers(device)).toStrictEqual([]);
  });
});

describe('descriptors over a unix socket', () => {
  const connection = (): { readonly from: number; readonly to: number } => {
    const path = join(folder, 'fd.sock');
    const server = listenAt(path);
    const from = scene.ownFd(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    connect(from, unixAddress(path));
    return { from, to: scene.ownFd(accept(server)) };
  };

  test('arrive as new descriptors of the same socket, one per message; a message may have none', () => {
    const ns = scene.namespace();
    const { fd } = scene.udp(ns);
    const { from, to } = connection();
    sendWithFd(from, Buffer.from('one'), fd);
    sendWithFd(from, Buffer.from('two'), undefined);
    const data = Buffer.alloc(16);
    const first = recvWithFd(to, data);
    expect(first.length).toBe(3);
    expect(first.passed).not.toBe(fd);
    close(first.passed!);
    expect(recvWithFd(to, data)).toStrictEqual({ length: 3, passed: undefined });
    expect(pollReadable([to], 50)).toStrictEqual([]);
    close(from);
    expect(pollReadable([to], 1000)).toStrictEqual([to]);
    expect(recvWithFd(to, data)).toStrictEqual({ length: 0, passed: undefined });
    // `from` is closed already: take its number out of the clean-up by opening it again.
    scene.ownFd(from);
    expect(socket(AF_UNIX, SOCK_SEQPACKET, 0)).toBe(from);
  });

  test('leak nothing in a thousand messages', () => {
    const ns = scene.namespace();
    const { fd } = scene.udp(ns);
    const { from, to } = connection();
    const before = readdirSync('/proc/self/fd').length;
    const data = Buffer.alloc(16);
    for (let i = 0; i < 1000; i++) {
      sendWithFd(from, Buffer.from(`message ${i}`), fd);
      close(recvWithFd(to, data).passed!);
    }
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });

  test('two in one message do not leave one open that nobody knows of', async () => {
    const path = join(folder, 'two.sock');
    const server = listenAt(path);
    const sender = spawn(
      'python3',
      [
        '-c',
        `import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(${JSON.stringify(path)}); socket.send_fds(s, [b'two'], [0, 1])`,
      ],
      { stdio: 'ignore' },
    );
    await once(sender, 'exit');
    const to = scene.ownFd(accept(server));
    const before = readdirSync('/proc/self/fd').length;
    const { length, passed } = recvWithFd(to, Buffer.alloc(16));
    expect(length).toBe(3);
    close(passed!);
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });

  test('a closed far end is an error, not a signal', () => {
    const { from, to } = connection();
    close(to);
    expect(() => {
      sendWithFd(from, Buffer.from('x'), undefined);
    }).toThrow(expect.objectContaining({ code: 'EPIPE' }));
    expect(socket(AF_UNIX, SOCK_SEQPACKET, 0)).toBe(to);
  });
});
