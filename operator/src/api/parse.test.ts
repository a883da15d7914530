import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { checkTransition, parseManifests, parseResource } from './parse.ts';
import { baseManifests, type Manifest } from './rule-cases.ts';
import { formatRef, refOf, type Resource } from './types.ts';

const samples = new URL('../../../test/fixtures/manifests/', import.meta.url);

function good(value: unknown): Resource {
  const result = parseResource(value, 'test');
  if (!result.ok) throw new Error(result.errors.map(({ message }) => message).join('\n'));
  return result.resource;
}

function errorsOf(value: unknown): string[] {
  const result = parseResource(value, 'file.yaml');
  return result.ok ? [] : result.errors.map(({ name, where, problem }) => `${name} ${where.field ?? ''}: ${problem}`);
}

const withSpec = (base: Manifest, spec: Manifest): Manifest => ({
  ...base,
  spec: { ...(base['spec'] as Manifest), ...spec },
});
const { VpnNetwork: network, VpnPeer: peer, VpnKey: key } = baseManifests;

describe('samples', () => {
  test.each(readdirSync(samples).filter((file) => file.endsWith('.yaml')))('%s is good', (file) => {
    const { resources, rejections } = parseManifests(readFileSync(new URL(file, samples), 'utf8'), file);
    expect(rejections.flatMap(({ errors }) => errors.map(({ message }) => message))).toEqual([]);
    expect(resources.length).toBeGreaterThan(0);
  });

  test('docs/resources.md shows them as they are', () => {
    const page = readFileSync(new URL('../../../docs/resources.md', import.meta.url), 'utf8');
    const shown = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, text]) => text);
    for (const file of readdirSync(samples)) expect(shown).toContain(readFileSync(new URL(file, samples), 'utf8'));
    for (const text of shown) expect(parseManifests(text ?? '', 'docs/resources.md').rejections).toEqual([]);
  });
});

describe('defaults and normal form', () => {
  test('defaults are filled in at every depth, also for an empty value', () => {
    expect(
      good(withSpec(network, { keepalive: { timeoutSeconds: 90 }, attach: null, nodeSelector: null })),
    ).toMatchObject({
      metadata: { labels: {}, annotations: {} },
      spec: {
        nodeSelector: {},
        keepalive: { intervalSeconds: 10, timeoutSeconds: 90 },
        keyTransition: { seconds: 60 },
        allowedPeers: { namespaces: { from: 'Names', names: ['ovpn-system'] }, routes: [] },
        attach: { namespaces: { from: 'Names', names: [] } },
        controlChannel: {},
        dataCiphers: ['AES-256-GCM', 'AES-128-GCM', 'CHACHA20-POLY1305'],
        rekey: { seconds: 3600, bytes: 0, packets: 0 },
        push: { routes: [], dns: { servers: [], searchDomains: [] } },
        nodes: [{ podBlocks: ['10.9.1.0/24'] }, { podBlocks: [] }],
      },
    });
    expect(good(key)).toMatchObject({
      spec: { static: { secretRef: { key: 'static.key' }, cipher: 'AES-256-GCM', derivation: 'HKDF-SHA256' } },
    });
  });

  test('what objects share, none of them can change', () => {
    const [one, other] = [good(peer), good(peer)];
    if (one.kind !== 'VpnPeer' || other.kind !== 'VpnPeer') throw new Error('not a peer');
    expect(one.spec.placement).toBe(other.spec.placement);
    expect(() => (one.spec.placement.nodeSelector['changed'] = 'here')).toThrow(TypeError);
    expect(other.spec.placement.nodeSelector).toEqual({});
  });

  test('equal resources compare equal, also as text', () => {
    const one = good(
      withSpec(peer, { addresses: ['fd00:8::7', '10.8.0.7'], routes: ['fd01::/16', '10.20.0.0/16', '10.3.0.0/16'] }),
    );
    const other = good(
      withSpec(peer, {
        routes: ['10.3.0.0/16', '10.20.0.0/16', 'FD01:0::/16'],
        addresses: ['10.8.0.7', 'FD00:8:0:0::0007'],
      }),
    );
    expect(JSON.stringify(one)).toBe(JSON.stringify(other));
    expect(one).toMatchObject({ spec: { routes: ['10.3.0.0/16', '10.20.0.0/16', 'fd01::/16'] } });
  });

  test('what a peer is known by is in normal form', () => {
    const identity = (fields: Manifest) => good(withSpec(baseManifests.dialIn, { identity: fields }));
    expect(identity({ fingerprint: Array(32).fill('aB').join(':') })).toMatchObject({
      spec: { identity: { fingerprint: 'AB'.repeat(32) } },
    });
    expect(identity({ subjectAltName: 'DNS:Alice.Example' })).toMatchObject({
      spec: { identity: { subjectAltName: 'DNS:alice.example' } },
    });
    expect(identity({ commonName: 'Alice' })).toMatchObject({ spec: { identity: { commonName: 'Alice' } } });
    expect(
      good(withSpec(baseManifests.dialOut, { endpoint: { address: 'VPN.Partner.example', port: 1 } })),
    ).toMatchObject({ spec: { endpoint: { address: 'vpn.partner.example', port: 1, protocol: 'UDP' } } });
  });

  test('the order of ciphers, fallback endpoints and DNS servers stays', () => {
    const dataCiphers = ['CHACHA20-POLY1305', 'AES-256-GCM'];
    const dns = { servers: ['10.0.0.2', '10.0.0.1'], searchDomains: ['z.example', 'a.example'] };
    expect(good(withSpec(network, { dataCiphers, push: { dns } }))).toMatchObject({
      spec: { dataCiphers, push: { routes: [], dns } },
    });
    const fallbackEndpoints = [
      { address: '192.0.2.2', port: 2, protocol: 'TCP' },
      { address: '192.0.2.1', port: 1, protocol: 'UDP' },
    ];
    expect(good(withSpec(baseManifests.dialOut, { fallbackEndpoints }))).toMatchObject({ spec: { fallbackEndpoints } });
  });

  test('two spellings of one route are one route', () => {
    expect(good(withSpec(peer, { routes: ['fd01::/16', 'fd01:0::/16'] }))).toMatchObject({
      spec: { routes: ['fd01::/16'] },
    });
  });

  test('listeners keep their order, because the first is the default', () => {
    const listeners = [
      { name: 'z', port: 2 },
      { name: 'a', port: 1 },
    ];
    expect(good(withSpec(network, { listeners }))).toMatchObject({ spec: { listeners } });
  });

  test('parsing the normal form changes nothing', () => {
    for (const manifest of Object.values(baseManifests)) expect(good(good(manifest))).toEqual(good(manifest));
  });
});

