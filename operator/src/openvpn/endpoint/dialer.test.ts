import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Certificate, testPki, type TestPki } from '../tls/pki.fixture.ts';
import { tlsClient, tlsServer } from '../tls/tls-endpoint.ts';
import { frame } from '../wire/frame.ts';
import { wrapClientKey } from '../wrap/client-key.ts';
import type { WrapConfig } from '../wrap/session-wrapper.ts';
import type { ClientWrap, DialerSettings, Remote } from './dialer.ts';
import { type Behaviour, DialerLab, nothingLeft } from './dialer.fixture.ts';

let pki: TestPki;
let otherPki: TestPki;
let server: Certificate;
let client: Certificate;

beforeAll(() => {
  pki = testPki();
  otherPki = testPki('Other CA');
  server = pki.issue('server', { usage: 'serverAuth' });
  client = pki.issue('client', { usage: 'clientAuth' });
});

afterAll(() => {
  pki.remove();
  otherPki.remove();
});

const udp: Remote = { host: '192.0.2.1', port: 1194, transport: 'udp' };
const tcp: Remote = { host: '192.0.2.1', port: 1194, transport: 'tcp' };
const other: Remote = { host: '192.0.2.2', port: 443, transport: 'tcp' };
const atUdp = '192.0.2.1:1194/udp';
const atTcp = '192.0.2.1:1194/tcp';
const atOther = '192.0.2.2:443/tcp';

function lab(remotes: readonly Remote[], settings: Partial<DialerSettings> = {}): DialerLab {
  return new DialerLab({ pki, server, client }, remotes, settings);
}

/** One with a tunnel to a server at its first remote. */
async function connected(
  remotes: readonly Remote[] = [udp],
  behaviour: Behaviour = {},
  settings: Partial<DialerSettings> = {},
): Promise<DialerLab> {
  const it = lab(remotes, settings).serve(
    `${remotes[0]!.host}:${remotes[0]!.port}/${remotes[0]!.transport}`,
    behaviour,
  );
  it.dialer.start();
  await it.until('established');
  await it.world.settle();
  return it;
}

/** Nothing is left open or planned, and nothing is told any more. */
async function expectOver(it: DialerLab): Promise<void> {
  const { length } = it.told;
  // A connection may be on its way.
  await it.world.settle();
  expect(it.leftovers()).toEqual(nothingLeft);
  await it.world.settle(1_000_000);
  expect(it.told).toHaveLength(length);
}

const key = Uint8Array.from({ length: 256 }, (_, i) => i);
const serverKey = Uint8Array.from({ length: 128 }, (_, i) => i);

describe.each([
  ['none', () => [{ kind: 'none' }, { kind: 'none' }]],
  [
    'tls-auth',
    () => [
      { kind: 'tls-auth', key, digest: 'SHA256', direction: 1 },
      { kind: 'tls-auth', key, digest: 'SHA256', direction: 0 },
    ],
  ],
  [
    'tls-crypt',
    () => [
      { kind: 'tls-crypt', key },
      { kind: 'tls-crypt', key },
    ],
  ],
  [
    'tls-crypt-v2',
    () => [
      { kind: 'tls-crypt-v2-client', key, wrapped: wrapClientKey(serverKey, key, undefined) },
      { kind: 'tls-crypt-v2-server', serverKey },
    ],
  ],
] as const)('wrapped by %s', (_, wraps) => {
  test.each([udp, tcp])('a tunnel over $transport, with renegotiations from both sides', async (remote) => {
    const [ours, theirs] = wraps() as [ClientWrap, WrapConfig];
    const it = await connected([remote], { wrap: theirs }, { wrap: ours });
    const { established, tunnel } = it.all('established')[0]!;
    expect(established).toMatchObject({ cipher: 'AES-256-GCM', peerId: 5, push: { pingSeconds: 10 } });
    expect(tunnel).toMatchObject({ remote, transport: remote.transport, connection: it.link });
    expect(tunnel.exportState()).toMatchObject({ role: 'client', keyId: 0, negotiated: { peerId: 5 } });
    tunnel.handOver(() => (it.link.handedOver = true));

    expect(tunnel.rekey()).toBe(true);
    expect(tunnel.rekey()).toBe(false);
    await it.until('rekeyed', 1);
    await it.world.settle();
    expect(it.link.session?.rekey()).toBe(true);
    await it.until('rekeyed', 2);
    await it.world.settle();
    const theirKeys = it.link.heard.flatMap((event) => (event.type === 'rekeyed' ? [event.keys.encrypt] : []));
    expect(it.all('rekeyed').map(({ keyId, keys }) => [keyId, keys.decrypt])).toEqual([
      [1, theirKeys[0]],
      [2, theirKeys[1]],
    ]);
    it.dialer.close();
    await expectOver(it);
  });
});

