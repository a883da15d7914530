import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { duplexPair } from 'node:stream';
import tls from 'node:tls';
import { setImmediate as tick } from 'node:timers/promises';
import { dataKeysLabel, dynamicTlsCryptLabel } from '../negotiate/data-keys.ts';
import { ControlPipe } from './control-pipe.ts';
import { type Certificate, testPki, type TestPki } from './pki.fixture.ts';
import { whyNotWanted } from './peer-checks.ts';
import { parseAltNames, peerIdentity } from './peer-identity.ts';
import {
  type Secured,
  tlsClient,
  type TlsCredentials,
  TlsEndpoint,
  type TlsFactory,
  tlsServer,
} from './tls-endpoint.ts';

let pki: TestPki;
let otherPki: TestPki;
let server: Certificate;
let client: Certificate;

beforeAll(() => {
  pki = testPki();
  otherPki = testPki('Another CA');
  server = pki.issue('server', { usage: 'serverAuth' });
  client = pki.issue('client', { usage: 'clientAuth' });
});

afterAll(() => {
  pki.remove();
  otherPki.remove();
});

class End {
  readonly endpoint: TlsEndpoint;
  secured: Secured | undefined;
  failure: string | undefined;
  refusal: string | undefined;
  temporary: boolean | undefined;
  readonly received: string[] = [];
  readonly packets: number[] = [];

  constructor(factory: TlsFactory) {
    this.endpoint = factory.open({
      secured: (secured) => (this.secured = secured),
      refused: (reason, temporary) => {
        this.refusal = reason;
        this.temporary = temporary;
      },
      data: (plaintext) => this.received.push(plaintext.toString()),
      failed: (reason) => (this.failure = reason),
      output: () => undefined,
      hungry: () => undefined,
    });
  }
}

/** Carries packets between two ends until both have been silent for some turns of the event loop. */
async function carry(ends: readonly [End, End], max = 1150): Promise<void> {
  for (let quiet = 0; quiet < 20; quiet++) {
    for (const [from, to] of [ends, ends.toReversed() as [End, End]]) {
      for (let bytes = from.endpoint.take(max); bytes !== undefined; bytes = from.endpoint.take(max)) {
        from.packets.push(bytes.length);
        to.endpoint.deliver(bytes);
        quiet = 0;
      }
    }
    await tick();
  }
}

async function handshake(
  serverChange: Partial<TlsCredentials> = {},
  clientChange: Partial<TlsCredentials> = {},
  factories: { server?: TlsFactory; client?: TlsFactory } = {},
): Promise<{ s: End; c: End }> {
  const s = new End(factories.server ?? tlsServer({ ca: pki.ca, ...server, ...serverChange }));
  const c = new End(
    factories.client ?? tlsClient({ ca: pki.ca, ...client, ...clientChange }, { remoteCertTls: 'server' }),
  );
  await carry([s, c]);
  return { s, c };
}

const close = ({ s, c }: { s: End; c: End }): void => [s, c].forEach(({ endpoint }) => endpoint.destroy());

