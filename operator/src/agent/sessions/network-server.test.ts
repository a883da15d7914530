import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { closeSync } from 'node:fs';
import { createSocket } from 'node:dgram';
import { formatRef } from '../../api/types.ts';
import { firstMeshPeerId } from '../../api/vpn-peer.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import type { DeleteReason } from '../../kernel/ovpn/uapi.ts';
import { ReadinessPoller } from '../../kernel/poller.ts';
import { boundAddress, formatEndpoint, openUdpSocket } from '../../kernel/transport-socket.ts';
import type { Path } from '../../openvpn/endpoint/path.ts';
import type { ServedClient } from '../../openvpn/endpoint/server-settings.ts';
import type { Offer } from '../../openvpn/session/server-session.ts';
import type { AuthenticatedClient, Established } from '../../openvpn/session/session-event.ts';
import type { PeerIdentity } from '../../openvpn/tls/peer-identity.ts';
import { testPki } from '../../openvpn/tls/pki.fixture.ts';
import { netmask } from '../../openvpn/negotiate/address.ts';
import type { DesiredDialIn, DesiredServer } from './desired-session.ts';
import { firstSessionId, type LivePeers } from './live-peers.ts';
import type { OpenListener } from './listener-sockets.ts';
import { introduction, nodeRef } from './neighbour.ts';
import { NetworkServer } from './network-server.ts';
import { SessionMemory } from './session-memory.ts';
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

const pki = testPki();
const certificate = pki.issue('gateway', { usage: 'serverAuth' });
const renewed = pki.issue('renewed', { usage: 'serverAuth' });
afterAll(() => pki.remove());

const desired = serverSettings(
  { ca: pki.ca, ...certificate },
  { rekey: { seconds: 3600, bytes: 0, packets: 100, transitionMs: 30_000 } },
);

function dialIn(name: string, change: Partial<DesiredDialIn> = {}): DesiredDialIn {
  return {
    kind: 'dial-in',
    ref: refOfPeer(name),
    claimant: claimantNamed(name),
    identity: { commonName: name },
    vpnIpv4: name === 'alice' ? '10.80.0.10' : '10.80.0.11',
    vpnIpv6: undefined,
    keepalive: { interval: 10, timeout: 60 },
    routes: [],
    ...change,
  };
}
const lan = (destination: string, gateway = '10.80.0.10') => ({ destination, gateway });

let ports = 40_000;

/** A client as the endpoint shows it to its owner; what is done to it is noted. */
class FakeClient implements ServedClient {
  renegotiating = false;
  pause(): void {
    // Renegotiates only when it is told to.
  }
  readonly listener = 'udp';
  readonly transport = 'udp';
  readonly identity: PeerIdentity;
  readonly done: string[] = [];
  /** Lines of peer-info. */
  says: Readonly<Record<string, string>> = {};
  path: Path;
  keyId = 0;
  offer: Offer | undefined;
  /** TCP may have to wait for the end of a packet. */
  waits = false;
  busy = false;
  take: (() => boolean) | undefined;

  constructor(commonName: string, address = '198.51.100.10') {
    this.path = { remote: { address, port: ports++ }, local: '192.0.2.1' };
    this.identity = {
      ...{ commonName, subject: `CN=${commonName}`, subjectAltNames: [], fingerprint: '', serialNumber: '1' },
      ...{ notAfter: Infinity, extendedKeyUsage: [] },
    };
  }

  accept(offer: Offer): boolean {
    this.offer = offer;
    this.done.push('accept');
    return true;
  }
  refuse(reason: string, options: { readonly temporary?: boolean } = {}): void {
    this.done.push(`refuse${options.temporary === true ? ' for now' : ''}: ${reason}`);
  }
  confirm(): void {
    this.done.push('confirm');
  }
  rekey(): boolean {
    if (!this.busy) this.done.push('rekey');
    return !this.busy;
  }
  restart(reason: string): void {
    this.done.push(`restart: ${reason}`);
  }
  halt(reason: string): void {
    this.done.push(`halt: ${reason}`);
  }
  close(): void {
    this.done.push('close');
  }
  moved(remote: Path['remote']): void {
    this.path = { ...this.path, remote };
    this.done.push('moved');
  }
  handOver(take: () => boolean): void {
    if (this.waits) this.take = take;
    else take();
  }
  exportState(): undefined {
    return undefined;
  }
  get last(): string | undefined {
    return this.done.at(-1);
  }
}

class Gateway {
  readonly kernel = new FakeLiveKernel();
  readonly clock = new FakeScheduler();
  readonly log = recordingLog();
  readonly live: LivePeers = livePeers(() => this.kernel);
  readonly changed: string[] = [];
  readonly poller = new ReadinessPoller();
  readonly fds = new Set<number>();
  index: number | undefined = 7;
  readonly server: NetworkServer;

  constructor() {
    const shelf = {
      take: () => undefined,
      keep: () => undefined,
      drop: () => undefined,
      dropOthers: () => undefined,
      clear: () => undefined,
    };
    this.server = new NetworkServer({
      network: 'corp',
      live: this.live,
      memory: new SessionMemory(shelf, this.log.log),
      device: () => this.index,
      poller: this.poller,
      scheduler: this.clock,
      names: noNames,
      clock: () => this.clock.now(),
      log: this.log.log,
      changed: (ref) => this.changed.push(ref.name),
    });
  }