describe('an owner that says when', () => {
  test('is asked before each try, and a second after it said no', async () => {
    const it = lab([udp]).serve(atUdp);
    const answers = [false, false, true, false, true];
    const asked: number[] = [];
    it.permission = () => {
      asked.push(it.world.clock());
      return Promise.resolve(answers.shift() ?? false);
    };
    it.dialer.start();
    await it.until('established');
    expect([asked.length, it.links.length]).toEqual([3, 1]);
    expect((asked[2] ?? 0) - (asked[0] ?? 0)).toBe(2_000);
    await it.world.settle();
    it.dialer.lostInKernel('gone');
    await it.until('established', 2);
    expect([asked.length, it.links.length]).toEqual([5, 2]);
    it.dialer.close();
    await expectOver(it);
  });

  test('that was asked is not heard any more once the dialer has stopped', async () => {
    const it = lab([udp]).serve(atUdp);
    const answer = Promise.withResolvers<boolean>();
    it.permission = () => answer.promise;
    it.dialer.start();
    await it.world.settle();
    await it.dialer.stop();
    answer.resolve(true);
    await expectOver(it);
    expect(it.links).toEqual([]);
  });
});

describe('which remote', () => {
  test('every address of every remote in turn, one at a time, then a wait, and what failed in words', async () => {
    const it = lab([
      { host: 'vpn.example', port: 1, transport: 'tcp' },
      udp,
      { ...tcp, host: 'nowhere.example' },
      other,
    ]);
    it.names.set('vpn.example', ['2001:db8::1', '192.0.2.9']);
    it.dialer.start();
    await it.until('lost', 10);
    const round = ['2001:db8::1:1/tcp', '192.0.2.9:1/tcp', atUdp, atOther];
    expect(it.dialled).toEqual([...round, ...round]);
    expect(
      it
        .all('lost')
        .map(({ reason }) => reason)
        .slice(0, 5),
    ).toEqual([
      'vpn.example:1/tcp (2001:db8::1): cannot connect: connection refused; check the address and the port, and that the server runs',
      'vpn.example:1/tcp (192.0.2.9): cannot connect: connection refused; check the address and the port, and that the server runs',
      '192.0.2.1:1194/udp: no answer within 20 s: check the address and the port, and that both sides have the same key for tls-auth or tls-crypt',
      'nowhere.example:1194/tcp: the name nowhere.example does not resolve: ENOTFOUND; check its spelling and the DNS of this node',
      '192.0.2.2:443/tcp: cannot connect: connection refused; check the address and the port, and that the server runs',
    ]);
    const waits = it.all('lost').map(({ retryInMs }) => retryInMs);
    expect(waits.filter((_, i) => i % 5 !== 4)).toEqual(Array.from({ length: 8 }, () => 0));
    expect([waits[4]! / 1000, waits[9]! / 2000].every((ratio) => ratio >= 0.8 && ratio <= 1.2)).toBe(true);
    expect(it.all('connecting')[4]!.at - it.all('connecting')[3]!.at).toBeCloseTo(waits[4]!);
    it.dialer.close();
    await expectOver(it);
  });

  test('a TCP connection that does not open in time is closed when it opens later', async () => {
    const it = lab([tcp, other], { connectSeconds: 3 }).serve(atTcp).serve(atOther);
    const gate = Promise.withResolvers<undefined>();
    it.connectGate = gate.promise.then(() => undefined);
    it.dialer.start();
    await it.until('lost');
    expect(it.world.time).toBe(3000);
    expect(it.all('lost')[0]!.reason).toContain('192.0.2.1:1194/tcp: no connection within 3 s');
    it.connectGate = Promise.resolve();
    await it.until('established');
    gate.resolve(undefined);
    await it.world.settle();
    expect(it.links.map(({ to, closes }) => [to, closes])).toEqual([
      [atOther, 0],
      [atTcp, 1],
    ]);
    it.dialer.close();
    await expectOver(it);
  });

  test('a name that is not resolved in time is a failed try, and what comes later is ignored', async () => {
    const it = lab([{ ...udp, host: 'slow.example' }, udp]).serve(atUdp);
    const slow = Promise.withResolvers<readonly string[]>();
    it.resolve = () => slow.promise;
    it.dialer.start();
    await it.until('established');
    slow.resolve(['192.0.2.77']);
    await it.world.settle();
    expect(it.all('lost')[0]!.reason).toContain(
      'slow.example:1194/udp: the name slow.example was not resolved within 10 s',
    );
    expect(it.dialled).toEqual([atUdp]);
    it.dialer.close();
    await expectOver(it);
  });

  test('a name without addresses', async () => {
    const it = lab([{ ...udp, host: 'empty.example' }]);
    it.names.set('empty.example', []);
    it.dialer.start();
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toContain('the name empty.example has no address');
    it.dialer.close();
    await expectOver(it);
  });
});