describe('what is wrong is told in plain words', () => {
  test.each([
    [
      'a misspelt field',
      withSpec(peer, { endpiont: {} }),
      'UnknownField spec.endpiont: there is no such field; did you mean "endpoint"?',
    ],
    [
      'a strange field',
      withSpec(key, { raw: {} }),
      'UnknownField spec.raw: there is no such field; the fields here are static, tls',
    ],
    [
      'a missing field',
      withSpec(peer, { endpoint: { address: '192.0.2.1' } }),
      'InvalidField spec.endpoint.port: is missing: The port of the remote',
    ],
    [
      'a wrong type',
      withSpec(network, { mtu: '1400' }),
      'InvalidField spec.mtu: must be a whole number, but is "1400"',
    ],
    [
      'a version that YAML reads as a number',
      withSpec(network, { pki: { secretRef: { name: 's' }, minTLSVersion: 1.3 } }),
      'InvalidField spec.pki.minTLSVersion: must be text, but is 1.3; put quotes around it',
    ],
    [
      'a peer of no sort',
      withSpec(baseManifests.dialIn, { identity: undefined }),
      'InvalidField spec: must have identity (a client that dials in)',
    ],
    [
      'a fingerprint of another sort',
      withSpec(baseManifests.dialIn, { identity: { fingerprint: 'ab'.repeat(20) } }),
      'InvalidField spec.identity.fingerprint: must consist of 64 hexadecimal digits (a SHA-256 fingerprint)',
    ],
    ['a wrong range', withSpec(network, { mtu: 100 }), 'InvalidField spec.mtu: must be 576 to 65451, but is 100'],
    ['a fraction', withSpec(network, { mtu: 1400.5 }), 'InvalidField spec.mtu: must be a whole number, but is 1400.5'],
    [
      'host bits',
      withSpec(peer, { routes: ['10.20.30.1/24'] }),
      'InvalidField spec.routes[0]: has bits set behind the prefix; write the first address of the range: 10.20.30.0/24',
    ],
    [
      'a list instead of an object',
      withSpec(peer, { endpoint: [] }),
      'InvalidField spec.endpoint: must be an object with fields, but is a list',
    ],
    ['no spec', { ...peer, spec: undefined }, 'InvalidField spec: is missing: what is wanted'],
    ['a field at the top', { ...peer, sepc: {} }, 'UnknownField sepc: there is no such field; did you mean "spec"?'],
    [
      'a wrong status',
      { ...peer, status: { peerID: 'x' } },
      'InvalidField status.peerID: must be a whole number, but is "x"',
    ],
    [
      'a field called __proto__',
      JSON.parse(JSON.stringify(peer).replace('"routes"', '"__proto__":{"routes":[]},"routes"')) as unknown,
      'UnknownField spec.__proto__: there is no such field',
    ],
    [
      'no namespace',
      { ...peer, metadata: { name: 'a' } },
      'InvalidField metadata.namespace: is missing: a VpnPeer lives in a namespace',
    ],
    [
      'a namespace for a network',
      { ...network, metadata: { name: 'a', namespace: 'b' } },
      'InvalidField metadata.namespace: must be left out, because a VpnNetwork belongs to the whole cluster',
    ],
    [
      'a name in capitals',
      { ...peer, metadata: { name: 'Office', namespace: 'a' } },
      'InvalidField metadata.name: must consist of lower case letters',
    ],
    ['no metadata', { ...peer, metadata: undefined }, 'InvalidField metadata: is missing'],
    [
      'a number as a label',
      { ...peer, metadata: { name: 'a', namespace: 'b', labels: { x: 1 } } },
      'InvalidField metadata.labels["x"]: must be text, but is 1; put quotes around it',
    ],
    [
      'an unknown kind',
      { ...peer, kind: 'VpnPear' },
      'UnknownKind kind: "VpnPear" is not a kind that is read here; did you mean "VpnPeer"?',
    ],
    [
      'another version',
      { ...peer, apiVersion: 'ovpn-operator.io/v1' },
      'UnknownKind apiVersion: must be ovpn-operator.io/v1alpha1 for a VpnPeer, but is "ovpn-operator.io/v1"',
    ],
    ['no object', 'text', 'ManifestUnreadable : must be an object with apiVersion and kind, but is "text"'],
  ])('%s', (_, value, expected) => {
    expect(errorsOf(value)).toEqual([expect.stringContaining(expected)]);
  });

  test('many mistakes are told at once', () => {
    const unknown = Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`field${n}`, 1]));
    expect(errorsOf(withSpec(peer, unknown))).toHaveLength(20);
    const routes = Array.from({ length: 256 }, (_, n) => `10.0.0.${n}`);
    expect(errorsOf(withSpec(peer, { routes })).length).toBeLessThanOrEqual(64);
  });

  test('a rejected object is known by its reference when its identity is in order', () => {
    expect(parseResource(withSpec(peer, { mtu: 1 }), 'x')).toMatchObject({
      ok: false,
      ref: { kind: 'VpnPeer', namespace: 'ovpn-system', name: 'office' },
    });
    expect(parseResource({ ...peer, metadata: {} }, 'x')).not.toHaveProperty('ref');
  });

  test('a status with fields of a newer version is read', () => {
    expect(good({ ...peer, status: { peerID: 3, somethingNew: true } })).toMatchObject({ status: { peerID: 3 } });
  });
});