  udp(address = '127.0.0.1', port = 0): OpenListener {
    const fd = openUdpSocket({ address, port });
    this.fds.add(fd);
    return { name: 'udp', transport: 'udp', fd, at: formatEndpoint(boundAddress(fd)) };
  }

  closeFd(fd: number): void {
    this.fds.delete(fd);
    this.poller.remove(fd);
    closeSync(fd);
  }

  /** Serving, with these peers, and the kernel looked at. */
  serve(...peers: readonly DesiredDialIn[]): this {
    this.server.configure(desired, [this.udp()]);
    for (const peer of peers) this.server.setPeer(peer.ref, peer);
    this.look();
    return this;
  }

  look(observed = this.index === undefined ? new Map<number, never>() : this.kernel.observed(this.index)) {
    return this.server.reconcile(observed, () => undefined);
  }

  authenticate(client: FakeClient, foreignFraming: readonly string[] = []): FakeClient {
    const { identity } = client;
    this.server.authenticated(client, {
      identity,
      cipher: 'AES-256-GCM',
      username: '',
      foreignFraming,
      peerInfo: { values: new Map(Object.entries(client.says)) },
    } as unknown as AuthenticatedClient);
    return client;
  }

  establish(client: FakeClient): FakeClient {
    const established = {
      ...{ keyId: 0, keys: freshKeys(), cipher: 'AES-256-GCM', peerId: client.offer?.peerId },
      ...{ tlsVersion: 'TLSv1.3', identity: client.identity },
    };
    this.server.established(client, established as unknown as Established);
    return client;
  }

  connect(name: string, address?: string): FakeClient {
    return this.establish(this.authenticate(new FakeClient(name, address)));
  }

  facts(name: string) {
    return this.server.facts(refOfPeer(name));
  }

  /** The kernel deleted a client's peer and says so. */
  lose(client: FakeClient, reason: DeleteReason): void {
    const peerId = client.offer?.peerId ?? 0;
    this.kernel.peers.delete(`7/${peerId}`);
    this.server.notified({ kind: 'peer-deleted', ifindex: 7, peerId, reason });
  }

  /** What is left of all clients. */
  get left(): object {
    const { kernel, live } = this;
    return { peers: kernel.peers.size, routes: kernel.routes.size, live: live.size, timer: this.clock.pending };
  }

  async close(): Promise<void> {
    this.server.close();
    await this.poller.close();
    for (const fd of this.fds) closeSync(fd);
  }
}
const nothing = { peers: 0, routes: 0, live: 0, timer: undefined };

let gateway: Gateway;
beforeAll(() => void netmask(24));
const gateways: Gateway[] = [];
function open(...peers: readonly DesiredDialIn[]): Gateway {
  gateway = new Gateway().serve(...peers);
  gateways.push(gateway);
  return gateway;
}
/** Has the kernel hold alice without a session: what a process before this one left. */
function leaveAlice(kernel: FakeLiveKernel): void {
  livePeers(() => kernel).create(
    {
      ...{ ref: refOfPeer('alice'), ifindex: 7, routes: [] },
      settings: {
        ...{ id: 0x800005, socket: 5, remote: { address: '198.51.100.10', port: 1 } },
        ...{ vpnIpv4: '10.80.0.10', vpnIpv6: undefined },
      },
    },
    { keyId: 0, cipher: 'AES-256-GCM', keys: freshKeys() },
  );
}
afterEach(async () => {
  for (const one of gateways.splice(0)) await one.close();
});