describe('what the server says', () => {
  test('AUTH_FAILED: words, the longest wait, and then the next remote', async () => {
    const it = lab([tcp, other])
      .serve(atTcp, { decide: (session) => session.refuse('no such user') })
      .serve(atOther);
    it.dialer.start();
    await it.until('lost');
    const { reason, retryInMs } = it.all('lost')[0]!;
    expect(reason).toBe(
      "192.0.2.1:1194/tcp: the server refused us (AUTH_FAILED): no such user; check our certificate; the server's log says why",
    );
    expect(retryInMs).toBeGreaterThanOrEqual(240_000);
    // The server has seen that we heard it.
    expect(it.links[0]!.heard.at(-1)).toEqual({ type: 'closed' });
    await it.until('established', 1, 400_000);
    expect(it.dialled).toEqual([atTcp, atOther]);
    it.dialer.close();
    await expectOver(it);
  });

  test('AUTH_FAILED,TEMP with a wait', async () => {
    let room = false;
    const decide: Behaviour['decide'] = (session) => {
      if (room) {
        session.accept({ peerId: 1 });
      } else {
        session.refuse('full', { temporary: true, backoffSeconds: 17 });
      }
    };
    const it = lab([udp]).serve(atUdp, { decide });
    it.dialer.start();
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toBe('192.0.2.1:1194/udp: the server does not take us in for now: full');
    expect(it.all('lost')[0]!.retryInMs).toBeGreaterThanOrEqual(17_000);
    expect(it.all('lost')[0]!.retryInMs).toBeLessThanOrEqual(20_400);
    room = true;
    await it.until('established');
    it.dialer.close();
    await expectOver(it);
  });

  test.each([
    [false, atUdp],
    [true, atOther],
  ])('RESTART (next remote: %s): at once after a good tunnel', async (nextRemote, then) => {
    const it = await connected([udp, other]);
    it.serve(atOther);
    it.world.time += 120_000;
    it.link.session!.restart('maintenance', { nextRemote });
    await it.until('established', 2);
    expect(it.dialled).toEqual([atUdp, then]);
    expect(it.all('lost')).toEqual([
      { what: 'lost', reason: '192.0.2.1:1194/udp: the server asked us to connect again: maintenance', retryInMs: 0 },
    ]);
    it.dialer.close();
    await expectOver(it);
  });

  test('HALT: the longest wait', async () => {
    const it = await connected();
    it.link.session!.halt('removed');
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toContain('the server told us to stay away (HALT): removed');
    expect(it.all('lost')[0]!.retryInMs).toBeGreaterThanOrEqual(240_000);
    it.dialer.close();
    await expectOver(it);
  });

  test('a tunnel that ends when its keepalive may is no success', async () => {
    for (const [milliseconds, wait] of [
      [119_000, 1000],
      [120_000, 0],
    ] as const) {
      const it = await connected([udp], { decide: (session) => session.accept({ peerId: 1, pingRestartSeconds: 60 }) });
      it.world.time += milliseconds;
      it.dialer.lostInKernel('expired');
      expect(Math.round(it.all('lost')[0]!.retryInMs / 1000) * 1000).toBe(wait);
      it.dialer.close();
      await expectOver(it);
    }
  });

  test('a tunnel that does not last is tried again with growing waits', async () => {
    const it = lab([udp]).serve(atUdp);
    it.onEstablished = () => it.world.after(1000, () => it.dialer.lostInKernel('expired'));
    it.dialer.start();
    await it.until('lost', 12, 5_000_000);
    const inSeconds = it.all('lost').map(({ retryInMs }) => retryInMs / 1000);
    const planned = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300];
    expect(inSeconds.map((wait, i) => wait / planned[i]!).every((ratio) => ratio >= 0.8 && ratio <= 1.2)).toBe(true);
    expect(new Set(inSeconds.slice(-3)).size).toBe(3);
    it.dialer.close();
    await expectOver(it);
  });
});

