import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Certificate, testPki, type TestPki } from '../tls/pki.fixture.ts';
import { tlsServer } from '../tls/tls-endpoint.ts';
import { wrapClientKey } from '../wrap/client-key.ts';
import type { WrapConfig } from '../wrap/session-wrapper.ts';
import type { Path } from './path.ts';
import { type ClientSetup, TestNetwork } from './server.fixture.ts';
import type { ServerSettings } from './server-settings.ts';

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
const wraps: Record<string, () => { server: WrapConfig; client: WrapConfig }> = {
  none: () => ({ server: { kind: 'none' }, client: { kind: 'none' } }),
  'tls-auth': () => ({
    server: { kind: 'tls-auth', key, digest: 'SHA256', direction: 0 },
    client: { kind: 'tls-auth', key, digest: 'SHA256', direction: 1 },
  }),
  'tls-crypt': () => ({ server: { kind: 'tls-crypt', key }, client: { kind: 'tls-crypt', key } }),
  'tls-crypt-v2': () => ({
    server: { kind: 'tls-crypt-v2-server', serverKey },
    client: { kind: 'tls-crypt-v2-client', key, wrapped: wrapClientKey(serverKey, key, undefined) },
  }),
};

function network(settings: Partial<ServerSettings> = {}): TestNetwork {
  return new TestNetwork({
    wrap: { kind: 'none' },
    tls: tlsServer({ ca: pki.ca, ...serverCertificate }),
    ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
    tunMtu: 1400,
    limits: { halfOpen: 100, halfOpenPerSource: 10, repliesPerSecond: 100 },
    ...settings,
  });
}

const as = (certificate: Certificate, more: Partial<ClientSetup> = {}): ClientSetup => ({ pki, certificate, ...more });

function at(port: number, address = '192.0.2.1'): Path {
  return { remote: { address, port }, local: '198.51.100.1' };
}

describe.each(Object.keys(wraps))('a client with %s', (name) => {
  test('connects over UDP, renegotiates and leaves', async () => {
    const { server, client } = wraps[name]!();
    const net = network({ wrap: server });
    const alices = net.udpClient(at(1000), as(alice, { wrap: client }));
    alices.session.start();
    await net.world.run(() => alices.had('established'));
    await net.world.settle();
    expect(net.owner.told.map(({ what }) => what)).toEqual(['authenticated', 'established']);
    const served = net.owner.clients[0]!;
    expect(served).toMatchObject({ transport: 'udp', listener: 'udp', keyId: 0, identity: { commonName: 'alice' } });
    expect(served.path).toEqual(at(1000));
    expect(net.owner.told[1]!.established!.keys.decrypt).toEqual(alices.event('established')!.established.keys.encrypt);
    expect(net.server.halfOpen).toBe(0);
    expect([...net.server.clients()]).toEqual([served]);

    expect(served.rekey()).toBe(true);
    await net.world.run(() => alices.had('rekeyed') && net.owner.count('rekeyed') === 1);
    expect(served.keyId).toBe(1);

    alices.session.exit();
    await net.world.run(() => net.owner.ends.length > 0);
    expect(net.owner.ends).toEqual([{ cause: 'exit', reason: 'the client left' }]);
    expect([...net.server.clients()]).toEqual([]);
    await net.world.settle(10_000);
    expect(net.owner.ends).toHaveLength(1);
    expect(net.world.timers).toBe(0);
  });

  test.each([1, 7, 65536])('does so over TCP in reads of at most %d bytes', async (cut) => {
    const { server, client } = wraps[name]!();
    const net = network({ wrap: server });
    const stream = net.tcpClient(at(1000), as(alice, { wrap: client }), cut);
    const handOvers: number[] = [];
    net.owner.programKernel = (served) => {
      served.handOver(() => {
        handOvers.push(stream.reads.length);
        stream.handedOver = true;
        served.confirm();
        return true;
      });
    };
    stream.client.session.start();
    await net.world.run(() => stream.client.had('established'));
    await net.world.settle();
    expect(handOvers).toHaveLength(1);
    const before = stream.reads.slice(0, handOvers[0]);
    expect(before.every(({ bytes, wanted }) => bytes.length <= wanted)).toBe(true);
    expect(stream.endpoint.wanted).toBe(65537);

    const served = net.owner.clients[0]!;
    stream.client.session.rekey();
    await net.world.run(() => stream.client.had('rekeyed') && net.owner.count('rekeyed') === 1);
    expect(served.keyId).toBe(1);
    stream.client.session.exit();
    await net.world.run(() => net.owner.ends.length > 0);
    await net.world.settle(10_000);
    expect(net.owner.ends).toEqual([{ cause: 'exit', reason: 'the client left' }]);
    expect(stream.closed).toBe(true);
    expect(net.world.timers).toBe(0);
  });
});