describe('a client', () => {
  test('is offered its address, has its peer in the kernel before it may begin, and is known as connected', () => {
    const { server, kernel } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
    expect(gateway.facts('alice')).toMatchObject({ state: 'WaitingForClient' });
    const client = gateway.authenticate(new FakeClient('alice'));
    expect(client.offer).toMatchObject({ peerId: firstSessionId, ifconfig: { address: '10.80.0.10' } });
    expect(gateway.facts('alice')).toMatchObject({ state: 'Connecting' });
    expect(kernel.peers.size).toBe(0);
    gateway.establish(client);
    expect(client.done).toEqual(['accept', 'confirm']);
    const [peer] = [...kernel.observed(7).values()];
    // Twice the time that the client has been told.
    expect(peer).toMatchObject({ remote: client.path.remote, keepalive: { interval: 10, timeout: 120 } });
    expect([...kernel.routes]).toEqual([expect.stringContaining('192.168.7.0/24')]);
    expect(server.livePeer(refOfPeer('alice'))?.id).toBe(firstSessionId);
    expect(gateway.facts('alice')).toMatchObject({
      state: 'Connected',
      addresses: ['10.80.0.10'],
      cipher: 'AES-256-GCM',
    });
    server.ended(client, { cause: 'exit', reason: 'the client left' });
    expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected', message: 'the client left' });
    expect(gateway.left).toEqual(nothing);
  });

  describe('that begins anew from its address', () => {
    const anew = (first: FakeClient, name = 'alice'): FakeClient => {
      const next = new FakeClient(name);
      next.path = first.path;
      gateway.server.ended(first, {
        cause: 'replaced-path',
        reason: 'the client connected anew from the same address',
      });
      return next;
    };
    /** One that has had a second key. */
    const renewed = (name = 'alice'): FakeClient => {
      const client = gateway.connect(name);
      gateway.server.rekeyed(client, 1, freshKeys(), false);
      gateway.server.keyConfirmed(client);
      gateway.clock.advance(30_000);
      expect(gateway.kernel.slots(7, client.offer?.peerId ?? 0)).toBe('1/0');
      return client;
    };

    test('goes on with its peer, which receives with the key before, too, and soon sends with the new one', () => {
      const { server, kernel } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
      const first = renewed();
      const peerId = first.offer?.peerId ?? 0;
      kernel.takeCalls();
      const second = gateway.authenticate(anew(first));
      expect(second.offer?.peerId).toBe(peerId);
      expect(kernel.slots(7, peerId)).toBe('1/0');
      expect(gateway.facts('alice')).toMatchObject({ state: 'Connected' });
      gateway.establish(second);
      expect(kernel.slots(7, peerId)).toBe('1/0');
      gateway.clock.advance(1_000);
      expect(kernel.slots(7, peerId)).toBe('0/1');
      expect(kernel.takeCalls().filter((call) => call.startsWith('PEER'))).toEqual([]);
      expect([kernel.peers.size, kernel.routes.size]).toEqual([1, 1]);
      expect(second.last).toBe('confirm');
      // It may send with the old key for a minute; after that nobody does.
      gateway.clock.advance(88_999);
      expect(kernel.slots(7, peerId)).toBe('0/1');
      gateway.clock.advance(1);
      expect(kernel.slots(7, peerId)).toBe('0/-');
      server.rekeyed(second, 1, freshKeys(), false);
      expect(kernel.slots(7, peerId)).toBe('0/1');
      server.ended(second, { cause: 'exit', reason: 'the client left' });
      expect(gateway.left).toEqual(nothing);
    });

    test('has a new peer when the one before sends with the key id that every session begins with', () => {
      const { kernel } = open(dialIn('alice'));
      const first = gateway.connect('alice');
      const second = gateway.establish(gateway.authenticate(anew(first)));
      expect(second.offer?.peerId).not.toBe(first.offer?.peerId);
      expect(kernel.peers.size).toBe(1);
    });

    test('has a new peer when its address inside of the tunnel is another one now', () => {
      const { server, kernel } = open(dialIn('alice'));
      const first = renewed();
      const next = anew(first);
      const moved = dialIn('alice', { vpnIpv4: '10.80.0.12' });
      server.setPeer(moved.ref, moved);
      gateway.establish(gateway.authenticate(next));
      expect(next.offer?.peerId).not.toBe(first.offer?.peerId);
      expect([...kernel.observed(7).values()]).toMatchObject([{ vpnIpv4: '10.80.0.12' }]);
    });

    test('has a new peer when it has another certificate now', () => {
      const { kernel } = open(dialIn('alice'));
      const first = renewed();
      const next = anew(first);
      Object.assign(next, { identity: { ...next.identity, fingerprint: 'another' } });
      gateway.establish(gateway.authenticate(next));
      expect(next.offer?.peerId).not.toBe(first.offer?.peerId);
      expect(kernel.slots(7, next.offer?.peerId ?? 0)).toBe('0/-');
    });

    test('ends what was there when it is another client', () => {
      const { kernel } = open(dialIn('alice'), dialIn('bob'));
      const first = renewed();
      const bob = gateway.establish(gateway.authenticate(anew(first, 'bob')));
      expect(bob.offer?.peerId).not.toBe(first.offer?.peerId);
      expect(kernel.peers.size).toBe(1);
      expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected' });
    });

    test('leaves nothing when it fails before it has a key', () => {
      const { server } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
      const second = gateway.authenticate(anew(renewed()));
      server.ended(second, { cause: 'failed', reason: 'the handshake was not finished' });
      expect(gateway.left).toEqual(nothing);
      expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected' });
    });

    test('has a new peer with the same id when the kernel drops the one before meanwhile', () => {
      const { server, kernel } = open(dialIn('alice'));
      const first = renewed();
      const second = gateway.authenticate(anew(first));
      gateway.lose(first, 'expired');
      gateway.establish(second);
      expect(kernel.slots(7, second.offer?.peerId ?? 0)).toBe('0/-');
      expect(gateway.facts('alice')).toMatchObject({ state: 'Connected' });
      server.ended(second, { cause: 'exit', reason: 'the client left' });
      expect(gateway.left).toEqual(nothing);
    });

    test('leaves nothing when the kernel does not take its key', () => {
      const { kernel } = open(dialIn('alice'));
      const second = gateway.authenticate(anew(renewed()));
      kernel.refuse = (call) => (call.startsWith('KEY_NEW') ? 'ENOMEM' : undefined);
      gateway.establish(second);
      expect(second.last).toMatch(/^refuse for now/);
      expect(kernel.peers.size).toBe(0);
    });
  });

  test('that comes twice is there once: the newest counts, and nobody hears of the other again', () => {
    const { server, kernel } = open(dialIn('alice'), dialIn('bob'));
    const bob = gateway.connect('bob');
    const first = gateway.connect('alice', '198.51.100.1');
    const second = gateway.connect('alice', '198.51.100.2');
    expect(first.last).toBe('close');
    expect(second.last).toBe('confirm');
    expect(kernel.observed(7).size).toBe(2);
    expect(gateway.facts('alice')).toMatchObject({ state: 'Connected', endpoint: formatEndpoint(second.path.remote) });
    expect(gateway.facts('alice')?.lastError).toContain('came anew');
    // Late news of the first.
    server.ended(first, { cause: 'closed', reason: '' });
    server.rekeyed(first, 1, freshKeys(), false);
    gateway.lose(first, 'userspace');
    expect(gateway.facts('alice')).toMatchObject({ state: 'Connected' });
    expect(kernel.slots(7, second.offer?.peerId ?? 0)).toBe('0/-');
    expect(bob.done).toEqual(['accept', 'confirm']);
  });

  test('that comes anew after a long time is the same one, on another port; two push each other out all the time', () => {
    open(dialIn('alice'));
    gateway.connect('alice', '198.51.100.1');
    gateway.clock.advance(120_000);
    gateway.connect('alice', '198.51.100.1');
    expect(gateway.facts('alice')?.lastError).toBeUndefined();
    // The other one has noticed after its ping-restart.
    gateway.clock.advance(65_000);
    gateway.connect('alice', '198.51.100.2');
    expect(gateway.facts('alice')?.lastError).toContain('if these are two clients');
  });

  test('whose handshake comes to nothing is not connecting any more', () => {
    const { server } = open(dialIn('alice'));
    const client = gateway.authenticate(new FakeClient('alice'));
    server.ended(client, { cause: 'failed', reason: 'the client fell silent' });
    expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected', lastError: 'the client fell silent' });
    expect(gateway.left).toEqual(nothing);
  });

  test('with compression in its configuration is let in, and it is said why no data passes', () => {
    open(dialIn('alice'));
    const client = gateway.establish(gateway.authenticate(new FakeClient('alice'), ['comp-lzo or compress']));
    expect(client.done).toEqual(['accept', 'confirm']);
    const words = "take comp-lzo or compress out of the client's configuration: no data may pass with it";
    expect(gateway.facts('alice')).toMatchObject({ state: 'Connected', lastError: words });
    expect(gateway.log.lines).toContainEqual(expect.objectContaining({ event: 'session.problem', error: words }));
  });

  test('that the kernel refuses is told to come again, and leaves nothing', () => {
    const { server, kernel } = open(dialIn('alice'));
    kernel.refuse = (call) => (call.startsWith('KEY_NEW') ? 'ENOMEM' : undefined);
    const client = gateway.connect('alice');
    expect(client.done).toEqual(['accept', expect.stringContaining('refuse for now')]);
    expect(gateway.facts('alice')?.lastError).toContain('ENOMEM');
    server.ended(client, { cause: 'closed', reason: 'refused' });
    expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected' });
    expect(gateway.left).toEqual(nothing);
  });

  test('finds a gateway without a device not ready', () => {
    open(dialIn('alice'));
    gateway.index = undefined;
    expect(gateway.authenticate(new FakeClient('alice')).last).toContain('refuse for now');
  });

  test.each<[DeleteReason, string, string]>([
    ['expired', 'close', 'nothing came from the client'],
    ['transport-error', 'close', 'its socket failed'],
    ['transport-disconnect', 'close', 'its connection was closed'],
    ['userspace', 'restart', 'somebody deleted it'],
    ['teardown', 'restart', 'the device was torn down'],
  ])('whose peer the kernel deletes (%s): %s', (reason, done, words) => {
    open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
    const client = gateway.connect('alice');
    gateway.lose(client, reason);
    expect(client.last).toContain(done);
    expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected', message: expect.stringContaining(words) });
    expect(gateway.left).toEqual(nothing);
    // And once more.
    gateway.lose(client, reason);
    expect(client.done).toHaveLength(3);
  });

  test('that floats is followed', () => {
    const { server } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    const remote = { address: '203.0.113.5', port: 5 };
    server.notified({ kind: 'peer-floated', ifindex: 7, peerId: client.offer?.peerId ?? 0, remote });
    expect(client.path.remote).toEqual(remote);
    expect(gateway.facts('alice')).toMatchObject({ endpoint: '203.0.113.5:5' });
  });

  test('that floats is followed where the kernel says nothing of it, too', () => {
    const { server, kernel } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    server.displaced(client);
    expect(client.done).not.toContain('moved');
    const remote = { address: '203.0.113.5', port: 5 };
    const peer = kernel.peers.get(`7/${client.offer?.peerId ?? 0}`)!;
    peer.settings = { ...peer.settings, remote };
    server.displaced(client);
    expect(client.path.remote).toEqual(remote);
    expect(gateway.facts('alice')).toMatchObject({ endpoint: '203.0.113.5:5' });
  });

  test('whose key is used up renegotiates at once; one by the limits of the settings, too', () => {
    const { server, kernel } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    const id = client.offer?.peerId ?? 0;
    kernel.peers.get(`7/${id}`)!.sent.packets = 99n;
    server.used(refOfPeer('alice'), kernel.getPeer(7, id)!);
    expect(client.last).toBe('confirm');
    kernel.peers.get(`7/${id}`)!.sent.packets = 100n;
    server.used(refOfPeer('alice'), kernel.getPeer(7, id)!);
    expect(client.last).toBe('rekey');
    server.notified({ kind: 'key-exhausted', ifindex: 7, peerId: id, keyId: 0 });
    expect(client.done.filter((what) => what === 'rekey')).toHaveLength(2);
    server.rekeyed(client, 1, freshKeys(), false);
    expect(kernel.slots(7, id)).toBe('1/0');
  });

  test('whose next key the kernel refuses comes anew', () => {
    const { server, kernel } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    kernel.refuse = (call) => (call.startsWith('KEY_NEW') ? 'ENOMEM' : undefined);
    server.rekeyed(client, 1, freshKeys(), false);
    expect(client.last).toContain('restart');
    expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected' });
    expect(gateway.left).toEqual(nothing);
  });
});