describe('certificates', () => {
  const compare = 'compare the CA, and what is demanded of the server, with the certificate of the server';
  test.each<[string, () => Partial<DialerSettings>, string]>([
    [
      'of a server that our CA does not know',
      () => ({ tls: tlsClient({ ca: otherPki.ca, ...client }, { remoteCertTls: 'server' }) }),
      `the peer's certificate was refused: the CA of the certificate is not one that is trusted here; ${compare}`,
    ],
    [
      'of another server than we want',
      () => ({ tls: tlsClient({ ca: pki.ca, ...client }, { name: { type: 'name', value: 'main' } }) }),
      `the peer was refused: its certificate has the name "server", not "main"; ${compare}`,
    ],
    [
      'that the server does not know',
      () => ({ tls: tlsClient({ ca: pki.ca, ...otherPki.issue('client') }, { remoteCertTls: 'server' }) }),
      "the server refused us (AUTH_FAILED): the peer's certificate was refused: the CA of the certificate is not one that is trusted here; check our certificate; the server's log says why",
    ],
    [
      'with a version of TLS that the server does not have',
      () => ({ tls: tlsClient({ ca: pki.ca, ...client, maxVersion: 'TLSv1.2' }, { remoteCertTls: 'server' }) }),
      `TLS failed: the other side ended it by the alert "protocol version": there is no common version of TLS; the server's log says why`,
    ],
  ])('%s', async (_, settings, words) => {
    const tls = tlsServer({ ca: pki.ca, ...server, minVersion: 'TLSv1.3' });
    const it = lab([udp], settings()).serve(atUdp, { options: { tls } });
    it.dialer.start();
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toBe(`192.0.2.1:1194/udp: ${words}`);
    it.dialer.close();
    await expectOver(it);
  });
});