describe('Secrets', () => {
  const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'k', namespace: 'a' } };

  test('data and stringData are decoded, and stringData wins', () => {
    const parsed = good({ ...secret, data: { a: 'AAEC\n', b: 'eA==' }, stringData: { b: 'y', c: 'ü' } });
    if (parsed.kind !== 'Secret') throw new Error('not a Secret');
    expect(Object.entries(parsed.data).map(([name, bytes]) => [name, [...bytes]])).toEqual([
      ['a', [0, 1, 2]],
      ['b', [121]],
      ['c', [195, 188]],
    ]);
    expect(parsed.type).toBe('Opaque');
  });

  test.each([
    ['data', { data: { k: 'hunter2!' } }],
    ['data', { data: { k: 'hunter2' } }],
    ['stringData', { stringData: { k: ['hunter2'] } }],
    ['data', { data: { 'a/hunter': 'eA==' } }],
  ])('an error in %s names the key and shows no value', (field, content) => {
    const errors = errorsOf({ ...secret, ...content });
    expect(errors).toHaveLength(1);
    expect(errors[0]).toContain(`InvalidField ${field}["`);
    expect(errors[0]).not.toContain('hunter2');
  });
});

describe('manifests', () => {
  const doc = (value: unknown) => JSON.stringify(value);

  test('a broken document is named by line and column, and the others come out', () => {
    const { resources, rejections } = parseManifests(
      `${doc(network)}\n---\nkind: [\n---\n${doc(peer)}\n---\n# nothing\n`,
      'f.yaml',
    );
    expect(resources.map(({ resource, origin }) => `${formatRef(refOf(resource))} ${origin}`)).toEqual([
      'VpnNetwork offices f.yaml (document 1)',
      'VpnPeer ovpn-system/office f.yaml (document 3)',
    ]);
    expect(rejections).toHaveLength(1);
    expect(rejections[0]!.errors[0]!.name).toBe('ManifestUnreadable');
    expect(rejections[0]!.errors[0]!.message).toMatch(/f\.yaml \(document 2\): .*\(line 4, column 1\)/);
  });

  test('gives objects without a namespace the default one, where they live in one', () => {
    const manifests = [
      'apiVersion: v1\nkind: Secret\nmetadata: { name: a }',
      'apiVersion: v1\nkind: Secret\nmetadata: { name: b, namespace: own }',
      'apiVersion: v1\nkind: List\nitems: [{ apiVersion: v1, kind: Secret, metadata: { name: c } }]',
    ].join('\n---\n');
    const { resources, rejections } = parseManifests(manifests, 'f.yaml', { defaultNamespace: 'ns' });
    expect(rejections).toEqual([]);
    expect(resources.map(({ resource }) => formatRef(refOf(resource)))).toEqual([
      'Secret ns/a',
      'Secret own/b',
      'Secret ns/c',
    ]);
    expect(parseManifests(manifests, 'f.yaml').rejections).toHaveLength(2);
  });

  test('a syntax error does not show the text around it', () => {
    const text = 'kind: Secret\nstringData:\n  key: hunter2: hunter2\n';
    const { rejections } = parseManifests(text, 'f.yaml');
    expect(rejections[0]!.errors[0]!.message).toContain('line 3');
    expect(rejections[0]!.errors[0]!.message).not.toContain('hunter2');
    expect(rejections[0]!.errors[0]!.cause).toBeUndefined();
  });

  test('the items of a List come out one by one', () => {
    const list = { apiVersion: 'v1', kind: 'List', items: [network, { kind: 'Pod' }, key] };
    const { resources, rejections } = parseManifests(doc(list), 'f.yaml');
    expect(resources.map(({ origin }) => origin)).toEqual(['f.yaml (item 1)', 'f.yaml (item 3)']);
    expect(rejections.map(({ origin }) => origin)).toEqual(['f.yaml (item 2)']);
    expect(
      parseManifests(doc({ apiVersion: 'ovpn-operator.io/v1alpha1', kind: 'VpnPeerList', items: [peer] }), 'f')
        .resources,
    ).toHaveLength(1);
  });

  test('of two objects with one name the first stays', () => {
    const { resources, rejections } = parseManifests(
      `${doc(peer)}\n---\n${doc(withSpec(peer, { suspend: true }))}`,
      'f.yaml',
    );
    expect(resources.map(({ resource }) => resource)).toEqual([good(peer)]);
    expect(rejections[0]!.errors[0]!.name).toBe('DuplicateObject');
    expect(rejections[0]!.errors[0]!.message).toContain('already defined in f.yaml (document 1)');
  });

  test.each([
    ['nothing', ''],
    ['comments', '# only\n---\n# comments\n'],
  ])('%s is no object', (_, text) => {
    expect(parseManifests(text, 'f.yaml')).toEqual({ resources: [], rejections: [] });
  });

  test.each([
    [
      'aliases that multiply',
      `a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n`,
    ],
    ['very deep nesting', '['.repeat(50000)],
    ['a repeated key', 'kind: a\nkind: b\n'],
    ['an alias of nothing', 'kind: *nothing\n'],
  ])('%s: an error, not a crash', (_, text) => {
    const { resources, rejections } = parseManifests(text, 'f.yaml');
    expect(resources).toEqual([]);
    expect(rejections[0]!.errors[0]!.name).toBe('ManifestUnreadable');
  });
});

