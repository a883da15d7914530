import { describe, expect, test } from '@jest/globals';
import { OvpnError } from '../../errors.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import { MemoryFile } from '../../kernel/memory-file.ts';
import { openSync } from 'node:fs';
import type { SessionState } from '../../openvpn/session/session-state.ts';
import type { Shelf } from '../sockets.ts';
import { SessionMemory, type SessionRecord, withKernelKeys, wrapFits, wrapRevision } from './session-memory.ts';

const duplicate = (fd: number): number => openSync(`/proc/self/fd/${fd}`, 'r+');

/** A holder's shelf in this process, with descriptors of its own. */
class FakeShelf implements Shelf {
  readonly held = new Map<string, number>();
  away = false;
  take(name: string): number | undefined {
    if (this.away) throw this.#problem;
    const fd = this.held.get(name);
    return fd === undefined ? undefined : duplicate(fd);
  }
  keep(name: string, fd: number): OvpnError | undefined {
    if (this.away) return this.#problem;
    this.held.set(name, duplicate(fd));
    return undefined;
  }
  drop(name: string): OvpnError | undefined {
    if (this.away) return this.#problem;
    this.held.delete(name);
    return undefined;
  }
  dropOthers(keep: ReadonlySet<string>): OvpnError | undefined {
    if (this.away) return this.#problem;
    for (const name of this.held.keys()) if (!keep.has(name)) this.held.delete(name);
    return undefined;
  }
  clear(): void {
    this.held.clear();
  }
  get names(): string[] {
    return [...this.held.keys()].sort();
  }
  get #problem(): OvpnError {
    return new OvpnError('HolderUnreachable', 'no answer');
  }
}

const session = {
  version: 1,
  role: 'server',
  keyId: 3,
  nextKeyId: 4,
  identity: { commonName: 'alice' },
  negotiated: { cipher: 'AES-256-GCM' },
  wrapper: { replay: { sent: 1, received: { id: 0, time: 0 }, window: '0'.repeat(16) } },
} as unknown as SessionState;

const record = (id: number, change: Partial<SessionRecord> = {}): SessionRecord => ({
  version: 1,
  peer: { kind: 'VpnPeer', namespace: 'team-a', name: `peer-${id}` },
  ifindex: 7,
  transport: 'tcp',
  path: { remote: { address: '192.0.2.1', port: 1000 }, local: undefined },
  socket: `client-${id}`,
  tlsVersion: 'TLSv1.3',
  since: 1,
  lastHandshake: 2,
  wrap: wrapRevision({ kind: 'none' }),
  credentials: 'a',
  session,
  ...change,
  id,
});

function opened(shelf: Shelf, log = recordingLog()): SessionMemory {
  const memory = new SessionMemory(shelf, log.log);
  memory.open();
  return memory;
}

const anyFile = (): number => MemoryFile.create('a socket').fd;