describe('losing a tunnel', () => {
  test('in the kernel: the session is closed silently and the same server dialled again with other keys', async () => {
    const it = await connected([udp, other]);
    it.serve(atOther);
    it.world.time += 120_000;
    const writes = it.link.writes.length;
    it.dialer.lostInKernel('no data came for 60 s');
    expect(it.links[0]).toMatchObject({ closes: 1 });
    expect(it.all('lost')).toEqual([
      { what: 'lost', reason: '192.0.2.1:1194/udp: no data came for 60 s', retryInMs: 0 },
    ]);
    it.dialer.lostInKernel('says it twice');
    await it.until('established', 2);
    expect(it.links[0]!.writes).toHaveLength(writes);
    expect(it.dialled).toEqual([atUdp, atUdp]);
    const [first, second] = it.all('established').map(({ established }) => established.keys.fingerprint);
    expect(first).not.toBe(second);
    // The first tunnel is of no use any more, and does no harm.
    const { tunnel } = it.all('established')[0]!;
    tunnel.exit();
    expect([tunnel.rekey(), tunnel.exportState()]).toEqual([false, undefined]);
    tunnel.handOver(() => {
      throw new Error('must not be called');
    });
    expect(it.count('lost')).toBe(1);
    it.dialer.close();
    await expectOver(it);
  });

  test('the TCP connection ends', async () => {
    const it = await connected([tcp]);
    it.link.events.closed('connection reset by peer');
    it.link.events.closed('said twice');
    expect(it.all('lost').map(({ reason }) => reason)).toEqual([
      '192.0.2.1:1194/tcp: the connection was closed: connection reset by peer',
    ]);
    await it.until('established', 2);
    it.dialer.close();
    await expectOver(it);
  });

  test('the TCP connection ends before there is a tunnel: words for both cases', async () => {
    const it = lab([tcp]);
    it.hosts.set(atTcp, { kind: 'server', behaviour: { decide: () => it.link.events.closed() } });
    it.dialer.start();
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toContain('the connection was closed before there was a tunnel; the server');
    it.dialer.close();
    await expectOver(it);
  });

  test('it ends even before the connector has handed it out', async () => {
    const it = lab([tcp]).serve(atTcp);
    const connect = it.connect.bind(it);
    it.connect = async (to, events) => {
      events.closed('gone');
      return connect(to, events);
    };
    it.dialer.start();
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toContain('before there was a tunnel: gone;');
    it.dialer.close();
    await expectOver(it);
  });

  test('on request: EXIT, and again', async () => {
    const it = await connected();
    it.tunnel.exit();
    await it.until('established', 2);
    expect(it.links[0]!.heard.some(({ type }) => type === 'exit')).toBe(true);
    expect(it.all('lost')[0]!.reason).toBe('192.0.2.1:1194/udp: left on request');
    it.dialer.close();
    await expectOver(it);
  });
});

describe('handing over', () => {
  test('UDP: at once, and after "no" when asked again', async () => {
    const it = await connected();
    const takes: boolean[] = [];
    it.tunnel.handOver(() => takes.push(false) === 0);
    it.tunnel.handOver(() => takes.push(true) > 0);
    it.tunnel.handOver(() => takes.push(true) > 0);
    expect(takes).toEqual([false, true]);
    it.dialer.close();
    await expectOver(it);
  });

  const data = [Buffer.alloc(60, 0x48), Buffer.alloc(1500, 0x48), Buffer.from([0x48, 0, 0])];

  test.each([1, 2, 3, 7, 64, 65536])(
    'TCP, data behind the push in the same segment: %d bytes a read, nothing is read past the frame of the push',
    async (cut) => {
      const it = lab([tcp]).serve(atTcp, { data });
      it.cut = cut;
      let takenAt: number | undefined;
      it.onEstablished = (tunnel) => {
        // The frame of the push is being worked on; whatever it is, the kernel begins with the next.
        expect(it.link.frameEnds).toContain(it.link.read);
        const { read } = it.link;
        it.world.after(50, () => {
          expect(it.link.read).toBe(read);
          tunnel.handOver(() => {
            takenAt = it.link.read;
            return (it.link.handedOver = true);
          });
          it.link.readOn();
        });
      };
      it.dialer.start();
      await it.until('established');
      expect(it.link.waiting.length).toBeGreaterThanOrEqual(data[1]!.length);
      await it.world.settle(100);
      expect(it.link.frameEnds).toContain(takenAt);
      // From here on whole frames come, and the session goes on.
      it.tunnel.rekey();
      await it.until('rekeyed');
      it.dialer.close();
      await expectOver(it);
    },
  );

  test('TCP, data before the push: passed over', async () => {
    const it = lab([tcp]).serve(atTcp, {
      decide: (session) => {
        // Longer than any control packet.
        it.link.put(frame(Buffer.alloc(9000, 0x48)));
        session.accept({ peerId: 1 });
      },
    });
    it.dialer.start();
    await it.until('established');
    it.dialer.close();
    await expectOver(it);
  });

  test('TCP, asked for in the middle of a frame: when that is whole', async () => {
    const it = lab([tcp]).serve(atTcp);
    let taken = false;
    it.dialer.start();
    await it.until('established');
    await it.world.settle();
    for (const [i, byte] of [0, 3, 0x48, 0, 0].entries()) {
      it.link.events.packet(Buffer.from([byte]));
      if (i === 0) {
        it.tunnel.handOver(() => (taken = true));
      }
      expect(taken).toBe(i === 4);
    }
    it.dialer.close();
    await expectOver(it);
  });

  test('TCP, and with bytes of ours still to go out: when they are out, too', async () => {
    const it = lab([tcp]).serve(atTcp);
    const takes: number[] = [];
    it.dialer.start();
    await it.until('established');
    await it.world.settle();
    const { link } = it;
    // A socket that had asked before the push was complete reads on into the next frame.
    link.events.packet(Buffer.from([0]));
    link.idle = false;
    it.tunnel.handOver(() => takes.push(1) > 0);
    expect(link.events.wanted()).toBe(1);
    link.events.packet(Buffer.from([3]));
    expect(link.events.wanted()).toBe(3);
    link.events.packet(Buffer.from([0x48, 0]));
    expect(link.events.wanted()).toBe(1);
    link.events.packet(Buffer.from([0]));
    expect(link.events.wanted()).toBe(0);
    expect(takes).toEqual([]);
    link.events.drained();
    expect(takes).toEqual([]);
    link.idle = true;
    link.events.drained();
    expect(takes).toEqual([1]);
    expect(link.events.wanted()).toBeGreaterThan(65536);
    link.events.drained();
    expect(takes).toEqual([1]);
    it.dialer.close();
    await expectOver(it);
  });

  test('not once the tunnel is lost', async () => {
    const it = await connected([tcp]);
    it.link.idle = false;
    it.tunnel.handOver(() => {
      throw new Error('must not be called');
    });
    it.dialer.lostInKernel('no');
    it.links[0]!.idle = true;
    it.links[0]!.events.drained();
    it.dialer.close();
    await expectOver(it);
  });
});

