import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { SessionState } from '../session/session-state.ts';
import { type Certificate, testPki, type TestPki } from '../tls/pki.fixture.ts';
import { tlsServer } from '../tls/tls-endpoint.ts';
import { FrameReader } from '../wire/frame.ts';
import { wrapClientKey } from '../wrap/client-key.ts';
import type { WrapConfig } from '../wrap/session-wrapper.ts';
import { Dialer } from './dialer.ts';
import { DialerLab, nothingLeft } from './dialer.fixture.ts';
import type { Path } from './path.ts';
import { type DatagramEndpoint, OpenvpnServer, type StreamEndpoint } from './server.ts';
import { Owner, testRandom, TestNetwork } from './server.fixture.ts';
import type { ServedClient, ServerSettings } from './server-settings.ts';

/** A program ends without a word, and the next one goes on with its sessions. */
let pki: TestPki;
let serverCertificate: Certificate;
let alice: Certificate;
beforeAll(() => {
  pki = testPki();
  serverCertificate = pki.issue('server', { usage: 'serverAuth' });
  alice = pki.issue('alice', { usage: 'clientAuth' });
});
afterAll(() => pki.remove());

const key = Uint8Array.from({ length: 256 }, (_, i) => i);
const serverKey = Uint8Array.from({ length: 128 }, (_, i) => i);
const wraps: Record<string, { server: WrapConfig; client: WrapConfig }> = {
  none: { server: { kind: 'none' }, client: { kind: 'none' } },
  'tls-auth': {
    server: { kind: 'tls-auth', key, digest: 'SHA256', direction: 0 },
    client: { kind: 'tls-auth', key, digest: 'SHA256', direction: 1 },
  },
  'tls-crypt': { server: { kind: 'tls-crypt', key }, client: { kind: 'tls-crypt', key } },
  'tls-crypt-v2': {
    server: { kind: 'tls-crypt-v2-server', serverKey },
    client: { kind: 'tls-crypt-v2-client', key, wrapped: wrapClientKey(serverKey, key, undefined) },
  },
};

const at = (port: number): Path => ({ remote: { address: '192.0.2.1', port }, local: '198.51.100.1' });
const settings = (wrap: WrapConfig): ServerSettings => ({
  wrap,
  tls: tlsServer({ ca: pki.ca, ...serverCertificate }, { remoteCertTls: 'client' }),
  ciphers: ['AES-256-GCM'],
  tunMtu: 1400,
  renegotiateSeconds: 0,
  limits: { halfOpen: 10, halfOpenPerSource: 10, repliesPerSecond: 100 },
});
/** As it comes out of a file. */
const saved = (state: SessionState | undefined): SessionState => JSON.parse(JSON.stringify(state)) as SessionState;

/** The server's program ends, and another begins in its place. */
function restart(net: TestNetwork, wrap: WrapConfig) {
  net.server.close();
  const owner = new Owner();
  const { world } = net;
  const server = new OpenvpnServer(settings(wrap), owner, { scheduler: world, random: testRandom, clock: world.clock });
  return { owner, server };
}

/** Renegotiates from either side, more often than there are key ids. */
async function renegotiates(
  net: TestNetwork,
  owner: Owner,
  client: { session: { rekey(): boolean; keyId: number }; events: { type: string }[] },
  served: ServedClient,
): Promise<void> {
  for (let i = 0; i < 9; i++) {
    const before = {
      ours: owner.count('rekeyed'),
      theirs: client.events.filter(({ type }) => type === 'rekeyed').length,
    };
    expect((i % 2 === 0 ? served : client.session).rekey()).toBe(true);
    await net.world.run(
      () =>
        owner.count('rekeyed') > before.ours &&
        client.events.filter(({ type }) => type === 'rekeyed').length > before.theirs,
      30_000,
    );
    expect(served.keyId).toBe(client.session.keyId);
    await net.world.settle(1000);
  }
  expect(owner.told.map(({ what }) => what)).toEqual(Array.from({ length: 9 }, () => 'rekeyed'));
}