describe.each(['TLSv1.2', 'TLSv1.3'] as const)('%s', (version) => {
  const only = { minVersion: version, maxVersion: version };

  test('both sides know each other and export the same keys', async () => {
    const ends = await handshake(only);
    expect([ends.s.failure, ends.c.failure]).toEqual([undefined, undefined]);
    expect(ends.s.secured).toMatchObject({ version, identity: { commonName: 'client' } });
    expect(ends.c.secured).toMatchObject({ version, identity: { commonName: 'server' } });
    for (const label of [dataKeysLabel, dynamicTlsCryptLabel]) {
      const exported = ends.s.endpoint.exportKey(label);
      expect(exported).toHaveLength(256);
      expect(ends.c.endpoint.exportKey(label)).toEqual(exported);
    }
    expect(ends.s.endpoint.exportKey(dataKeysLabel)).not.toEqual(ends.s.endpoint.exportKey(dynamicTlsCryptLabel));
    close(ends);
  });

  test('every message is a record of its own, and none of the packets is too long', async () => {
    const ends = await handshake(only);
    const messages = Array.from({ length: 20 }, (_, i) => `message ${i} ${'x'.repeat(i * 100)}`);
    messages.forEach((message) => ends.s.endpoint.write(Buffer.from(message)));
    ends.c.endpoint.write(Buffer.from('answer'));
    await carry([ends.s, ends.c]);
    expect(ends.c.received).toEqual(messages);
    expect(ends.s.received).toEqual(['answer']);
    expect(Math.max(...ends.s.packets, ...ends.c.packets)).toBeLessThanOrEqual(1150);
    close(ends);
  });

  describe('a client certificate', () => {
    const refusal = async (
      certificate: Partial<TlsCredentials>,
      serverChange: Partial<TlsCredentials> = {},
    ): Promise<string | undefined> => {
      const ends = await handshake({ ...only, ...serverChange }, certificate);
      // It can be told, and nothing more.
      ends.s.endpoint.write(Buffer.from('not you'));
      await carry([ends.s, ends.c]);
      expect(ends.c.received).toEqual(['not you']);
      expect(ends.s.secured).toBeUndefined();
      expect(() => ends.s.endpoint.exportKey(dataKeysLabel)).toThrow();
      expect(ends.s.failure).toBeUndefined();
      close(ends);
      // What only a new certificate helps against has to be told from what time heals.
      return `${ends.s.refusal} (${ends.s.temporary === true ? 'for now' : 'for good'})`;
    };

    test('of another CA is refused', async () => {
      expect(await refusal(otherPki.issue('client', { usage: 'clientAuth' }))).toMatch(
        /(CA is unknown|not one that is).*for good/,
      );
    });

    test('that has expired is refused', async () => {
      expect(await refusal(pki.issue('late', { usage: 'clientAuth', expired: true }))).toMatch(/has expired.*for now/);
    });

    test('that is not valid yet is refused', async () => {
      expect(await refusal(pki.issue('early', { usage: 'clientAuth', notYetValid: true }))).toMatch(
        /valid yet.*for now/,
      );
    });

    test('for servers is refused', async () => {
      expect(await refusal(pki.issue('impostor', { usage: 'serverAuth' }))).toMatch(/not for this use.*for good/);
    });

    test('that is revoked is refused, while others come in', async () => {
      const revoked = pki.issue('revoked', { usage: 'clientAuth' });
      pki.revoke('revoked');
      const crl = pki.crl();
      expect(await refusal(revoked, { crl })).toMatch(/is revoked.*for good/);
      const ends = await handshake({ ...only, crl });
      expect(ends.s.secured?.identity.commonName).toBe('client');
      close(ends);
    });

    test('that is missing is refused', async () => {
      const none = tlsClientWithoutCertificate(version);
      const ends = await handshake(only, {}, { client: none });
      expect(ends.s.secured).toBeUndefined();
      expect(ends.s.refusal).toMatch(/no certificate/);
      expect(ends.s.temporary).toBe(false);
      close(ends);
    });
  });

  describe("a server's certificate", () => {
    test.each([
      ['of another CA', () => ({ ...otherPki.issue('server', { usage: 'serverAuth' as const }) }), /CA/],
      ['for clients', () => client, /not for this use/],
      ['without a use', () => pki.issue('plain'), /extended key usage does not say so/],
      ['that has expired', () => pki.issue('old', { usage: 'serverAuth', expired: true }), /has expired/],
    ])('%s is refused', async (_, certificate, words) => {
      const ends = await handshake({ ...only, ...certificate() });
      expect(ends.c.secured).toBeUndefined();
      expect(ends.c.failure).toMatch(words);
      close(ends);
    });
  });
});

function tlsClientWithoutCertificate(version: 'TLSv1.2' | 'TLSv1.3'): TlsFactory {
  const credentials = { ca: pki.ca, minVersion: version, maxVersion: version };
  return tlsClient(credentials as unknown as TlsCredentials, {});
}