describe('stopping', () => {
  const phases: [string, (it: DialerLab) => Promise<void>][] = [
    ['before the start', () => Promise.resolve()],
    [
      'while a name is resolved',
      async (it) => {
        it.resolve = () => new Promise(() => undefined);
        it.dialer.configure({ ...it.settings, remotes: [{ ...udp, host: 'slow.example' }] });
        it.dialer.start();
        await it.world.settle();
      },
    ],
    [
      'while connecting',
      async (it) => {
        const gate = Promise.withResolvers<undefined>();
        it.connectGate = gate.promise.then(() => undefined);
        it.world.after(7000, () => gate.resolve(undefined));
        it.dialer.start();
        await it.world.settle(1000);
      },
    ],
    [
      'in the middle of the handshake',
      async (it) => {
        it.dialer.start();
        await it.world.run(() => it.links.some(({ writes }) => writes.length > 2));
        expect(it.count('established')).toBe(0);
      },
    ],
    [
      'while waiting',
      async (it) => {
        it.hosts.clear();
        it.dialer.start();
        await it.until('lost');
      },
    ],
    [
      'while the server is being left',
      async (it) => {
        it.dialer.start();
        await it.until('established');
        it.tunnel.exit();
      },
    ],
    [
      'while the server sends us away',
      async (it) => {
        it.dialer.start();
        await it.until('established');
        it.link.session!.restart('going');
        await it.world.run(() => it.link.writes.length < 0, 100);
      },
    ],
    [
      'with a tunnel',
      async (it) => {
        it.dialer.start();
        await it.until('established');
      },
    ],
  ];

  test.each(
    phases.flatMap(
      ([name, reach]) =>
        [
          ['stop', name, reach],
          ['close', name, reach],
        ] as const,
    ),
  )('%s %s', async (how, _, reach) => {
    const it = lab([tcp]).serve(atTcp);
    await reach(it);
    const { length } = it.told;
    if (how === 'close') {
      it.dialer.close();
    } else {
      let done = false;
      const stopping = it.dialer.stop().then(() => (done = true));
      const also = it.dialer.stop();
      await it.world.run(() => done, 5000);
      expect(done).toBe(true);
      await Promise.all([stopping, also]);
    }
    // A connection that is being made is closed when it comes.
    await it.world.settle(10_000);
    expect(it.told).toHaveLength(length);
    it.dialer.start();
    it.dialer.configure({ ...it.settings, remotes: [other] });
    it.dialer.lostInKernel('late');
    await expectOver(it);
  });

  test('the server hears EXIT', async () => {
    const it = await connected();
    await Promise.all([it.dialer.stop(), it.world.settle(100)]);
    expect(it.link.heard.at(-1)).toEqual({ type: 'exit' });
    expect(it.world.time).toBeLessThan(100 + 1000);
    await expectOver(it);
  });

  test('the server hears EXIT also when it was being left for another reason', async () => {
    const it = await connected();
    it.tunnel.exit();
    await Promise.all([it.dialer.stop(), it.world.settle(100)]);
    expect(it.link.heard.at(-1)).toEqual({ type: 'exit' });
    await expectOver(it);
  });

  test('a server that does not answer is waited for five seconds, or until closed', async () => {
    for (const patience of [6000, 2000]) {
      const it = await connected();
      it.link.lost = true;
      const began = it.world.time;
      let doneAt = 0;
      const stopping = it.dialer.stop().then(() => (doneAt = it.world.time));
      it.world.after(2000, () => patience === 2000 && it.dialer.close());
      await it.world.run(() => doneAt > 0, 10_000);
      await stopping;
      expect(doneAt - began).toBe(Math.min(patience, 5000));
      await expectOver(it);
    }
  });

  test.each(['onConnecting', 'onEstablished', 'onLost'] as const)('from inside of %s', async (where) => {
    const it = lab([udp]).serve(atUdp);
    it[where] = () => it.dialer.close();
    it.dialer.start();
    await it.world.run(() => it.count('established') > 0);
    await it.world.settle();
    expect(it.links).toHaveLength(where === 'onConnecting' ? 0 : 1);
    it.dialer.lostInKernel('no');
    await expectOver(it);
  });
});