describe.each(Object.keys(wraps))('a server that was started again, with %s', (name) => {
  const { server: serverWrap, client: clientWrap } = wraps[name]!;

  test('goes on with a client over UDP, wherever it is by now', async () => {
    const net = new TestNetwork(settings(serverWrap));
    const client = net.udpClient(at(1000), { pki, certificate: alice, wrap: clientWrap });
    client.session.start();
    await net.world.run(() => client.had('established'));
    await net.world.settle();
    client.session.rekey();
    await net.world.run(() => client.had('rekeyed') && net.owner.count('rekeyed') === 1);
    await net.world.settle(1000);
    const state = saved(net.owner.clients[0]!.exportState());

    const { owner, server } = restart(net, serverWrap);
    const path = net.roam(client, at(1000), at(2000));
    const udp: DatagramEndpoint = server.openDatagram('udp', (packet) => {
      net.world.carry(() => void client.session.receive(packet));
    });
    (net as { udp: DatagramEndpoint }).udp = udp;
    await net.world.settle(2000);
    const served = udp.resume(state, path);
    expect(served).toMatchObject({ transport: 'udp', listener: 'udp', keyId: 1, identity: { commonName: 'alice' } });
    expect([...server.clients()]).toEqual([served]);
    expect(server.halfOpen).toBe(0);
    expect(server.counters).toMatchObject({ begun: 0, resumed: 1 });
    await renegotiates(net, owner, client, served);

    client.session.exit();
    await net.world.run(() => owner.ends.length > 0);
    expect(owner.ends).toEqual([{ cause: 'exit', reason: 'the client left' }]);
    expect([...server.clients()]).toEqual([]);
    await net.world.settle(70_000);
    expect(net.world.timers).toBe(0);
  });

  test('goes on with a client over TCP', async () => {
    const net = new TestNetwork(settings(serverWrap));
    const stream = net.tcpClient(at(1000), { pki, certificate: alice, wrap: clientWrap });
    net.owner.programKernel = (client) =>
      client.handOver(() => {
        stream.handedOver = true;
        client.confirm();
        return true;
      });
    stream.client.session.start();
    await net.world.run(() => stream.client.had('established'));
    await net.world.settle(1000);
    const state = saved(net.owner.clients[0]!.exportState());

    const { owner, server } = restart(net, serverWrap);
    await net.world.settle(2000);
    const reader = new FrameReader();
    const sender = { closed: false, idle: true };
    const { endpoint, client: served } = server.resumeStream(
      'tcp',
      at(1000),
      {
        send: (bytes) =>
          net.world.carry(() => {
            // Each is one frame, as the driver demands.
            const { consumed, packet } = reader.take(bytes);
            expect(consumed).toBe(bytes.length);
            stream.client.session.receive(packet!);
          }),
        close: () => (sender.closed = true),
        get idle() {
          return sender.idle;
        },
      },
      state,
    );
    Object.assign(stream as { endpoint: StreamEndpoint }, { endpoint, closed: false });
    expect(endpoint.wanted).toBe(65537);
    expect(served).toMatchObject({ transport: 'tcp', listener: 'tcp', keyId: 0 });
    await renegotiates(net, owner, stream.client, served);
    served.restart('changed');
    await net.world.run(() => stream.client.had('restart'));
    await net.world.settle(10_000);
    expect(sender.closed).toBe(true);
    expect(owner.ends).toEqual([{ cause: 'closed', reason: 'changed' }]);
  });
});

describe('a server', () => {
  test('takes up no session of nonsense, and goes on', async () => {
    const net = new TestNetwork(settings({ kind: 'none' }));
    const client = net.udpClient(at(1000), { pki, certificate: alice });
    client.session.start();
    await net.world.run(() => client.had('established'));
    const state = saved(net.owner.clients[0]!.exportState());
    const { server } = restart(net, { kind: 'none' });
    const udp = server.openDatagram('udp', () => undefined);
    const sender = { send: () => undefined, close: () => undefined, idle: true };
    const wrong: object[] = [{ role: 'client' }, { sessionId: 7 }, { peerSessionId: undefined }, { wrapper: {} }];
    for (const change of wrong) {
      const bad = { ...state, ...change } as SessionState;
      expect(() => udp.resume(bad, at(1000))).toThrow(RangeError);
      expect(() => server.resumeStream('tcp', at(1000), sender, bad)).toThrow(RangeError);
    }
    expect([...server.clients()]).toEqual([]);
  });

  test('lets a client begin anew whose session it has taken up', async () => {
    const net = new TestNetwork(settings({ kind: 'none' }));
    const before = net.udpClient(at(1000), { pki, certificate: alice });
    before.session.start();
    await net.world.run(() => before.had('established'));
    const state = saved(net.owner.clients[0]!.exportState());
    const { owner, server } = restart(net, { kind: 'none' });
    const anew = net.udpClient(at(1000), { pki, certificate: alice });
    const udp = server.openDatagram('udp', (packet) => net.world.carry(() => void anew.session.receive(packet)));
    (net as { udp: DatagramEndpoint }).udp = udp;
    udp.resume(state, at(1000));
    anew.session.start();
    await net.world.run(() => anew.had('established'));
    expect(owner.ends).toMatchObject([{ cause: 'replaced-path' }]);
    expect([...server.clients()]).toHaveLength(1);
  });

  test('passes over what belongs to the TLS session that is gone', async () => {
    const net = new TestNetwork(settings({ kind: 'none' }));
    const client = net.udpClient(at(1000), { pki, certificate: alice });
    client.session.start();
    await net.world.run(() => client.had('established'));
    const state = saved(net.owner.clients[0]!.exportState());
    const { owner, server } = restart(net, { kind: 'none' });
    const udp = server.openDatagram('udp', (packet) => net.world.carry(() => void client.session.receive(packet)));
    (net as { udp: DatagramEndpoint }).udp = udp;
    const served = udp.resume(state, at(1000));
    client.session.exit();
    await net.world.settle(1000);
    expect(owner.ends).toEqual([]);
    // Farewells without a TLS session are silent, and ends all the same.
    served.restart('changed');
    await net.world.settle(1000);
    expect(owner.ends).toEqual([{ cause: 'closed', reason: 'changed' }]);
  });
});