describe('a VpnPeer', () => {
  test('that is deleted ends its client, and is forgotten', () => {
    const { server } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
    const client = gateway.connect('alice');
    server.setPeer(refOfPeer('alice'), undefined);
    expect(client.last).toContain('restart');
    expect(gateway.facts('alice')).toBeUndefined();
    expect(server.recheck(client.identity, client)).toContain('no VpnPeer');
    server.ended(client, { cause: 'closed', reason: '' });
    expect(gateway.facts('alice')).toBeUndefined();
    expect(gateway.left).toEqual(nothing);
  });

  test.each([
    ['deleted', undefined],
    ['given another address', dialIn('alice', { vpnIpv4: '10.80.0.99' })],
    ['for another certificate', dialIn('alice', { identity: { commonName: 'alina' } })],
  ])('%s while its client waits to be handed over: that one does not get in', (_, then) => {
    const { server, kernel } = open(dialIn('alice'));
    const client = gateway.authenticate(new FakeClient('alice'));
    client.waits = true;
    gateway.establish(client);
    server.setPeer(refOfPeer('alice'), then);
    client.take?.();
    expect(kernel.peers.size).toBe(0);
    expect(client.done).not.toContain('confirm');
    expect(client.done).toHaveLength(2);
    server.ended(client, { cause: 'closed', reason: '' });
    expect(gateway.facts('alice')?.state).not.toBe('Connecting');
    expect(gateway.facts('alice') === undefined).toBe(then === undefined);
    expect(gateway.left).toEqual(nothing);
  });

  test('with other routes while its client waits to be handed over: those count', () => {
    const { server, kernel } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
    const client = gateway.authenticate(new FakeClient('alice'));
    client.waits = true;
    gateway.establish(client);
    server.setPeer(refOfPeer('alice'), dialIn('alice', { routes: [lan('192.168.8.0/24')] }));
    client.take?.();
    expect([...kernel.routes]).toEqual([expect.stringContaining('192.168.8.0/24')]);
    expect(client.last).toBe('confirm');
  });

  test('with another address or identity has its client come anew', () => {
    const { server } = open(dialIn('alice'));
    for (const change of [{ vpnIpv4: '10.80.0.20' }, { vpnIpv4: '10.80.0.20', identity: { commonName: 'alina' } }]) {
      const client = gateway.connect('alice');
      server.setPeer(refOfPeer('alice'), dialIn('alice', change));
      expect(client.last).toContain('restart: its VpnPeer was changed');
      expect(gateway.left).toEqual(nothing);
    }
  });

  test('with other routes has them changed in place, and what the kernel refused tried again', () => {
    const { server, kernel } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
    const client = gateway.connect('alice');
    const wanted = dialIn('alice', { routes: [lan('192.168.8.0/24'), lan('192.168.9.0/24')] });
    kernel.refuse = (call) => (call.startsWith('set route 192.168.8.0/24') ? 'EINVAL' : undefined);
    server.setPeer(wanted.ref, wanted);
    expect(gateway.facts('alice')?.lastError).toContain('EINVAL');
    expect([...kernel.routes]).toEqual([expect.stringContaining('192.168.9.0/24')]);
    kernel.refuse = () => undefined;
    server.setPeer(wanted.ref, wanted);
    expect(kernel.routes.size).toBe(2);
    kernel.takeCalls();
    server.setPeer(wanted.ref, wanted);
    expect(kernel.takeCalls()).toEqual([]);
    expect(client.done).toEqual(['accept', 'confirm']);
    server.ended(client, { cause: 'exit', reason: '' });
    expect(gateway.left).toEqual(nothing);
  });

  test('of another costs nothing here', () => {
    const { server, kernel } = open(dialIn('alice'));
    gateway.connect('alice');
    kernel.takeCalls();
    gateway.changed.splice(0);
    server.setPeer(refOfPeer('bob'), dialIn('bob'));
    server.setPeer(refOfPeer('carol'), undefined);
    expect([kernel.takeCalls(), gateway.changed]).toEqual([[], ['bob']]);
  });
});