describe('other settings', () => {
  test.each<[string, Partial<DialerSettings>, boolean]>([
    ['the same', {}, false],
    ['a fallback more', { remotes: [other, udp] }, false],
    ['a cipher more', { ciphers: ['CHACHA20-POLY1305', 'AES-256-GCM'] }, false],
    ['an equal wrapping', { wrap: { kind: 'tls-crypt', key: Uint8Array.from(key) } }, false],
    ['other times', { renegotiateSeconds: 77, handshakeSeconds: 5, answerSeconds: 5 }, false],
    ['without the remote', { remotes: [other] }, true],
    ['without the cipher', { ciphers: ['CHACHA20-POLY1305'] }, true],
    ['another wrapping key', { wrap: { kind: 'tls-crypt', key: key.map((byte) => byte ^ 1) } }, true],
    ['another kind of wrapping', { wrap: { kind: 'none' } }, true],
    ['another MTU', { maxTunMtu: 1400 }, true],
  ])('%s, with a tunnel: connects again? %#', async (_, change, again) => {
    const crypt = { kind: 'tls-crypt', key } as const;
    const it = await connected([udp], { wrap: crypt }, { wrap: crypt });
    it.dialer.configure({ ...it.settings, ...change });
    await it.world.run(() => it.count('connecting') > 1, 6000);
    expect(it.count('connecting')).toBe(again ? 2 : 1);
    expect(it.all('lost').map(({ retryInMs }) => retryInMs)).toEqual(again ? [0] : []);
    expect(it.links[0]!.heard.some(({ type }) => type === 'exit')).toBe(again);
    it.dialer.close();
    await expectOver(it);
  });

  test('a list in another order: after a loss the same remote comes first', async () => {
    const it = await connected([udp, other]);
    it.serve(atOther);
    it.dialer.configure({ ...it.settings, remotes: [other, tcp, udp] });
    it.dialer.lostInKernel('expired');
    await it.until('established', 2);
    expect(it.dialled).toEqual([atUdp, atUdp]);
    it.dialer.close();
    await expectOver(it);
  });

  test('other credentials: a new connection with them, as servers refuse them in a renegotiation', async () => {
    const it = await connected();
    const renewed = pki.issue('renamed', { usage: 'clientAuth' });
    it.dialer.configure({ ...it.settings, tls: tlsClient({ ca: pki.ca, ...renewed }, { remoteCertTls: 'server' }) });
    await it.until('established', 2);
    expect(it.links[0]!.heard.some(({ type }) => type === 'exit')).toBe(true);
    expect(it.link.heard[0]).toMatchObject({ type: 'authenticated', client: { identity: { commonName: 'renamed' } } });
    it.dialer.close();
    await expectOver(it);
  });

  test('while waiting: tried at once, from the first remote on', async () => {
    const it = lab([tcp]).serve(atTcp, { decide: (session) => session.refuse('no') });
    it.dialer.start();
    await it.until('lost');
    const { time } = it.world;
    it.dialer.configure({ ...it.settings, renegotiateSeconds: 5 });
    expect(it.count('connecting')).toBe(1);
    it.serve(atOther);
    it.dialer.configure({ ...it.settings, remotes: [other, tcp] });
    await it.until('established');
    expect([it.dialled, it.world.time]).toEqual([[atTcp, atOther], time]);
    it.dialer.close();
    await expectOver(it);
  });

  test('in the middle of a handshake: that is given up', async () => {
    const it = lab([tcp]).serve(atTcp).serve(atOther);
    it.dialer.start();
    await it.world.run(() => it.links.length > 0 && it.link.writes.length > 2);
    it.dialer.configure({ ...it.settings, remotes: [other] });
    await it.until('established');
    expect(it.links.map(({ to, closes }) => [to, closes])).toEqual([
      [atTcp, 1],
      [atOther, 0],
    ]);
    it.dialer.close();
    await expectOver(it);
  });

  test('without a remote is no setting', () => {
    const it = lab([udp]);
    expect(() => it.dialer.configure({ ...it.settings, remotes: [] })).toThrow(RangeError);
    expect(() => lab([])).toThrow(RangeError);
  });
});

