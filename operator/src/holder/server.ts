import { existsSync, mkdirSync, renameSync, rmSync, chmodSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, OvpnError } from '../errors.ts';
import { accept, close, recvWithFd, sendWithFd, setsockoptTimeout } from '../kernel/libc.ts';
import { connectSeqpacket, listenSeqpacket } from '../kernel/unix-socket.ts';
import { type HolderReply, type HolderRequest, listReply, maxHeld, maxPacketBytes, parseRequest } from './protocol.ts';

/**
 * The socket holder: keeps a duplicate of each transport socket, so that the kernel's peers outlive the
 * agent (they go with the last descriptor of their socket, drivers/net/ovpn/udp.c).
 *
 * It does nothing else, and blocks in accept(2) when there is nothing to do: no event loop, no timers, no
 * files. What happens when it dies: nothing, as long as the agent lives, because the agent has its own
 * descriptors and hands them over again; when both are gone, the kernel removes the peers.
 */
const clientTimeoutMs = 1_000;
const acceptPauseMs = 100;

/** What the loop needs besides the socket: something to say to a person. */
export type Report = (event: string, fields: Readonly<Record<string, unknown>>) => void;

/**
 * Serves until the process is killed.
 *
 * @throws OvpnError ConfigInvalid when another holder serves the path
 */
export function runHolder(path: string, report: Report): never {
  const listener = claim(path);
  report('holder-ready', { socket: path });
  const held = new Map<string, number>();
  const packet = Buffer.alloc(maxPacketBytes);
  for (;;) {
    let client: number | undefined;
    try {
      client = accept(listener);
      // A client that says nothing must not keep the others waiting.
      setsockoptTimeout(client, clientTimeoutMs);
      serveOne(client, packet, held, report);
    } catch (error) {
      report('holder-client-failed', { error: describe(error) });
      // A machine out of descriptors or memory: the sockets in hand are worth waiting for.
      if (client === undefined) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, acceptPauseMs);
    } finally {
      if (client !== undefined) close(client);
    }
  }
}

/** Listens under a temporary name and renames: the path always names a socket that answers. */
function claim(path: string): number {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  if (existsSync(path) && answers(path)) {
    throw new OvpnError('ConfigInvalid', 'another socket holder serves this path', { object: path });
  }
  const temporary = `${path}.${process.pid}`;
  rmSync(temporary, { force: true });
  const listener = listenSeqpacket(temporary);
  chmodSync(temporary, 0o600);
  renameSync(temporary, path);
  return listener;
}

function answers(path: string): boolean {
  try {
    close(connectSeqpacket(path, clientTimeoutMs));
    return true;
  } catch {
    return false;
  }
}

function serveOne(client: number, packet: Buffer, held: Map<string, number>, report: Report): void {
  const { length, passed } = recvWithFd(client, packet);
  const request = parseRequest(packet.subarray(0, length));
  let reply: HolderReply = { ok: false, error: 'not a request' };
  let handOver: number | undefined;
  let keep = false;
  if (request !== undefined) ({ reply, handOver, keep } = act(request, passed, held));
  if (passed !== undefined && !keep) close(passed);
  if (request !== undefined && request.op !== 'list')
    report(`holder-${request.op}`, { name: request.name, ok: reply.ok });
  sendWithFd(client, Buffer.from(JSON.stringify(reply)), handOver);
}

function act(
  request: HolderRequest,
  passed: number | undefined,
  held: Map<string, number>,
): { reply: HolderReply; handOver: number | undefined; keep: boolean } {
  const refuse = (error: string) => ({ reply: { ok: false, error } as const, handOver: undefined, keep: false });
  const accepted = { reply: { ok: true } as const, handOver: undefined, keep: false };
  if (request.op === 'list') {
    const { after } = request;
    const names = [...held.keys()].filter((name) => after === undefined || name > after).sort();
    return { ...accepted, reply: listReply(names) };
  }
  const present = held.get(request.name);
  switch (request.op) {
    case 'put':
      if (passed === undefined) return refuse('no descriptor attached');
      if (present === undefined && held.size >= maxHeld) return refuse(`holds ${maxHeld} sockets already`);
      held.set(request.name, passed);
      if (present !== undefined) close(present);
      return { ...accepted, keep: true };
    case 'get':
      return present === undefined ? refuse('no such socket') : { ...accepted, handOver: present };
    case 'drop':
      if (present !== undefined) close(present);
      held.delete(request.name);
      return accepted;
  }
}
