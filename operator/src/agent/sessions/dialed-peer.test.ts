import { afterAll, afterEach, describe, expect, test } from '@jest/globals';
import { closeSync } from 'node:fs';
import { recordingLog } from '../../cluster/testing/log.ts';
import { until } from '../../cluster/testing/clock.ts';
import { ReadinessPoller } from '../../kernel/poller.ts';
import { boundAddress, formatEndpoint, openUdpSocket } from '../../kernel/transport-socket.ts';
import { systemScheduler } from '../../openvpn/session/scheduler.ts';
import { testPki } from '../../openvpn/tls/pki.fixture.ts';
import type { DesiredDialOut } from './desired-session.ts';
import { DialedPeer } from './dialed-peer.ts';
import { HandshakeCounts } from './handshake-counts.ts';
import { NetworkServer, type SessionServices } from './network-server.ts';
import { SessionMemory } from './session-memory.ts';
import { claimantNamed, FakeLiveKernel, livePeers, noNames, refOfPeer } from './sessions.fixture.ts';
import { Tunnels } from './tunnel-facts.ts';

/** A remote that is dialled and the gateway that it dials, both ours, with real sockets and kernels that are not. */

const pki = testPki();
const serverCertificate = pki.issue('gateway', { usage: 'serverAuth' });
const clientCertificate = pki.issue('alice', { usage: 'clientAuth' });
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
afterAll(() => pki.remove());

const log = recordingLog();
const shelf = {
  take: () => undefined,
  keep: () => undefined,
  drop: () => undefined,
  dropOthers: () => undefined,
  clear: () => undefined,
};

/** Why a placed peer may not be dialled. */
const refusal: { reason: string | undefined } = { reason: undefined };

function services(kernel: FakeLiveKernel, poller: ReadinessPoller): SessionServices {
  return {
    refusal: () => Promise.resolve(refusal.reason),
    network: 'corp',
    live: livePeers(() => kernel),
    memory: new SessionMemory(shelf, log.log),
    device: () => 7,
    poller,
    scheduler: systemScheduler,
    names: noNames,
    clock: () => Date.now(),
    log: log.log,
    changed: () => undefined,
  };
}

const rekey = { seconds: 3600, bytes: 0, packets: 0, transitionMs: 30_000 };
const keepalive = { interval: 10, timeout: 60 };
const alice = refOfPeer('alice');

function scene() {
  const poller = new ReadinessPoller();
  const fd = openUdpSocket({ address: '127.0.0.1', port: 0 });
  const [there, here] = [new FakeLiveKernel(), new FakeLiveKernel()];
  const server = new NetworkServer(services(there, poller));
  const { port } = boundAddress(fd);
  server.configure(
    {
      credentials: { ca: pki.ca, ...serverCertificate },
      ...{ notAfter: Infinity, wrap: { kind: 'none' }, ciphers: ['AES-256-GCM'], rekey },
      push: {
        ...{ gatewayIpv4: '10.80.0.1', gatewayIpv6: undefined, lengthIpv4: 24, lengthIpv6: 128, mtu: 1300 },
        ...{ routes: ['10.96.0.0/12'], dnsServers: [], searchDomains: [] },
      },
    },
    [{ name: 'udp', transport: 'udp', fd, at: formatEndpoint({ address: '127.0.0.1', port }) }],
  );
  server.setPeer(alice, {
    ...{ kind: 'dial-in', ref: alice, claimant: claimantNamed('alice'), identity: { commonName: 'alice' } },
    ...{ vpnIpv4: '10.80.0.10', vpnIpv6: undefined, keepalive, routes: [] },
  });
  server.reconcile(new Map(), () => undefined);

  const devices: string[] = [];
  /** What pods reach over other peers. */
  const others: string[] = [];
  const facts = new Tunnels(Date.now, () => undefined);
  const client = services(here, poller);
  const desired = (change: Partial<DesiredDialOut> = {}): DesiredDialOut => ({
    ...{ kind: 'dial-out', ref: alice, notAfter: Infinity, wrap: { kind: 'none' }, ciphers: ['AES-256-GCM'] },
    remotes: [{ host: '127.0.0.1', port, transport: 'udp' }],
    credentials: { ca: pki.ca, ...clientCertificate },
    checks: { remoteCertTls: 'server' },
    ...{ rekey, keepalive, routes: ['172.16.0.0/16'], ownRanges: ['10.8.0.0/16'] },
    ...change,
  });
  const device = {
    mtu: () => 1400,
    ensure: (_: unknown, mtu: number) => {
      devices.push(`mtu ${mtu}`);
      return 20;
    },
    shared: () => 3,
    setAddresses: (_: number, addresses: readonly string[]) => void devices.push(`addresses ${addresses.join(' ')}`),
    remove: (): void => void devices.push('removed'),
    destinations: () => ['172.16.0.0/16', '0.0.0.0/0', ...others],
  };
  const handshakes = new HandshakeCounts();
  const dialed = new DialedPeer(desired(), client, device, facts, handshakes);
  cleanups.push(async () => {
    dialed.close();
    server.close();
    await poller.close();
    closeSync(fd);
  });
  const connected = (): Promise<void> =>
    until('the tunnel stands', () => facts.get(alice)?.state === 'Connected' && here.peers.size === 1);
  return { server, there, here, dialed, device, others, desired, facts, devices, connected, live: client.live };
}