describe.each(['udp', 'tcp'] as const)('a dialer that was started again, over %s', (transport) => {
  const remote = { host: '192.0.2.10', port: 1194, transport };
  const target = `192.0.2.10:1194/${transport}`;

  async function connected(wrap: keyof typeof wraps = 'tls-crypt') {
    const lab = new DialerLab({ pki, server: serverCertificate, client: alice }, [remote], {
      wrap: wraps[wrap]!.client as never,
    });
    lab.serve(target, { wrap: wraps[wrap]!.server });
    lab.onEstablished = (tunnel) =>
      tunnel.handOver(() => {
        lab.link.handedOver = true;
        return true;
      });
    lab.dialer.start();
    await lab.until('established');
    await lab.world.settle(1000);
    const state = saved(lab.tunnel.exportState());
    lab.dialer.close();
    await lab.world.settle(2000);
    const next = (settings = {}): Dialer => {
      const { world } = lab;
      return new Dialer({ ...lab.settings, ...settings }, lab, lab, {
        scheduler: world,
        random: testRandom,
        clock: world.clock,
      });
    };
    /** The same connection for the next program. */
    const connect: Parameters<Dialer['resume']>[2] = (events) => {
      (lab.link as { events: typeof events }).events = events;
      lab.link.closes = 0;
      return lab.link;
    };
    return { lab, state, next, connect };
  }

  test.each(Object.keys(wraps))('goes on with its tunnel, with %s', async (wrap) => {
    const { lab, state, next, connect } = await connected(wrap);
    const dialer = next();
    const tunnel = dialer.resume({ remote, address: '192.0.2.10' }, state, connect)!;
    expect(tunnel.exportState()).toMatchObject({ keyId: 0, sessionId: state.sessionId });
    dialer.start();
    for (let i = 0; i < 9; i++) {
      expect((i % 2 === 0 ? tunnel : lab.link.session!).rekey()).toBe(true);
      await lab.until('rekeyed', i + 1, 30_000);
      await lab.world.settle(1000);
      expect(lab.link.heard.filter(({ type }) => type === 'rekeyed')).toHaveLength(i + 1);
    }
    expect(lab.dialled).toEqual([target]);
    await Promise.all([dialer.stop(), lab.world.settle(10_000)]);
    expect(lab.link.heard.map(({ type }) => type)).toContain('exit');
    expect(lab.leftovers()).toEqual(nothingLeft);
  });

  test('dials again when the tunnel is lost, the same server first', async () => {
    const { lab, state, next, connect } = await connected();
    const dialer = next();
    dialer.resume({ remote, address: '192.0.2.10' }, state, connect);
    dialer.lostInKernel('gone');
    await lab.until('established', 2);
    expect(lab.dialled).toEqual([target, target]);
    dialer.close();
  });

  test('leaves a tunnel alone that its settings do not allow any more', async () => {
    const { state, next } = await connected();
    const never = (): never => {
      throw new Error('no connection is wanted');
    };
    const where = { remote, address: '192.0.2.10' };
    expect(next({ ciphers: ['AES-128-GCM'] }).resume(where, state, never)).toBeUndefined();
    expect(next({ remotes: [{ ...remote, port: 443 }] }).resume(where, state, never)).toBeUndefined();
    expect(() => next().resume(where, { ...state, role: 'server' }, never)).toThrow(RangeError);
  });

  test('closes the connection of a state whose wrapping is none', async () => {
    const { lab, state, next, connect } = await connected();
    const bad = { ...state, wrapper: {} } as SessionState;
    expect(() => next().resume({ remote, address: '192.0.2.10' }, bad, connect)).toThrow(RangeError);
    expect(lab.link.closes).toBe(1);
  });
});