describe('any input', () => {
  test('gets an answer', () => {
    fc.assert(
      fc.property(fc.anything({ withNullPrototype: true, withDate: true }), (value) => void parseResource(value, 'x')),
    );
    fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => void parseManifests(text, 'x')));
    const cyclic: Record<string, unknown> = { ...peer };
    cyclic['spec'] = cyclic;
    expect(parseResource(cyclic, 'x').ok).toBe(false);
    const trap = new Proxy(
      {},
      {
        get() {
          throw new Error('trap');
        },
      },
    );
    expect(parseResource(trap, 'x')).toMatchObject({ ok: false, errors: [{ name: 'ManifestUnreadable' }] });
  });

  test('in the place of any field gets an answer, and never an unchecked resource', () => {
    const places = Object.values(baseManifests).flatMap((base) =>
      Object.keys(base['spec'] as Manifest).map((field) => [base, field] as const),
    );
    fc.assert(
      fc.property(fc.constantFrom(...places), fc.anything(), ([base, field], value) => {
        const result = parseResource(withSpec(base, { [field]: value }), 'x');
        if (!result.ok) expect(result.errors.length).toBeGreaterThan(0);
        else expect(parseResource(result.resource, 'x')).toEqual(result);
      }),
    );
  });
});

test('an object that was deleted and created anew is no change', () => {
  const lower = (uid: string, generation: number) =>
    good({
      ...key,
      metadata: { name: 'a', namespace: 'b', uid },
      spec: { static: { secretRef: { name: 's' }, direction: 'Normal', generation } },
    });
  expect(checkTransition(lower('1', 5), lower('1', 4)).map(({ where }) => where.field)).toEqual([
    'spec.static.generation',
  ]);
  expect(checkTransition(lower('1', 5), lower('2', 4))).toEqual([]);
});
