import { afterAll, afterEach, describe, expect, test } from '@jest/globals';
import { createSocket, type Socket } from 'node:dgram';
import { closeSync, openSync } from 'node:fs';
import { recordingLog } from '../../cluster/testing/log.ts';
import { ReadinessPoller } from '../../kernel/poller.ts';
import { openUdpSocket } from '../../kernel/transport-socket.ts';
import type { SessionState } from '../../openvpn/session/session-state.ts';
import { testPki } from '../../openvpn/tls/pki.fixture.ts';
import { parsePacket } from '../../openvpn/wire/packet.ts';
import type { Shelf } from '../sockets.ts';
import type { DesiredDialIn } from './desired-session.ts';
import { firstSessionId } from './live-peers.ts';
import { NetworkServer } from './network-server.ts';
import { SessionMemory, type SessionRecord, wrapRevision } from './session-memory.ts';
import {
  claimantNamed,
  FakeLiveKernel,
  FakeScheduler,
  freshKeys,
  livePeers,
  noNames,
  refOfPeer,
  serverSettings,
} from './sessions.fixture.ts';

/** Clients whose sessions another process began. */
const pki = testPki();
const certificate = pki.issue('gateway', { usage: 'serverAuth' });
afterAll(() => pki.remove());

const desired = serverSettings(
  { ca: pki.ca, ...certificate },
  { rekey: { seconds: 0, bytes: 0, packets: 0, transitionMs: 30_000 } },
);

const alice: DesiredDialIn = {
  kind: 'dial-in',
  ref: refOfPeer('alice'),
  claimant: claimantNamed('alice'),
  identity: { commonName: 'alice' },
  vpnIpv4: '10.80.0.10',
  vpnIpv6: undefined,
  keepalive: { interval: 10, timeout: 60 },
  routes: [{ destination: '192.168.7.0/24', gateway: '10.80.0.10' }],
};

const id = firstSessionId + 4;
const state: SessionState = {
  version: 1,
  role: 'server',
  sessionId: '11'.repeat(8),
  peerSessionId: '22'.repeat(8),
  keyId: 2,
  nextKeyId: 3,
  identity: {
    ...{ commonName: 'alice', subject: 'CN=alice', subjectAltNames: [], fingerprint: '', serialNumber: '1' },
    ...{ notAfter: Infinity, extendedKeyUsage: [] },
  },
  negotiated: { cipher: 'AES-256-GCM', peerId: id, exitMessage: true, dynamicTlsCrypt: false, push: {} } as never,
  wrapper: { replay: { sent: 0, received: { id: 0, time: 0 }, window: '0'.repeat(16) } },
};

const record: SessionRecord = {
  version: 1,
  peer: alice.ref,
  ifindex: 7,
  id,
  transport: 'udp',
  path: { remote: { address: '198.51.100.1', port: 1 }, local: '127.0.0.1' },
  listener: 'udp',
  tlsVersion: 'TLSv1.3',
  since: 1_000,
  lastHandshake: 2_000,
  wrap: wrapRevision(desired.wrap),
  credentials: '',
  session: state,
};

/** The holder. */
function shelf(): Shelf & { names(): string[] } {
  const held = new Map<string, number>();
  const duplicate = (fd: number): number => openSync(`/proc/self/fd/${fd}`, 'r+');
  return {
    take: (name) => (held.has(name) ? duplicate(held.get(name) ?? -1) : undefined),
    keep: (name, fd) => void held.set(name, duplicate(fd)),
    drop: (name) => void held.delete(name),
    dropOthers: (keep) => {
      for (const name of held.keys()) if (!keep.has(name)) held.delete(name);
      return undefined;
    },
    clear: () => held.clear(),
    names: () => [...held.keys()],
  };
}

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** What the process before left: the kernel's peer with its keys, and the holder's file. */
class Legacy {
  readonly kernel = new FakeLiveKernel();
  readonly shelf = shelf();
  readonly log = recordingLog();
  /** Where the client is by now, and what it gets. */
  readonly client: Socket = createSocket('udp4');
  readonly packets: Buffer[] = [];

  static async make(records: readonly SessionRecord[] = [record], keys: readonly number[] = [2]): Promise<Legacy> {
    const legacy = new Legacy();
    legacy.client.on('message', (packet) => legacy.packets.push(packet));
    await new Promise<void>((resolve) => legacy.client.bind(0, '127.0.0.1', resolve));
    cleanups.push(() => legacy.client.close());
    const memory = new SessionMemory(legacy.shelf, legacy.log.log);
    memory.open();
    for (const each of records) memory.save(`client/${each.id}`, each);
    memory.close();
    const live = livePeers(() => legacy.kernel);
    const [first = 0, second] = keys;
    const key = (keyId: number) => ({ keyId, cipher: 'AES-256-GCM' as const, keys: freshKeys() });
    const settings = { id, socket: 5, remote: { address: '127.0.0.1', port: legacy.client.address().port } };
    const peer = live.create(
      { ref: alice.ref, ifindex: 7, settings: { ...settings, vpnIpv4: '10.80.0.10' }, routes: [] },
      key(first),
    );
    if (second !== undefined) live.addKey(peer, key(second));
    legacy.kernel.takeCalls();
    return legacy;
  }