test('a name in a certificate is told without what a terminal would obey', () => {
  const { server } = open(dialIn('alice'));
  const client = new FakeClient('al\u009b2J\u202eice');
  expect(server.recheck(client.identity, client)).toContain('has the identity "al?2J?ice"');
});

describe('certificates that the network issues', () => {
  const good = dialIn('alice', { certificates: [''] });

  test('let a client in as long as they are good, and end it when they are not any more', () => {
    const { server, kernel } = open(good);
    const client = gateway.connect('alice');
    expect(kernel.observed(7).size).toBe(1);
    // A further one was issued: the client's own is as good as before.
    server.setPeer(good.ref, { ...good, certificates: ['AA', ''] });
    expect(client.last).toBe('confirm');
    server.setPeer(good.ref, { ...good, certificates: ['AA'] });
    expect(client.last).toContain('its certificate was revoked');
    expect(kernel.observed(7).size).toBe(0);
  });

  test('that are not among the good ones do not let a client in', () => {
    const { server } = open(dialIn('alice', { certificates: ['AA'] }));
    const client = new FakeClient('alice');
    expect(server.recheck(client.identity, client)).toContain('is revoked, or not the one that was issued');
  });

  test('that are revoked end the data of a client without a session, too', () => {
    const { server, kernel } = open(good);
    leaveAlice(kernel);
    server.reconcile(kernel.observed(7), () => formatRef(good.ref));
    expect(server.livePeer(good.ref)).toBeDefined();
    server.setPeer(good.ref, { ...good, certificates: [] });
    expect(server.livePeer(good.ref)).toBeUndefined();
  });
});