/** A TLS 1.2 client or server that takes one cipher, as no other code of ours does. */
function oneCipher(role: 'client' | 'server', ciphers: string, certificate: Certificate): TlsFactory {
  return {
    open: (events) => {
      const endpoint = new TlsEndpoint(role, events, {});
      const options = { ca: pki.ca, ...certificate, ciphers, maxVersion: 'TLSv1.2', minVersion: 'TLSv1.2' } as const;
      if (role === 'client') {
        const socket = tls.connect({ ...options, socket: endpoint.pipe, checkServerIdentity: () => undefined });
        socket.once('secureConnect', () => endpoint.attach(socket));
        socket.on('error', (error) => endpoint.fail(error, socket));
      } else {
        const one = tls.createServer({ ...options, requestCert: true, dhparam: 'auto' });
        one.on('secureConnection', (socket) => endpoint.attach(socket));
        one.on('tlsClientError', (error, socket) => endpoint.fail(error, socket));
        one.emit('connection', endpoint.pipe);
      }
      return endpoint;
    },
  };
}

test.each([
  ['AES256-GCM-SHA384', false],
  ['AES128-SHA', false],
  ['ECDHE-RSA-AES256-SHA384', false],
  ['ECDHE-RSA-AES256-GCM-SHA384', true],
  ['ECDHE-RSA-AES128-GCM-SHA256', true],
  ['ECDHE-RSA-CHACHA20-POLY1305', true],
])(
  'with TLS 1.2 a recorded session stays secret when a key is stolen later: %s is taken: %p',
  async (cipher, taken) => {
    const rsa = pki.issue('rsa', { usage: 'serverAuth', rsa: true });
    const asServer = await handshake(rsa, {}, { client: oneCipher('client', cipher, client) });
    expect(asServer.s.secured?.cipher).toBe(taken ? cipher : undefined);
    const asClient = await handshake({}, {}, { server: oneCipher('server', cipher, rsa) });
    expect(asClient.c.secured?.cipher).toBe(taken ? cipher : undefined);
    close(asServer);
    close(asClient);
  },
);

test('of a server that knows no elliptic curves a client takes finite-field Diffie-Hellman', async () => {
  const rsa = pki.issue('rsa', { usage: 'serverAuth', rsa: true });
  const ends = await handshake({}, {}, { server: oneCipher('server', 'DHE-RSA-AES256-GCM-SHA384', rsa) });
  expect(ends.c.secured?.cipher).toBe('DHE-RSA-AES256-GCM-SHA384');
  close(ends);
});

test.each(['TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256', 'TLS_AES_128_GCM_SHA256'])(
  'with TLS 1.3 %s is taken',
  async (cipher) => {
    const secureContext = tls.createSecureContext({ ca: pki.ca, ...client, ciphers: cipher, minVersion: 'TLSv1.3' });
    const one: TlsFactory = {
      open: (events) => {
        const endpoint = new TlsEndpoint('client', events, {});
        const socket = tls.connect({ secureContext, socket: endpoint.pipe, checkServerIdentity: () => undefined });
        socket.once('secureConnect', () => endpoint.attach(socket));
        return endpoint;
      },
    };
    const ends = await handshake({}, {}, { client: one });
    expect(ends.s.secured).toMatchObject({ version: 'TLSv1.3', cipher });
    close(ends);
  },
);

test('one server tells its clients apart, also while they connect at once', async () => {
  const factory = tlsServer({ ca: pki.ca, ...server });
  const names = ['client', 'second', 'third'];
  const pairs = names.map((name, i) => {
    const certificate = i === 0 ? client : pki.issue(name, { usage: 'clientAuth' });
    return { s: new End(factory), c: new End(tlsClient({ ca: pki.ca, ...certificate }, {})) };
  });
  await Promise.all(pairs.map(({ s, c }) => carry([s, c])));
  expect(pairs.map(({ s }) => s.secured?.identity.commonName)).toEqual(names);
  pairs.forEach(close);
});

test('the two sides need a TLS version in common, and the alert reaches the other side', async () => {
  const ends = await handshake({ minVersion: 'TLSv1.3' }, { maxVersion: 'TLSv1.2' });
  expect(ends.s.failure).toMatch(/TLS failed/);
  expect(ends.c.failure).toMatch(/alert|version/);
  close(ends);
});