  /** The next process. */
  start() {
    const clock = new FakeScheduler();
    const poller = new ReadinessPoller();
    const fd = openUdpSocket({ address: '127.0.0.1', port: 0 });
    const live = livePeers(() => this.kernel);
    const memory = new SessionMemory(this.shelf, this.log.log);
    memory.open();
    const server = new NetworkServer({
      ...{ network: 'corp', live, memory, device: () => 7, poller, scheduler: clock, log: this.log.log },
      names: noNames,
      clock: () => clock.now(),
      changed: () => undefined,
    });
    let open = true;
    const close = async (): Promise<void> => {
      if (!open) return;
      open = false;
      server.close();
      memory.close();
      await poller.close();
      closeSync(fd);
    };
    cleanups.push(close);
    const listener = { name: 'udp', transport: 'udp' as const, fd, at: '127.0.0.1' };
    const look = (): ReadonlySet<number> => server.reconcile(this.kernel.observed(7), () => undefined);
    return { clock, server, live, memory, close, look, configure: () => server.configure(desired, [listener]) };
  }

  /** The client's first packet of this sort. */
  async heard(): Promise<ReturnType<typeof parsePacket>> {
    for (let i = 0; i < 200 && this.packets.length === 0; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    return parsePacket(this.packets[0]!);
  }
}

describe('a session of an earlier process', () => {
  test('goes on: the kernel is left alone, status says since when, and keys are agreed on soon', async () => {
    const legacy = await Legacy.make();
    const { server, clock, look, configure, live } = legacy.start();
    configure();
    server.setPeer(alice.ref, alice);
    expect(server.facts(alice.ref)).toBeUndefined();
    expect([...look()]).toEqual([id]);
    const { port } = legacy.client.address();
    expect(server.facts(alice.ref)).toMatchObject({
      ...{ state: 'Connected', since: 1_000, lastHandshake: 2_000, tlsVersion: 'TLSv1.3', cipher: 'AES-256-GCM' },
      ...{ endpoint: `127.0.0.1:${port}`, addresses: ['10.80.0.10'] },
    });
    expect(server.livePeer(alice.ref)).toMatchObject({ id });
    expect(live.freeId(7)).toBe(id + 1);
    expect(legacy.kernel.takeCalls().filter((call) => !call.includes('route'))).toEqual([]);
    clock.advance(5_000);
    clock.advance(1);
    clock.advance(1);
    expect(await legacy.heard()).toMatchObject({ opcode: 'soft-reset-v1', keyId: 3 });
  });

  test('is dropped when the kernel has no such peer, and nothing is made of it', async () => {
    const legacy = await Legacy.make();
    legacy.kernel.peers.clear();
    const { server, look, configure, memory } = legacy.start();
    configure();
    server.setPeer(alice.ref, alice);
    look();
    expect(server.facts(alice.ref)).toMatchObject({ state: 'WaitingForClient' });
    expect(memory.waiting.size).toBe(0);
    expect(legacy.kernel.takeCalls()).toEqual([]);
  });

  test('goes on from the keys that the kernel has', async () => {
    const legacy = await Legacy.make([record], [2, 3]);
    const { server, clock, look, configure } = legacy.start();
    configure();
    server.setPeer(alice.ref, alice);
    look();
    expect(legacy.kernel.slots(7, id)).toBe('2/3');
    clock.advance(5_000);
    clock.advance(1);
    clock.advance(1);
    expect(await legacy.heard()).toMatchObject({ opcode: 'soft-reset-v1', keyId: 4 });
  });

  test('waits while there are no settings, and goes on when they are there', async () => {
    const legacy = await Legacy.make();
    const { server, look, configure } = legacy.start();
    server.setPeer(alice.ref, alice);
    expect([...look()]).toEqual([id]);
    expect(server.facts(alice.ref)).toMatchObject({ state: 'Connected', cipher: undefined });
    configure();
    look();
    expect(server.facts(alice.ref)).toMatchObject({ state: 'Connected', cipher: 'AES-256-GCM', since: 1_000 });
    expect(legacy.kernel.peers.size).toBe(1);
  });

  test('ends in the kernel when its certificate is not what the VpnPeer names now', async () => {
    const legacy = await Legacy.make();
    const { server, look, configure, memory } = legacy.start();
    configure();
    server.setPeer(alice.ref, { ...alice, identity: { commonName: 'somebody else' } });
    expect([...look()]).toEqual([]);
    expect(legacy.kernel.peers.size).toBe(0);
    expect(memory.waiting.size).toBe(0);
    expect(server.facts(alice.ref)).toMatchObject({ state: 'WaitingForClient' });
  });

  test.each([
    ['the wrapping has changed', { wrap: 'another' }],
    ['its listener is gone', { listener: 'spare' }],
    ['its state is none', { session: { ...state, sessionId: 'none' } }],
    ['the holder has lost its connection', { transport: 'tcp' as const, socket: 'client-1' }],
  ])('leaves its data to go on when %s', async (_, change) => {
    const legacy = await Legacy.make([{ ...record, ...change }]);
    const { server, look, configure, memory } = legacy.start();
    configure();
    server.setPeer(alice.ref, alice);
    expect([...look()]).toEqual([id]);
    expect(server.facts(alice.ref)).toMatchObject({ state: 'Connected', cipher: undefined });
    expect(memory.waiting.size).toBe(0);
    expect(legacy.log.events()).toContain('session.not-resumed');
  });

  test('outlives the next process, too, and not its own end', async () => {
    const legacy = await Legacy.make();
    for (let i = 0; i < 2; i++) {
      const { server, look, configure, close } = legacy.start();
      configure();
      server.setPeer(alice.ref, alice);
      look();
      expect(server.facts(alice.ref)).toMatchObject({ since: 1_000 });
      await close();
      expect(legacy.kernel.peers.size).toBe(1);
    }
    const { server, look, configure } = legacy.start();
    configure();
    server.setPeer(alice.ref, alice);
    look();
    server.setPeer(alice.ref, undefined);
    expect(legacy.kernel.peers.size).toBe(0);
    const last = legacy.start();
    expect(last.memory.waiting.size).toBe(0);
  });
});