describe('the PKI', () => {
  // Another CA is trusted besides.
  const other: DesiredServer = { ...desired, credentials: { ca: `${pki.ca}${pki.ca}`, ...renewed } };
  const listeners = (): OpenListener[] => [gateway.udp()];

  test('that changes has all clients show their certificates; those that do stay', () => {
    const { server } = open(dialIn('alice'), dialIn('bob'));
    const clients = [gateway.connect('alice'), gateway.connect('bob')];
    server.configure(desired, listeners());
    expect(clients.map(({ last }) => last)).toEqual(['confirm', 'confirm']);
    server.configure(other, listeners());
    expect(clients.map(({ last }) => last)).toEqual(['rekey', 'rekey']);
    for (const client of clients) server.rekeyed(client, 1, freshKeys(), false);
    expect(gateway.kernel.observed(7).size).toBe(2);
    server.rekeyFailed(clients[0]!, 2, 'a later one may fail');
    expect(clients[0]?.last).toBe('rekey');
  });

  test('that only has a new certificate of our own leaves the clients alone', () => {
    const { server } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    server.configure(desired, listeners());
    server.configure({ ...desired, credentials: { ca: pki.ca, ...renewed } }, listeners());
    expect(client.last).toBe('confirm');
  });

  test('that changes ends who cannot show a good one', () => {
    const { server } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    server.configure(other, listeners());
    server.rekeyFailed(client, 1, 'its certificate was revoked');
    expect(client.last).toContain('did not pass the present PKI: its certificate was revoked');
    expect(gateway.left).toEqual(nothing);
  });

  test('that changes during a renegotiation: that one does not count', () => {
    const { server } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    client.busy = true;
    server.configure(other, listeners());
    expect(client.last).toBe('confirm');
    client.busy = false;
    server.rekeyed(client, 1, freshKeys(), false);
    expect(client.last).toBe('rekey');
    server.rekeyFailed(client, 2, 'revoked');
    expect(client.last).toContain('restart');
  });

  test('that changes during a renegotiation: the next one counts, whoever begins it', () => {
    const { server } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    client.busy = true;
    server.configure(other, listeners());
    server.rekeyFailed(client, 1, 'the line was down');
    client.busy = false;
    server.rekeying(client);
    server.rekeyed(client, 2, freshKeys(), false);
    expect(client.last).toBe('confirm');
  });

  test('that changes ends the data of clients without a session, and clients that the kernel has not yet', () => {
    const { server, kernel } = open(dialIn('alice'), dialIn('bob'));
    leaveAlice(kernel);
    const alice = formatRef(refOfPeer('alice'));
    expect([...server.reconcile(kernel.observed(7), () => alice)]).toEqual([0x800005]);
    expect(server.livePeer(refOfPeer('alice'))).toMatchObject({ id: 0x800005 });
    const bob = new FakeClient('bob');
    bob.waits = true;
    gateway.establish(gateway.authenticate(bob));
    server.configure(other, listeners());
    expect(kernel.observed(7).size).toBe(0);
    expect(server.livePeer(refOfPeer('alice'))).toBeUndefined();
    expect(bob.last).toContain('the PKI changed while it connected');
    // What it held back comes too late.
    expect(bob.take?.()).toBe(false);
    expect(kernel.observed(7).size).toBe(0);
  });

  test('without which nobody is served any more', () => {
    const { server } = open(dialIn('alice'));
    const client = gateway.connect('alice');
    const waiting = gateway.authenticate(new FakeClient('alice'));
    server.configure(undefined, listeners());
    expect([client.last, waiting.last]).toEqual(['close', 'close']);
    expect(gateway.facts('alice')).toMatchObject({ state: 'Disconnected' });
    expect(gateway.left).toEqual(nothing);
    server.configure(desired, listeners());
    expect(gateway.connect('alice').last).toBe('confirm');
  });
});