const destinations = ({ routes }: FakeLiveKernel): string[] =>
  [...routes].map((text) => /\d+\.\d+\.\d+\.\d+(\/\d+)?/.exec(text)?.[0] ?? text).sort();

describe('a remote that is dialled', () => {
  test('gets its device, its peer, its own address and what is behind it; never what it would like to have', async () => {
    const { server, there, here, dialed, facts, devices, connected } = scene();
    dialed.start();
    await connected();
    expect(devices).toEqual(['mtu 1300', 'addresses 10.80.0.10']);
    const [peer] = [...here.observed(20).values()];
    expect(peer).toMatchObject({ keepalive: { interval: 10, timeout: 60 }, vpnIpv4: undefined });
    expect(destinations(here)).toEqual(['10.80.0.1/32', '172.16.0.0/16']);
    expect(facts.get(alice)).toMatchObject({ addresses: ['10.80.0.10'], cipher: 'AES-256-GCM', tlsVersion: 'TLSv1.3' });
    expect(server.facts(alice)).toMatchObject({ state: 'Connected' });
    expect(there.observed(7).size).toBe(1);
    // Each end protects with what the other expects.
    const [a, b] = [[...there.peers.values()][0]?.primary, [...here.peers.values()][0]?.primary];
    expect(a?.encrypt).toEqual(b?.decrypt);
    expect(a?.decrypt).toEqual(b?.encrypt);
  });

  test.each<[string, Partial<DesiredDialOut>, string[]]>([
    ['of a pool of this network', { ownRanges: ['10.80.0.0/24'] }, []],
    ['behind another peer', {}, ['10.80.0.0/28']],
  ])('that assigns an address %s gets no tunnel, and nothing in the kernel', async (_, change, taken) => {
    const { here, dialed, desired, facts, devices, others } = scene();
    others.push(...taken);
    dialed.configure(desired(change));
    dialed.start();
    await until('it is refused', () => facts.get(alice)?.state === 'Disconnected');
    expect(facts.get(alice)?.lastError).toContain('the remote assigned 10.80.0.10, which lies in a pool');
    expect([here.peers.size, devices]).toEqual([0, []]);
  });

  test('whose own address lies behind another peer is not routed there', async () => {
    const { here, dialed, others, connected } = scene();
    others.push('10.80.0.1/32');
    dialed.start();
    await connected();
    expect(destinations(here)).toEqual(['172.16.0.0/16']);
  });

  test('has its routes changed in place, its own address staying, and what was refused tried again', async () => {
    const { here, dialed, desired, facts, connected } = scene();
    dialed.start();
    await connected();
    here.refuse = (call) => (call.startsWith('set route 172.18') ? 'EINVAL' : undefined);
    dialed.configure(desired({ routes: ['172.17.0.0/16', '172.18.0.0/16'] }));
    expect(facts.get(alice)?.lastError).toContain('EINVAL');
    expect(destinations(here)).toEqual(['10.80.0.1/32', '172.17.0.0/16']);
    here.refuse = () => undefined;
    dialed.configure(desired({ routes: ['172.17.0.0/16', '172.18.0.0/16'] }));
    expect(destinations(here)).toEqual(['10.80.0.1/32', '172.17.0.0/16', '172.18.0.0/16']);
    dialed.configure(desired({ routes: [] }));
    expect(destinations(here)).toEqual(['10.80.0.1/32']);
    here.takeCalls();
    dialed.configure(desired({ routes: [] }));
    expect(here.takeCalls()).toEqual([]);
    expect(facts.get(alice)?.state).toBe('Connected');
  });

  test('whose peer the kernel deletes is dialled again; late news of an earlier peer with the same id is none', async () => {
    const { here, dialed, facts, connected } = scene();
    dialed.start();
    await connected();
    const id = dialed.livePeer?.id ?? 0;
    const deleted = { kind: 'peer-deleted', ifindex: 20, peerId: id, reason: 'userspace' } as const;
    dialed.notified(deleted);
    expect(facts.get(alice)?.state).toBe('Connected');
    here.peers.clear();
    dialed.notified(deleted);
    expect(facts.get(alice)?.state).toBe('Disconnected');
    expect([here.peers.size, here.routes.size]).toEqual([0, 0]);
    await connected();
  }, 15_000);

  test('that the kernel refuses leaves nothing, and says why', async () => {
    const { here, dialed, facts, live } = scene();
    here.refuse = (call) => (call.startsWith('KEY_NEW') ? 'ENOMEM' : undefined);
    dialed.start();
    await until('it failed', () => facts.get(alice)?.state === 'Disconnected');
    expect(facts.get(alice)?.message).toContain('ENOMEM');
    expect([here.peers.size, here.routes.size, live.size]).toEqual([0, 0, 0]);
  });

  test('that another node may have by now is not dialled, and status says why', async () => {
    const { here, dialed, desired, facts, connected } = scene();
    dialed.configure(desired({ placed: true }));
    refusal.reason = 'another node has the peer by now';
    dialed.start();
    await until('it is said', () => facts.get(alice)?.message === refusal.reason);
    expect(facts.get(alice)).toMatchObject({ state: 'Connecting', lastError: refusal.reason });
    expect(here.peers.size).toBe(0);
    refusal.reason = undefined;
    await connected();
    // What stands, stands.
    refusal.reason = 'the API server does not answer';
    dialed.configure(desired({ placed: true, routes: [] }));
    expect([facts.get(alice)?.state, here.peers.size]).toEqual(['Connected', 1]);
    refusal.reason = undefined;
  }, 15_000);

  test('is left with a word, and without a trace', async () => {
    const { server, there, here, dialed, devices, live, connected } = scene();
    dialed.start();
    await connected();
    dialed.stop();
    expect([here.peers.size, here.routes.size, live.size]).toEqual([0, 0, 0]);
    expect(devices.at(-1)).toBe('removed');
    await until('the gateway knows', () => server.facts(alice)?.state === 'Disconnected');
    expect(server.facts(alice)?.message).toBe('the client left');
    expect(there.peers.size).toBe(0);
  });

  test('is left also when its device cannot be removed', async () => {
    const { server, here, dialed, device, connected } = scene();
    dialed.start();
    await connected();
    device.remove = () => {
      throw new Error('ENOBUFS');
    };
    expect(() => dialed.stop()).not.toThrow();
    expect(here.peers.size).toBe(0);
    await until('the gateway knows', () => server.facts(alice)?.state === 'Disconnected');
    expect(log.lines.at(-1)).toBeDefined();
    expect(JSON.stringify(log.lines)).toContain('ENOBUFS');
  });
});

test('no log line of either end holds what is secret', () => {
  expect(log.events()).toEqual(expect.arrayContaining(['dial.connected', 'session.connected', 'dial.lost']));
  const text = JSON.stringify(log.lines);
  const lines = [serverCertificate, clientCertificate].flatMap(({ key }) => key.split('\n'));
  for (const line of lines) if (line.length > 20 && !line.startsWith('-')) expect(text).not.toContain(line);
  expect(text).not.toContain('PRIVATE KEY');
});