test.each(['TLSv1.2', 'TLSv1.3'] as const)('no session is resumed, past a revocation for one: %s', async (version) => {
  const factory = tlsServer({ ca: pki.ca, ...server, minVersion: version, maxVersion: version });
  /** A client that keeps what it may resume by, and resumes if it can. */
  const connect = async (session?: Buffer): Promise<{ reused: boolean; session: Buffer | undefined; s: End }> => {
    const s = new End(factory);
    const [near, far] = duplexPair();
    const options = { socket: near, ca: pki.ca, ...client, checkServerIdentity: () => undefined };
    const socket = tls.connect(session === undefined ? options : { ...options, session });
    socket.on('error', () => undefined);
    let kept: Buffer | undefined;
    socket.on('session', (given: Buffer) => (kept = given));
    far.on('data', (bytes: Buffer) => s.endpoint.deliver(bytes));
    // Whatever comes first has to be read for a ticket behind it to be seen.
    socket.resume();
    for (let turn = 0; turn < 200; turn++) {
      for (let out = s.endpoint.take(65_536); out !== undefined; out = s.endpoint.take(65_536)) far.write(out);
      await tick();
    }
    const found = { reused: socket.isSessionReused(), session: kept ?? socket.getSession(), s };
    s.endpoint.destroy();
    socket.destroy();
    return found;
  };
  const first = await connect();
  expect(first.s.secured?.identity.commonName).toBe('client');
  expect(first.session).toBeDefined();
  const second = await connect(first.session);
  expect(second.s.secured?.identity.commonName).toBe('client');
  expect(second.reused).toBe(false);
});