describe("a server's garbage", () => {
  const noise = (i: number): Buffer =>
    Buffer.from(Array.from({ length: (i * 7) % 90 }, (_, j) => (i * 31 + j * j) & 0xff));

  test.each([udp, tcp])('over $transport never throws, before, while and after there is a tunnel', async (remote) => {
    for (const moment of ['first', 'handshake', 'tunnel']) {
      const it = lab([remote]).serve(`192.0.2.1:1194/${remote.transport}`);
      it.dialer.start();
      await it.world.run(() => it.links.length > 0);
      if (moment !== 'first') {
        await it.world.run(() => (moment === 'tunnel' ? it.count('established') > 0 : it.link.writes.length > 2));
      }
      const { link } = it;
      for (let i = 0; i < 500; i++) {
        link.events.packet(noise(i));
        const opened = Buffer.concat([Buffer.from([(3 + (i % 9)) << 3]), noise(i)]);
        link.events.packet(
          remote.transport === 'udp' ? opened : Buffer.concat([Buffer.from([0, opened.length]), opened]),
        );
      }
      expect(it.all('lost').length).toBeLessThanOrEqual(1);
      it.dialer.close();
      await expectOver(it);
    }
  });

  test('an HTTP server is found out', async () => {
    const it = lab([tcp]).serve(atTcp);
    it.dialer.start();
    await it.world.run(() => it.links.length > 0);
    it.link.events.packet(Buffer.from('\0\0 400 Bad Request'));
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toBe(
      '192.0.2.1:1194/tcp: what the server sent is a frame without a packet: check that this is the TCP port of an OpenVPN server',
    );
    it.dialer.close();
    await expectOver(it);
  });

  test('packets that do not fit are named when no others come', async () => {
    const it = lab([udp], { wrap: { kind: 'tls-crypt', key } }).serve(atUdp, {
      wrap: { kind: 'tls-crypt', key: key.map((byte) => byte ^ 1) },
    });
    it.dialer.start();
    await it.world.run(() => it.links.length > 0);
    it.link.put(Buffer.concat([Buffer.from([8 << 3]), Buffer.alloc(60, 7)]));
    await it.until('lost');
    expect(it.all('lost')[0]!.reason).toContain(
      'no answer within 20 s (packets came that do not fit: unauthenticated)',
    );
    it.dialer.close();
    await expectOver(it);
  });
});