describe('a look at the kernel', () => {
  test('ends the session of a peer that is not there any more', () => {
    open(dialIn('alice'));
    const client = gateway.connect('alice');
    gateway.kernel.peers.clear();
    expect([...gateway.look()]).toEqual([]);
    expect(client.last).toContain('restart');
    expect(gateway.left).toEqual(nothing);
  });

  test('leaves alone who has come since', () => {
    const { kernel } = open(dialIn('alice'));
    const before = kernel.observed(7);
    const client = gateway.connect('alice');
    expect([...gateway.look(before)]).toEqual([client.offer?.peerId]);
    expect(client.last).toBe('confirm');
  });

  test('after the device was replaced ends what was on the old one', () => {
    const { kernel } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
    const client = gateway.connect('alice');
    kernel.removeDevice(7);
    gateway.index = 8;
    gateway.look();
    expect(client.last).toContain('restart');
    expect(gateway.left).toEqual(nothing);
    expect(gateway.connect('alice').last).toBe('confirm');
    expect(kernel.observed(8).size).toBe(1);
  });

  test('gives out no id that the kernel has for another', () => {
    const { kernel, live } = open(dialIn('alice'));
    const stranger = {
      id: firstSessionId + 7,
      socket: 3,
      remote: { address: '192.0.2.9', port: 9 },
      vpnIpv4: '10.80.0.77',
    };
    live.create(
      { ref: refOfPeer('x'), ifindex: 7, settings: stranger, routes: [] },
      { keyId: 0, cipher: 'AES-256-GCM', keys: freshKeys() },
    );
    live.forget({ ref: refOfPeer('x'), ifindex: 7, id: stranger.id, routes: [] });
    const late = new Gateway();
    gateways.push(late);
    for (const [key, value] of kernel.peers) late.kernel.peers.set(key, value);
    late.serve(dialIn('alice'));
    expect(late.connect('alice').last).toBe('confirm');
    expect(late.kernel.observed(7).size).toBe(2);
  });
});

describe('the sockets', () => {
  /** Whether somebody answers the first packet of a client. */
  async function answers(at: string): Promise<boolean> {
    const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(at) ?? [];
    const socket = createSocket('udp4');
    try {
      const answer = new Promise<boolean>((resolve) => {
        socket.on('message', () => resolve(true));
        socket.on('error', () => resolve(false));
        setTimeout(() => resolve(false), 1000).unref();
      });
      // A hard reset of key 0: no acknowledgements, message id 0.
      const packet = Buffer.concat([Buffer.from([0x38]), Buffer.from('session!'), Buffer.alloc(5)]);
      socket.send(packet, Number(port), host);
      return await answer;
    } finally {
      socket.close();
    }
  }

  test('of another address are served, also when the descriptor has the number of the one before', async () => {
    const { server } = open(dialIn('alice'));
    const first = gateway.udp();
    server.configure(desired, [first]);
    expect(await answers(first.at)).toBe(true);
    gateway.closeFd(first.fd);
    const second = gateway.udp('127.0.0.2');
    expect(second.fd).toBe(first.fd);
    server.configure(desired, [second]);
    expect(await answers(second.at)).toBe(true);
  });

  test('are served also while the settings cannot be had', async () => {
    const { server } = open(dialIn('alice'));
    const other = gateway.udp('127.0.0.2');
    server.listen([other]);
    expect(await answers(other.at)).toBe(true);
  });

  test('are left with everything in the kernel when the process ends', () => {
    const { server, kernel } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }));
    gateway.connect('alice');
    server.close();
    expect([kernel.peers.size, kernel.routes.size, gateway.clock.pending]).toEqual([1, 1, undefined]);
  });

  test('a server that stops tells its clients, and lets nobody in; who has heard it leaves the kernel', async () => {
    const { server, kernel } = open(dialIn('alice', { routes: [lan('192.168.7.0/24')] }), dialIn('bob'));
    const alice = gateway.connect('alice');
    const bob = gateway.authenticate(new FakeClient('bob'));
    const stopped = server.stop();
    for (const client of [alice, bob]) expect(client.last).toMatch(/^restart: this gateway serves the network no more/);
    expect(kernel.peers.size).toBe(1);
    expect(gateway.authenticate(new FakeClient('alice')).last).toContain('refuse for now');
    for (const client of [bob, alice]) server.ended(client, { cause: 'closed', reason: '' });
    await stopped;
    expect(gateway.left).toEqual(nothing);
  });

  test('a server that stops does not wait long for a client that does not listen', async () => {
    const { server } = open(dialIn('alice'));
    gateway.connect('alice');
    const stopped = server.stop();
    gateway.clock.advance(3_000);
    await stopped;
    expect(gateway.left).toEqual(nothing);
  });

  test('a process that ends while its server says goodbye waits for nobody', async () => {
    const { server, kernel } = open(dialIn('alice'));
    gateway.connect('alice');
    const stopped = server.stop();
    server.close();
    await stopped;
    expect(kernel.peers.size).toBe(0);
  });
});

test('what is thrown in the kernel does not come out at the network', async () => {
  const { server, kernel } = open(dialIn('alice'), dialIn('bob'));
  const client = gateway.connect('alice');
  kernel.broken = true;
  expect(() => gateway.connect('bob')).not.toThrow();
  expect(() => server.rekeyed(client, 1, freshKeys(), false)).not.toThrow();
  expect(() => server.setPeer(refOfPeer('alice'), undefined)).not.toThrow();
  const stopped = server.stop();
  gateway.clock.advance(3_000);
  await expect(stopped).resolves.toBeUndefined();
});

test('a connection costs the same number of calls and news however many others there are', () => {
  const count = (others: number): [number, number] => {
    const names = Array.from({ length: others }, (_, i) => `peer-${i}`);
    open(dialIn('alice'), ...names.map((name, i) => dialIn(name, { vpnIpv4: `10.80.1.${i}` })));
    for (const name of names) gateway.connect(name);
    gateway.kernel.takeCalls();
    gateway.changed.splice(0);
    const client = gateway.connect('alice');
    gateway.lose(client, 'expired');
    return [gateway.kernel.takeCalls().length, gateway.changed.length];
  };
  expect(count(50)).toEqual(count(1));
});

