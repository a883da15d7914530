import { afterAll, describe, expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseResource } from '../../api/parse.ts';
import { isDialInPeer, isDialOutPeer } from '../../api/peer-kind.ts';
import { apiVersion, type Resource, type Secret, type VpnKey, type VpnNetwork, type VpnPeer } from '../../api/types.ts';
import { networkManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { OvpnError } from '../../errors.ts';
import { testPki } from '../../openvpn/tls/pki.fixture.ts';
import { clientKeyFile, serverKeyFile, tlsAuthKeyFile, tlsCryptKeyFile } from '../../openvpn/wrap/recorded.fixture.ts';
import type { DesiredDialOut, DesiredServer } from './desired-session.ts';
import { crlNotAfter } from '../../openvpn/tls/crl.ts';
import { issuedKeyProblem, isWithin, planDialIn, planDialOut, planServer, secretsOfNetwork } from './plan-sessions.ts';

const pki = testPki();
const other = testPki('Another CA');
const own = pki.issue('gateway', { usage: 'serverAuth' });
const second = pki.issue('second', { usage: 'serverAuth' });
const old = pki.issue('old', { usage: 'serverAuth', expired: true });
afterAll(() => {
  pki.remove();
  other.remove();
});

function parse(manifest: object): Resource {
  const result = parseResource(manifest, 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource;
}

type Data = Readonly<Record<string, string | undefined>>;
function secret(namespace: string, name: string, data: Data): Secret {
  const given = Object.entries(data).filter(([, value]) => value !== undefined);
  return parse({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { namespace, name },
    stringData: Object.fromEntries(given),
  }) as Secret;
}

const system = 'ovpn-system';
const good: Data = { 'tls.crt': own.cert, 'tls.key': own.key, 'ca.crt': pki.ca };
const base = { pki: { secretRef: { name: 'server' } } };
const network = (spec: object = {}): VpnNetwork =>
  parse(networkManifest('offices', { ...base, ...spec })) as VpnNetwork;
const desired = { addresses: ['10.8.0.1/16'], mtu: 1400 };

function server(spec: object = {}, tls: Data = good, wrap?: Data): DesiredServer | undefined {
  const secrets = [secret(system, 'server', tls), ...(wrap === undefined ? [] : [secret(system, 'wrap', wrap)])];
  return planServer(network(spec), desired, system, (namespace, name) =>
    secrets.find(({ metadata }) => metadata.namespace === namespace && metadata.name === name),
  );
}

function problemOf(plan: () => unknown): OvpnError {
  try {
    const result = plan();
    if (result instanceof OvpnError) return result;
  } catch (error) {
    if (error instanceof OvpnError) return error;
    throw error;
  }
  throw new Error('there was no problem');
}

/** No error may show what is secret. */
const privateLines = [own, second, old].flatMap(({ key }) => key.split('\n').filter((line) => !line.startsWith('-')));

describe("a network's server", () => {
  test('is not there without a PKI', () => {
    expect(planServer(network({ pki: undefined }), desired, system, () => undefined)).toBeUndefined();
    expect(secretsOfNetwork(network({ pki: undefined }), system)).toEqual([]);
  });

  test('has what its Secret and the network say', () => {
    const planned = server({
      pki: { secretRef: { name: 'server' }, minTLSVersion: '1.3' },
      dataCiphers: ['CHACHA20-POLY1305', 'AES-128-GCM'],
      rekey: { seconds: 600, bytes: 1000, packets: 10 },
      keyTransition: { seconds: 5 },
    });
    expect(planned).toMatchObject({
      credentials: { cert: own.cert, key: own.key, ca: pki.ca, crl: undefined, minVersion: 'TLSv1.3' },
      wrap: { kind: 'none' },
      ciphers: ['CHACHA20-POLY1305', 'AES-128-GCM'],
      rekey: { seconds: 600, bytes: 1000, packets: 10, transitionMs: 5000 },
    });
  });

  test('takes a CRL', () => {
    const planned = server({}, { ...good, 'ca.crl': pki.crl() });
    expect(planned?.credentials.crl).toContain('X509 CRL');
    expect(planned?.crlNotAfter).toBeGreaterThan(Date.now());
    expect(server({}, good)?.crlNotAfter).toBeUndefined();
  });

  test('takes the CRL of a Secret of its own, before that of the certificate', () => {
    const newer = pki.crl();
    const secrets = [
      secret(system, 'server', { ...good, 'ca.crl': other.crl() }),
      secret(system, 'crl', { 'crl.pem': newer }),
    ];
    const spec = { pki: { ...base.pki, crlSecretRef: { name: 'crl', key: 'crl.pem' } } };
    const plan = (): DesiredServer | undefined =>
      planServer(network(spec), desired, system, (_, name) => secrets.find(({ metadata }) => metadata.name === name));
    expect(plan()?.credentials.crl).toBe(newer);
    expect(plan()?.crlNotAfter).toBe(crlNotAfter(newer));
    expect(secretsOfNetwork(network(spec), system).map(({ name }) => name)).toEqual(['server', 'crl']);
    // Without the CRL that was asked for, those whom it refuses would get in.
    secrets.pop();
    expect(problemOf(plan)).toMatchObject({ name: 'SecretMissing' });
    expect(problemOf(plan).message).toContain('crl');
  });

  test.each<[string, Data, string, string]>([
    ['no certificate', { ...good, 'tls.crt': undefined }, 'SecretMissing', 'has no key "tls.crt"'],
    ['no private key', { ...good, 'tls.key': undefined }, 'SecretMissing', 'has no key "tls.key"'],
    ['no CA', { ...good, 'ca.crt': undefined }, 'SecretMissing', 'has no key "ca.crt"'],
    ['an empty certificate', { ...good, 'tls.crt': '' }, 'CertificateInvalid', 'is not a certificate in PEM'],
    ['a key for a certificate', { ...good, 'tls.crt': own.key }, 'CertificateInvalid', 'is not a certificate in PEM'],
    ['a certificate for a key', { ...good, 'tls.key': own.cert }, 'CertificateInvalid', 'is not a private key in PEM'],
    ['nonsense for a CA', { ...good, 'ca.crt': 'CA' }, 'CertificateInvalid', 'is not a certificate in PEM'],
    ['the key of another certificate', { ...good, 'tls.key': second.key }, 'CertificateInvalid', 'is not the key of'],
    ['nonsense for a CRL', { ...good, 'ca.crl': 'CRL' }, 'CertificateInvalid', 'cannot be used together for TLS'],
    [
      'a cut certificate behind the first',
      { ...good, 'tls.crt': `${own.cert}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n` },
      'CertificateInvalid',
      'cannot be used together for TLS',
    ],
  ])('cannot be with %s', (_, data, name, words) => {
    const problem = problemOf(() => server({}, data));
    expect(problem.name).toBe(name);
    expect(problem.message).toContain(words);
    expect(problem.message).toContain('server');
    for (const line of privateLines)
      if (line !== '') expect(`${problem.message} ${problem.stack ?? ''}`).not.toContain(line);
  });

  test('a private key with a passphrase is called by its name', () => {
    const run = (...args: string[]): void => void execFileSync('openssl', args, { cwd: pki.folder, stdio: 'pipe' });
    run('pkey', '-in', 'gateway.key', '-aes256', '-passout', 'pass:geheim', '-out', 'locked.key');
    const locked = readFileSync(join(pki.folder, 'locked.key'), 'utf8');
    expect(problemOf(() => server({}, { ...good, 'tls.key': locked })).message).toContain('without a passphrase');
  });

  test('names the Secret that is not there, and the field that names it', () => {
    const problem = problemOf(() => planServer(network(), desired, system, () => undefined));
    expect(problem.message).toContain('there is no Secret ovpn-system/server');
    expect(problem.where).toMatchObject({ object: 'VpnNetwork offices', field: 'spec.pki.secretRef.name' });
  });

  test.each<[string, object, string, object]>([
    ['None', {}, '', { kind: 'none' }],
    ['TLSAuth', {}, tlsAuthKeyFile, { kind: 'tls-auth', digest: 'SHA1', direction: 'bidirectional' }],
    ['TLSAuth', { keyDirection: 'Normal', digest: 'SHA256' }, tlsAuthKeyFile, { digest: 'SHA256', direction: 0 }],
    ['TLSAuth', { keyDirection: 'Inverse', digest: 'SHA512' }, tlsAuthKeyFile, { digest: 'SHA512', direction: 1 }],
    ['TLSCrypt', {}, tlsCryptKeyFile, { kind: 'tls-crypt' }],
    ['TLSCryptV2', {}, serverKeyFile, { kind: 'tls-crypt-v2-server' }],
  ])('wraps its control channel: %s %j', (wrap, more, file, expected) => {
    const controlChannel = wrap === 'None' ? { wrap } : { wrap, secretRef: { name: 'wrap' }, ...more };
    expect(server({ controlChannel }, good, { 'wrap.key': file })?.wrap).toMatchObject(expected);
    const names = secretsOfNetwork(network({ controlChannel }), system).map(({ name }) => name);
    expect(names).toEqual(wrap === 'None' ? ['server'] : ['server', 'wrap']);
  });

  test.each<[string, string, Data | undefined, string, string]>([
    ['no Secret', 'TLSCrypt', undefined, 'SecretMissing', 'there is no Secret ovpn-system/wrap'],
    ['no such entry', 'TLSCrypt', { other: tlsCryptKeyFile }, 'SecretMissing', 'has no key "wrap.key"'],
    ['nonsense', 'TLSCrypt', { 'wrap.key': 'hush' }, 'KeyMaterialInvalid', 'data[wrap.key]'],
    ["a client's key", 'TLSCryptV2', { 'wrap.key': clientKeyFile }, 'KeyMaterialInvalid', 'tls-crypt-v2 server key'],
    [
      'a key of tls-auth',
      'TLSCryptV2',
      { 'wrap.key': tlsAuthKeyFile },
      'KeyMaterialInvalid',
      'tls-crypt-v2 server key',
    ],
  ])('cannot be with %s for %s', (_, wrap, data, name, words) => {
    const problem = problemOf(() => server({ controlChannel: { wrap, secretRef: { name: 'wrap' } } }, good, data));
    expect(problem.name).toBe(name);
    expect(problem.message).toContain(words);
    expect(problem.message).not.toContain('hush');
  });

  test("pushes the node's addresses, the pods, and what the network says; nothing twice", () => {
    const planned = planServer(
      network({
        pools: { peers: ['10.8.0.0/16', 'fd08::/64'], pods: ['10.9.0.0/16'] },
        nodes: [{ name: 'n1', addresses: ['10.8.0.1', 'fd08::1'], podBlocks: [] }],
        push: { routes: ['10.96.0.0/12', '10.9.0.0/16'], dns: { servers: ['10.96.0.10'], searchDomains: ['c.local'] } },
      }),
      { addresses: ['10.8.0.1/16', 'fd08::1/64'], mtu: 1400 },
      system,
      () => secret(system, 'server', good),
    );
    expect(planned?.push).toEqual({
      ...{ gatewayIpv4: '10.8.0.1', gatewayIpv6: 'fd08::1', lengthIpv4: 16, lengthIpv6: 64 },
      routes: ['10.9.0.0/16', '10.96.0.0/12'],
      ...{ dnsServers: ['10.96.0.10'], searchDomains: ['c.local'], mtu: 1400 },
    });
  });

  test('a family without an address of the node has the length of its pool, and no gateway', () => {
    const pools = { peers: ['10.8.0.0/16', 'fd08::/64'] };
    const planned = server({ pools });
    expect(planned?.push).toMatchObject({ gatewayIpv6: undefined, lengthIpv6: 64, gatewayIpv4: '10.8.0.1' });
    expect(server()?.push).toMatchObject({ gatewayIpv6: undefined, lengthIpv6: 128 });
  });

  test('says until when its certificate is valid', () => {
    expect(server()?.credentials).toBeDefined();
    expect(server()!.notAfter).toBeGreaterThan(Date.now());
    expect(server({}, { ...good, 'tls.crt': old.cert, 'tls.key': old.key })?.notAfter).toBe(Date.UTC(2021, 0, 1));
  });
});

const dialIn = (spec: object = {}): VpnPeer =>
  parse(
    peerManifest('alice', {
      ...{ endpoint: undefined, keyRef: undefined, static: undefined },
      ...{ identity: { commonName: 'alice' }, ...spec },
    }),
  ) as VpnPeer;

test('a network that issues certificates waits for the controller', () => {
  const problem = problemOf(() => planServer(network({ pki: { builtIn: {} } }), desired, system, () => undefined));
  expect(problem).toMatchObject({ name: 'SecretMissing', message: expect.stringContaining('wait for the controller') });
});

test('nodes of a mesh are known by their certificate where the CA signs for others, too', () => {
  const node = pki.issue('node', { usage: 'clientAuth', subject: '/CN=node:offices' });
  const planned = (builtIn: object, entries: Data): DesiredServer | undefined => {
    const secrets = secret(system, 'offices.pki', { ...good, ...entries });
    const wrap = { controlChannel: { wrap: 'None' } };
    return planServer(network({ pki: { builtIn }, mesh: {}, ...wrap }), desired, system, (_namespace, name) =>
      name === 'offices.pki' ? secrets : undefined,
    );
  };
  const own = { caSecretRef: { name: 'ours' } };
  const fingerprint = new X509Certificate(node.cert).fingerprint256.replaceAll(':', '');
  expect(planned(own, { 'mesh.crt': node.cert })).toMatchObject({
    meshName: 'node:offices',
    meshCertificate: expect.stringMatching(new RegExp(`^${fingerprint}$`, 'i')),
  });
  expect(planned(own, {})?.meshCertificate).toBe('');
  expect(planned(own, { 'mesh.crt': 'no certificate' })?.meshCertificate).toBe('');
  // Of a CA that the network has for itself alone, nobody else gets the name.
  expect(planned({}, { 'mesh.crt': node.cert })?.meshCertificate).toBeUndefined();
});

describe('a client of a network that issues certificates', () => {
  const issuing = network({ pki: { builtIn: {} } });
  const peer = dialIn({ identity: { key: 'alice' } });
  const key = (issued: object = {}): VpnKey => ({
    ...(parse({
      apiVersion,
      kind: 'VpnKey',
      metadata: { namespace: 'team-a', name: 'alice' },
      spec: { issued: { networkRef: { name: issuing.metadata.name }, ...issued } },
    }) as VpnKey),
    status: { certificates: [{ fingerprint: 'ab:CD', serialNumber: '1', notAfter: '2030-01-01T00:00:00Z' }] },
  });

  test('goes by the name and the certificates of its VpnKey', () => {
    const planned = isDialInPeer(peer) ? planDialIn(issuing, peer, key()) : undefined;
    expect(planned).toMatchObject({ identity: { commonName: 'alice.team-a' }, certificates: ['ABCD'] });
    expect(issuedKeyProblem(issuing, peer, key())).toBeUndefined();
  });

  test.each([
    ['there is no VpnKey', undefined],
    ['is revoked', key({ revoked: true })],
    ['is not one that VpnNetwork', key({ networkRef: { name: 'another' } })],
  ])('has no certificate when its VpnKey %s', (words, given) => {
    const planned = isDialInPeer(peer) ? planDialIn(issuing, peer, given) : undefined;
    expect(planned).toMatchObject({ certificates: [] });
    expect(issuedKeyProblem(issuing, peer, given)?.message).toContain(words);
  });
});

describe('a client', () => {
  const plan = (spec: object = {}, of = network()) => {
    const peer = dialIn(spec);
    if (!isDialInPeer(peer)) throw new Error('not one');
    return planDialIn(of, peer, undefined);
  };

  test('has its addresses by family, its routes by the address of their family', () => {
    const spec = { addresses: ['fd08::7', '10.8.0.7'], routes: ['10.20.0.0/16', 'fd20::/48'] };
    expect(plan(spec)).toMatchObject({
      ...{ kind: 'dial-in', identity: { commonName: 'alice' }, vpnIpv4: '10.8.0.7', vpnIpv6: 'fd08::7' },
      routes: [
        { destination: '10.20.0.0/16', gateway: '10.8.0.7' },
        { destination: 'fd20::/48', gateway: 'fd08::7' },
      ],
    });
  });

  test("has its own keepalive, else the network's", () => {
    expect(plan({ keepalive: { intervalSeconds: 3, timeoutSeconds: 9 } })).toMatchObject({
      keepalive: { interval: 3, timeout: 9 },
    });
    const of = network({ keepalive: { intervalSeconds: 5, timeoutSeconds: 50 } });
    expect(plan({}, of)).toMatchObject({ keepalive: { interval: 5, timeout: 50 } });
  });

  test.each([
    ['IPv6', { addresses: ['10.8.0.7'], routes: ['10.20.0.0/16', 'fd20::/48'] }, 'spec.routes[1]'],
    ['IPv4', { addresses: ['fd08::7'], routes: ['10.20.0.0/16'] }, 'spec.routes[0]'],
  ])('cannot have a route without an %s address', (family, spec, field) => {
    const problem = problemOf(() => plan(spec));
    expect(problem).toMatchObject({ name: 'InvalidField', where: { object: 'VpnPeer team-a/alice', field } });
    expect(problem.message).toContain(`needs an ${family} address`);
  });
});

describe('a remote that is dialled', () => {
  const manifest = (spec: object): VpnPeer =>
    parse(peerManifest('partner', { static: undefined, addresses: undefined, ...spec })) as VpnPeer;
  const tlsKey = parse({
    apiVersion: networkManifest('x').apiVersion,
    kind: 'VpnKey',
    metadata: { namespace: 'team-a', name: 'office' },
    spec: { tls: { secretRef: { name: 'client-tls' } } },
  }) as VpnKey;

  function plan(
    spec: object = {},
    {
      key = tlsKey,
      tls = good,
      wrap,
      of = network(),
    }: { key?: VpnKey | undefined; tls?: Data; wrap?: string; of?: VpnNetwork } = {},
  ): DesiredDialOut {
    const peer = manifest(spec);
    if (!isDialOutPeer(peer)) throw new Error('not one');
    const secrets = [
      secret('team-a', 'client-tls', tls),
      ...(wrap === undefined ? [] : [secret('team-a', 'wrap', { 'wrap.key': wrap })]),
    ];
    const lookup = (namespace: string, name: string): Secret | undefined =>
      secrets.find(({ metadata }) => metadata.namespace === namespace && metadata.name === name);
    return planDialOut(of, peer, { key, lookup });
  }

  test('its endpoints are tried in their order', () => {
    const planned = plan({
      endpoint: { address: 'vpn.partner.example', port: 1194 },
      fallbackEndpoints: [
        { address: '203.0.113.9', port: 443, protocol: 'TCP' },
        { address: '2001:db8::9', port: 1194, protocol: 'UDP' },
      ],
    });
    expect(planned.remotes).toEqual([
      { host: 'vpn.partner.example', port: 1194, transport: 'udp' },
      { host: '203.0.113.9', port: 443, transport: 'tcp' },
      { host: '2001:db8::9', port: 1194, transport: 'udp' },
    ]);
  });

  test.each<[string, object, object]>([
    ['always that it is a server', {}, { remoteCertTls: 'server', name: undefined, fingerprints: undefined }],
    [
      'its name',
      { serverIdentity: { commonName: 'vpn.partner' } },
      { remoteCertTls: 'server', name: { type: 'name', value: 'vpn.partner' } },
    ],
    [
      'its fingerprint',
      { serverIdentity: { fingerprint: 'ab'.repeat(32) } },
      { remoteCertTls: 'server', fingerprints: ['AB'.repeat(32)] },
    ],
  ])('is asked for %s', (_, spec, checks) => expect(plan(spec).checks).toMatchObject(checks));

  test("takes ciphers and keepalive of its own, else the network's", () => {
    const of = network({ dataCiphers: ['AES-128-GCM'], keepalive: { intervalSeconds: 5, timeoutSeconds: 50 } });
    expect(plan({}, { of })).toMatchObject({ ciphers: ['AES-128-GCM'], keepalive: { interval: 5, timeout: 50 } });
    expect(plan({ dataCiphers: ['CHACHA20-POLY1305'] }, { of }).ciphers).toEqual(['CHACHA20-POLY1305']);
  });

  test.each<[string, string, object]>([
    ['TLSAuth', tlsAuthKeyFile, { kind: 'tls-auth' }],
    ['TLSCrypt', tlsCryptKeyFile, { kind: 'tls-crypt' }],
    ['TLSCryptV2', clientKeyFile, { kind: 'tls-crypt-v2-client' }],
  ])("wraps by a client's key: %s", (wrap, file, expected) => {
    expect(plan({ controlChannel: { wrap, secretRef: { name: 'wrap' } } }, { wrap: file }).wrap).toMatchObject(
      expected,
    );
  });

  test("a server's key for tls-crypt-v2 is none for a client", () => {
    const controlChannel = { wrap: 'TLSCryptV2', secretRef: { name: 'wrap' } };
    const problem = problemOf(() => plan({ controlChannel }, { wrap: serverKeyFile }));
    expect(problem.message).toContain('tls-crypt-v2 client key');
  });

  test('needs a key that is there, and a certificate', () => {
    const missing = problemOf(() => {
      const peer = manifest({});
      return isDialOutPeer(peer) && planDialOut(network(), peer, { key: undefined, lookup: () => undefined });
    });
    expect(missing).toMatchObject({ name: 'ReferenceNotFound', where: { field: 'spec.keyRef.name' } });
    const statik = parse({
      ...{ apiVersion: networkManifest('x').apiVersion, kind: 'VpnKey' },
      metadata: { namespace: 'team-a', name: 'office' },
      spec: { static: { secretRef: { name: 's' }, direction: 'Normal', generation: 1 } },
    }) as VpnKey;
    expect(problemOf(() => plan({}, { key: statik }))).toMatchObject({
      name: 'KeyMaterialInvalid',
      where: { object: 'VpnKey team-a/office', field: 'spec.tls' },
    });
    expect(problemOf(() => plan({}, { tls: { ...good, 'tls.key': second.key } })).name).toBe('CertificateInvalid');
  });

  test('says until when our certificate is valid', () => {
    expect(plan({}, { tls: { ...good, 'tls.crt': old.cert, 'tls.key': old.key } }).notAfter).toBe(Date.UTC(2021, 0, 1));
    const crl = pki.crl();
    expect(plan({}, { tls: { ...good, 'ca.crl': crl } }).crlNotAfter).toBe(crlNotAfter(crl));
  });

  test("a remote's own address inside the network's ranges is not the remote's", () => {
    const { ownRanges } = plan(
      {},
      { of: network({ pools: { peers: ['10.8.0.0/16', 'fd08::/64'], pods: ['10.9.0.0/16'] } }) },
    );
    expect(ownRanges).toEqual(['10.8.0.0/16', 'fd08::/64', '10.9.0.0/16']);
    expect(['10.9.3.4', 'fd08::1', '10.10.0.1', 'fd09::1', 'no address'].map((it) => isWithin(it, ownRanges))).toEqual([
      true,
      true,
      false,
      false,
      false,
    ]);
  });
});