describe('what outlives the process', () => {
  test('waits for the next one, until it is taken up or given up', () => {
    const shelf = new FakeShelf();
    const first = opened(shelf);
    for (const id of [1, 2, 3]) {
      first.keepSocket(`client-${id}`, anyFile());
      first.save(`client/${id}`, record(id));
    }
    first.forget('client/3', 'client-3');
    expect([...first.waiting]).toEqual([]);
    first.close();
    expect(shelf.names).toEqual(['client-1', 'client-2', 'sessions']);

    const next = opened(shelf);
    next.open();
    expect([...next.waiting.keys()]).toEqual(['client/1', 'client/2']);
    expect(next.waiting.get('client/1')).toEqual(JSON.parse(JSON.stringify(record(1))));
    next.save('client/1', record(1));
    next.forget('client/2', 'client-2');
    expect([...next.waiting]).toEqual([]);
    expect([...opened(shelf).waiting.keys()]).toEqual(['client/1']);
    expect(shelf.names).toEqual(['client-1', 'sessions']);
  });

  test('is not mistaken for nothing while the holder is away', () => {
    const shelf = new FakeShelf();
    opened(shelf).save('client/1', record(1));
    const memory = new SessionMemory(shelf, recordingLog().log);
    shelf.away = true;
    expect(() => memory.open()).toThrow(expect.objectContaining({ name: 'HolderUnreachable' }));
    shelf.away = false;
    memory.open();
    expect([...memory.waiting.keys()]).toEqual(['client/1']);
  });

  test('of another version, or of none, is left out', () => {
    const shelf = new FakeShelf();
    const first = opened(shelf);
    first.save('old', { ...record(1), version: 2 as 1 });
    first.save('odd', { ...record(1), path: 7 as never });
    first.save('bare', { ...record(1), session: {} as SessionState });
    first.save('good', record(1));
    expect([...opened(shelf).waiting.keys()]).toEqual(['good']);
  });

  test('loses sockets that belong to no session, also when the holder is back later only', () => {
    const shelf = new FakeShelf();
    const first = opened(shelf);
    for (const id of [1, 2, 3, 4]) first.keepSocket(`client-${id}`, anyFile());
    first.save('client/1', record(1));
    const next = opened(shelf);
    next.keepSocket('client-9', anyFile());
    expect(next.takeSocket('client-2')).toEqual(expect.any(Number));
    shelf.away = true;
    next.dropLeftovers();
    shelf.away = false;
    next.dropLeftovers();
    expect(shelf.names).toEqual(['client-1', 'client-2', 'client-9', 'sessions']);
    // Once is enough, unless the holder was away when a session ended.
    shelf.keep('stranger', anyFile());
    next.dropLeftovers();
    expect(shelf.names).toContain('stranger');
    shelf.away = true;
    next.dropSocket('client-9');
    shelf.away = false;
    next.dropLeftovers();
    expect(shelf.names).toEqual(['client-1', 'client-2', 'sessions']);
  });

  test('says which connection the holder has not taken', () => {
    const shelf = new FakeShelf();
    const log = recordingLog();
    const memory = opened(shelf, log);
    shelf.away = true;
    memory.keepSocket('client-1', anyFile());
    expect(log.lines).toMatchObject([{ event: 'session.not-held', socket: 'client-1', level: 'warn' }]);
  });
});

describe('a state', () => {
  const slot = (keyId: number) => ({ keyId, cipher: 'AES-GCM' as const });

  test.each([
    ['knows all', { primary: slot(3), secondary: slot(2) }, 3, 4],
    ['is one key behind', { primary: slot(3), secondary: slot(4) }, 4, 5],
    ['is one key behind, which sends already', { primary: slot(4), secondary: slot(3) }, 4, 5],
    ['has seen the renegotiation begin', { primary: slot(2), secondary: slot(3) }, 3, 4, { keyId: 2 }],
    ['has seen one begin that brought no key', { primary: slot(2), secondary: slot(1) }, 2, 4, { keyId: 2 }],
    ['meets empty slots', { primary: undefined, secondary: undefined }, 3, 4],
  ] as const)('%s', (...[, slots, keyId, nextKeyId, change = {}]) => {
    const state = { ...session, ...change };
    // Of the key that the state knows nothing of, nothing was said to the other end perhaps.
    const unconfirmed = keyId === state.keyId ? {} : { unconfirmed: true };
    expect(withKernelKeys(state, slots)).toEqual({ ...state, keyId, nextKeyId, ...unconfirmed });
  });

  test('counts keys from 1 again after 7', () => {
    const behind = { ...session, keyId: 6, nextKeyId: 7 };
    expect(withKernelKeys(behind, { primary: slot(6), secondary: slot(7) })).toMatchObject({ keyId: 7, nextKeyId: 1 });
  });

  test('fits its own wrapping, and any with a key of its own', () => {
    const key = new Uint8Array(256);
    const other = new Uint8Array(256).fill(1);
    const serverKey = new Uint8Array(128);
    const plain = record(1, { wrap: wrapRevision({ kind: 'tls-crypt', key }) });
    expect(wrapFits(plain, { kind: 'tls-crypt', key: new Uint8Array(256) })).toBe(true);
    expect(wrapFits(plain, { kind: 'tls-crypt', key: other })).toBe(false);
    expect(wrapFits(plain, { kind: 'none' })).toBe(false);
    const v2 = record(1, { wrap: wrapRevision({ kind: 'tls-crypt-v2-server', serverKey }) });
    expect(wrapFits(v2, { kind: 'tls-crypt-v2-server', serverKey: serverKey.map(() => 7) })).toBe(true);
    expect(wrapFits(v2, { kind: 'tls-crypt', key })).toBe(false);
    const { replay } = session.wrapper;
    const dynamic = { ...session, wrapper: { replay, dynamic: { key: '', replay } } };
    expect(wrapFits({ ...plain, session: dynamic }, { kind: 'tls-crypt', key: other })).toBe(true);
  });
});