/** A peer connects, gets new keys, is refused, and is lost. */
function wholeStory(): void {
  const { server } = open(dialIn('alice'));
  const client = gateway.connect('alice');
  server.rekeyed(client, 1, freshKeys(), false);
  gateway.clock.advance(200_000);
  server.failed(client.path, 'udp', 'a reason', client.identity);
  gateway.lose(client, 'expired');
}

test("a peer's whole story is in the log under one id", () => {
  wholeStory();
  const story = gateway.log.lines.filter(({ event }) => /^(session|key|peer)\./.test(String(event)));
  const events = story.map(({ event }) => event);
  expect(events).toEqual(
    expect.arrayContaining(['session.connected', 'session.rekeyed', 'session.refused', 'session.lost']),
  );
  for (const line of story) expect(line).toMatchObject({ peer: 'VpnPeer team-a/alice' });
});

test('no log line holds what is secret', () => {
  wholeStory();
  const text = JSON.stringify(gateway.log.lines);
  expect(text).toContain(formatRef(refOfPeer('alice')));
  expect(text).not.toMatch(/secret|PRIVATE KEY|sec-tail/);
});

describe('nodes of a mesh', () => {
  const neighbour = (name: string): DesiredDialIn => dialIn(name, { ref: nodeRef(name), identity: {} });
  const node = (name: string, id = firstMeshPeerId + 5, commonName = 'node:corp'): FakeClient => {
    const client = new FakeClient(commonName);
    client.says = introduction(name, id);
    return client;
  };
  const mesh = (...peers: readonly DesiredDialIn[]): Gateway => {
    const gateway = new Gateway();
    gateways.push(gateway);
    gateway.server.configure({ ...desired, meshName: 'node:corp' }, [gateway.udp()]);
    for (const peer of peers) gateway.server.setPeer(peer.ref, peer);
    gateway.look();
    return gateway;
  };

  test('are who they say they are, with the id that they have free', () => {
    const gateway = mesh(neighbour('n2'), dialIn('alice'));
    const client = gateway.establish(gateway.authenticate(node('n2')));
    expect(gateway.server.recheck(client.identity, client)).toBeUndefined();
    expect(client.offer?.peerId).toBe(firstMeshPeerId + 5);
    expect(gateway.server.livePeer(nodeRef('n2'))?.id).toBe(firstMeshPeerId + 5);
    expect(gateway.server.facts(nodeRef('n2'))?.state).toBe('Connected');
  });

  test('are asked for another id when theirs is taken', () => {
    const gateway = mesh(neighbour('n2'), { ...neighbour('n3'), vpnIpv4: '10.80.0.12' });
    gateway.establish(gateway.authenticate(node('n2')));
    const other = gateway.authenticate(node('n3'));
    expect(other.last).toBe('refuse for now: this node needs another peer id');
    expect(gateway.establish(gateway.authenticate(node('n3', firstMeshPeerId + 6))).last).toBe('confirm');
  });

  test('a client is no node, whatever it says', () => {
    const gateway = mesh(neighbour('n2'), dialIn('alice'));
    const client = gateway.establish(gateway.authenticate(node('n2', firstMeshPeerId + 5, 'alice')));
    expect(client.offer?.peerId).toBeLessThan(firstMeshPeerId);
    expect(gateway.facts('alice')?.state).toBe('Connected');
    expect(gateway.server.livePeer(nodeRef('n2'))).toBeUndefined();
  });

  test.each([
    ['a node that is none of the network', node('n9')],
    ['an id of clients', node('n2', firstSessionId)],
  ])('%s is not let in', (_, client) => {
    const gateway = mesh(neighbour('n2'));
    gateway.authenticate(client);
    expect(client.last).toMatch(/^refuse for now/);
    expect(gateway.live.size).toBe(0);
  });

  test('with a CA that signs for others, too, are known by their certificate, the last two of which are good', () => {
    const gateway = mesh(neighbour('n2'));
    const known = (fingerprint: string): boolean => {
      const client = node('n2');
      return gateway.server.recheck({ ...client.identity, fingerprint }, client) === undefined;
    };
    const renew = (meshCertificate: string): void =>
      gateway.server.configure({ ...desired, meshName: 'node:corp', meshCertificate }, [gateway.udp()]);
    renew('AA');
    expect([known('AA'), known('BB')]).toEqual([true, false]);
    renew('BB');
    renew('BB');
    expect([known('AA'), known('BB')]).toEqual([true, true]);
    renew('CC');
    expect([known('AA'), known('BB'), known('CC')]).toEqual([false, true, true]);
  });

  test('the certificate of nodes is nobody without a mesh', () => {
    const gateway = new Gateway().serve(neighbour('n2'));
    gateways.push(gateway);
    expect(gateway.server.recheck(node('n2').identity, node('n2'))).toContain('has the identity "node:corp"');
  });

  test('a peer that is connected to another node ends without a word', () => {
    const gateway = mesh(dialIn('alice'));
    const client = gateway.connect('alice');
    gateway.server.movedAway(refOfPeer('alice'));
    expect(client.last).toBe('close');
    expect(gateway.left).toMatchObject({ peers: 0, live: 0 });
  });
});