test('junk instead of TLS fails the session and nothing else', async () => {
  const s = new End(tlsServer({ ca: pki.ca, ...server }));
  s.endpoint.deliver(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
  await tick();
  await tick();
  expect(s.failure).toMatch(/TLS failed/);
  s.endpoint.deliver(Buffer.alloc(100));
  s.endpoint.destroy();
});

test('after destroy nothing is told any more', async () => {
  const ends = await handshake();
  close(ends);
  ends.s.endpoint.write(Buffer.from('late'));
  ends.s.endpoint.deliver(Buffer.alloc(100));
  await tick();
  expect([ends.s.failure, ends.c.failure]).toEqual([undefined, undefined]);
});

describe('what is demanded of a peer', () => {
  test('name, name prefix, subject, use and fingerprint', () => {
    const { cert } = pki.issue('gateway-1', { usage: 'serverAuth', subject: '/C=DE/O=Example, Inc./CN=gateway-1' });
    const identity = peerIdentity(new X509Certificate(cert));
    const reason = (checks: Parameters<typeof whyNotWanted>[1]): string | undefined => whyNotWanted(identity, checks);
    expect(identity.subject).toBe('C=DE, O=Example, Inc., CN=gateway-1');
    expect(reason({})).toBeUndefined();
    expect(reason({ name: { type: 'name', value: 'gateway-1' } })).toBeUndefined();
    expect(reason({ name: { type: 'name', value: 'gateway' } })).toContain('has the name "gateway-1", not "gateway"');
    expect(reason({ name: { type: 'name-prefix', value: 'gateway-' } })).toBeUndefined();
    expect(reason({ name: { type: 'name-prefix', value: 'x' } })).toContain('"gateway-1", not "x"');
    expect(reason({ name: { type: 'name-prefix', value: '' } })).toBeDefined();
    const long = whyNotWanted(
      { ...identity, subject: 'O=o, '.repeat(10_000) },
      { name: { type: 'subject', value: 'x' } },
    );
    expect(long!.length).toBeLessThan(400);
    expect(reason({ name: { type: 'subject', value: identity.subject } })).toBeUndefined();
    expect(reason({ name: { type: 'subject', value: 'CN=gateway-1' } })).toContain('has the subject');
    expect(reason({ remoteCertTls: 'server' })).toBeUndefined();
    expect(reason({ remoteCertTls: 'client' })).toContain('not for a client');
    expect(reason({ fingerprints: ['00', identity.fingerprint] })).toBeUndefined();
    expect(reason({ fingerprints: [identity.fingerprint.replaceAll(':', '').toLowerCase()] })).toBeUndefined();
    expect(reason({ fingerprints: ['00'] })).toContain(identity.fingerprint);
    expect(reason({ fingerprints: [] })).toBeDefined();
  });

  test('the server may demand more of its clients, too', async () => {
    const strict = tlsServer({ ca: pki.ca, ...server }, { name: { type: 'name', value: 'somebody else' } });
    const ends = await handshake({}, {}, { server: strict });
    expect(ends.s.secured).toBeUndefined();
    expect(ends.s.refusal).toContain('has the name "client", not "somebody else"');
    close(ends);
  });
});

describe('an identity', () => {
  test('has the last common name, alternative names and the fingerprint', () => {
    const { cert } = pki.issue('names', {
      subject: '/O=A+B \\\\ C/CN=first/CN=Jürgen',
      altNames: 'DNS:a.example,IP:10.0.0.1,email:x@example.org,URI:spiffe://cluster/ns/team',
    });
    const identity = peerIdentity(new X509Certificate(cert));
    expect(identity.commonName).toBe('Jürgen');
    expect(identity.subjectAltNames).toEqual([
      { type: 'dns', value: 'a.example' },
      { type: 'ip', value: '10.0.0.1' },
      { type: 'email', value: 'x@example.org' },
      { type: 'uri', value: 'spiffe://cluster/ns/team' },
    ]);
    expect(identity.fingerprint).toMatch(/^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
    expect(identity.notAfter).toBeGreaterThan(Date.now());
  });

  test('a name cannot look like two', () => {
    expect(parseAltNames('DNS:"a, DNS:b", DNS:c')).toEqual([
      { type: 'dns', value: 'a, DNS:b' },
      { type: 'dns', value: 'c' },
    ]);
    expect(parseAltNames(undefined)).toEqual([]);
    const { cert } = pki.issue('trick', { subject: '/CN=one \\+ CN=two' });
    expect(peerIdentity(new X509Certificate(cert)).commonName).toBe('one + CN=two');
  });
});

describe('the pipe', () => {
  test('cuts what is written to the size asked for', () => {
    const pipe = new ControlPipe(() => undefined);
    pipe.cork();
    pipe.write(Buffer.from('abc'));
    pipe.write(Buffer.from('defgh'));
    pipe.uncork();
    const parts: string[] = [];
    for (let part = pipe.takeOutput(3); part !== undefined; part = pipe.takeOutput(3)) {
      parts.push(part.toString());
    }
    expect(parts).toEqual(['abc', 'def', 'gh']);
    expect(pipe.takeOutput(3)).toBeUndefined();
    pipe.write(Buffer.from('ij'));
    pipe.write(Buffer.from('kl'));
    expect(pipe.takeOutput(10)?.toString()).toBe('ijkl');
  });

  test('takes one flight after the other, but no more while much waits', async () => {
    const pipe = new ControlPipe(() => undefined);
    let written = 0;
    for (let i = 0; i < 20; i++) {
      pipe.write(Buffer.alloc(1000), () => written++);
      await tick();
    }
    // 16 KiB; the one that passes them waits, with all that follow.
    expect(written).toBe(16);
    for (const expected of [16, 17]) {
      expect(written).toBe(expected);
      pipe.takeOutput(1000);
      await tick();
      await tick();
    }
    while (pipe.takeOutput(1250) !== undefined) {
      await tick();
    }
    expect(written).toBe(20);
  });

  test('says when it has enough, and when it is hungry again', async () => {
    let hungry = 0;
    const pipe = new ControlPipe(
      () => undefined,
      () => hungry++,
    );
    while (pipe.deliver(Buffer.alloc(1000))) {
      expect(pipe.readableLength).toBeLessThan(64 * 1024);
    }
    pipe.resume();
    await tick();
    expect(hungry).toBe(1);
    expect(pipe.deliver(Buffer.alloc(1))).toBe(true);
  });
});
