import { describe, expect, test } from '@jest/globals';
import { customResourceDefinition } from '../../../api/crd.ts';
import { definitions } from '../../../api/definitions.ts';
import { networkManifest, peerManifest } from '../../../cluster/testing/objects.ts';
import type { OperatorPod } from '../operator-pods.ts';
import { seen, type Seen } from '../read.ts';
import type { ClusterFacts, ClusterFinding, DaemonSetFact, NodeFact } from './facts.ts';
import { clusterFindings, duration } from './findings.ts';
import { cniOptions, definitionFact, parseFindings } from './gather.ts';
import { clusterDoctorText } from './text.ts';

const now = Date.parse('2026-06-01T12:00:00Z');
const minute = 60_000;
const day = 86_400_000;

const container = { name: 'agent', image: 'x', args: [], ready: true, restarts: 0 };
const quiet = { waiting: undefined, lastExit: undefined, lastExitAt: undefined };
const pod = (component: OperatorPod['component'], fields: Partial<OperatorPod> = {}): OperatorPod => ({
  ...{ namespace: 'ovpn-system', name: `ovpn-${component}-1`, component, node: 'n1', version: '1.0.0' },
  ...{ phase: 'Running', ready: true, leaving: false, account: `ovpn-${component}`, problem: undefined },
  containers: [{ ...container, ...quiet }],
  ...fields,
});
const node = (name: string, fields: Partial<NodeFact> = {}): NodeFact => ({
  ...{ name, labels: {}, ready: true, unschedulable: false, taints: [] },
  ...fields,
});
const daemonSet = (fields: Partial<DaemonSetFact> = {}): DaemonSetFact => ({
  ...{ name: 'ovpn-agent', component: 'agent', desired: 1, updated: 1, ready: 1, rolls: true, nodeSelector: {} },
  ...fields,
});
const ready = {
  type: 'Ready',
  status: 'True',
  reason: 'Ready',
  message: '',
  lastTransitionTime: '2026-01-01T00:00:00Z',
};
const network = (spec: object = {}, status: object = { conditions: [ready] }, name = 'corp'): Seen<'VpnNetwork'> =>
  seen('VpnNetwork', { ...networkManifest(name, spec), status });
const peer = (...conditions: object[]): Seen<'VpnPeer'> =>
  seen('VpnPeer', {
    ...peerManifest('office'),
    status: { conditions: conditions.map((one) => ({ ...ready, ...one })) },
  });

const facts = (fields: Partial<ClusterFacts> = {}): ClusterFacts => ({
  ...{ now, operatorNamespace: 'ovpn-system', version: '1.0.0' },
  definitions: { known: [{ name: 'vpnpeers', present: true, served: true, lacking: [], unknown: [] }] },
  pods: { known: [pod('controller'), pod('agent')] },
  daemonSets: { known: [daemonSet()] },
  nodes: { known: [node('n1')] },
  nodeLeases: { known: new Map([['n1', now - 5_000]]) },
  leader: { known: { holder: 'c', renewed: now - 2_000, durationSeconds: 15 } },
  ...{ networks: { known: [network()] }, peers: { known: [peer({})] }, keys: { known: [] } },
  missingRights: { known: [] },
  nodeFindings: new Map([['n1', { known: [] }]]),
  ...fields,
});
const notWell = (fields: Partial<ClusterFacts>): ClusterFinding[] =>
  clusterFindings(facts(fields)).filter(({ severity }) => severity !== 'ok');

test('a cluster with which all is well has only good findings', () => {
  expect(notWell({})).toEqual([]);
  const checks = new Set(clusterFindings(facts()).map(({ check }) => check));
  expect([...checks]).toEqual([
    ...['crds', 'controller', 'leader', 'pods', 'versions', 'rollout', 'rights', 'nodes', 'clock', 'listeners'],
    ...['networks', 'peers'],
  ]);
});

const definition = { name: 'vpnpeers', present: true, served: true, lacking: [], unknown: [] };
const conflict = { reason: 'Conflict', message: 'overlaps; to mend it: make them disjoint [OVPN109]' };
const restarted = (lastExit: string, ago: number): OperatorPod =>
  pod('agent', { containers: [{ ...container, restarts: 3, waiting: undefined, lastExit, lastExitAt: now - ago }] });
const pki = (ca: number, certificate: number): object => ({
  conditions: [ready],
  pki: { caNotAfter: new Date(now + ca).toISOString(), certificateNotAfter: new Date(now + certificate).toISOString() },
});

test.each<[string, Partial<ClusterFacts>, string, string]>([
  ['no CRD', { definitions: { known: [{ ...definition, present: false, served: false }] } }, 'error crds', 'not there'],
  [
    'a version that is not served',
    { definitions: { known: [{ ...definition, served: false }] } },
    'error crds',
    'serve',
  ],
  [
    'an older CRD',
    { definitions: { known: [{ ...definition, lacking: ['spec.mesh', 'spec.a', 'spec.b', 'spec.c'] }] } },
    'warning crds',
    'has no spec.mesh, spec.a, spec.b and 1 more',
  ],
  ['a newer CRD', { definitions: { known: [{ ...definition, unknown: ['spec.x'] }] } }, 'warning crds', 'is newer'],
  ['no controller', { pods: { known: [pod('agent')] } }, 'error controller', 'has no controller:'],
  [
    'a controller that is not ready',
    {
      pods: {
        known: [pod('agent'), pod('controller', { ready: false, problem: 'not ready by its probes: controller' })],
      },
    },
    'error controller',
    'has no controller that is ready',
  ],
  ['no leader', { leader: { known: undefined } }, 'error leader', 'no controller leads'],
  [
    'a leader that went away',
    { leader: { known: { holder: 'c', renewed: now - 5 * minute, durationSeconds: 15 } } },
    'error leader',
    'has said nothing for 5 min',
  ],
  [
    'a container that was killed',
    { pods: { known: [pod('controller'), restarted('OOMKilled (137)', minute)] } },
    'warning pods',
    '3 times',
  ],
  [
    'an agent of another version',
    { pods: { known: [pod('controller'), pod('agent', { version: '0.9.0' })] } },
    'warning versions',
    '0.9.0: 1',
  ],
  ['a program of another version', { version: '2.0.0' }, 'warning versions', 'this program is 2.0.0'],
  ['a rollout that stands', { daemonSets: { known: [daemonSet({ updated: 0 })] } }, 'warning rollout', '0 of 1'],
  ['pods that are missing', { daemonSets: { known: [daemonSet({ ready: 0 })] } }, 'error rollout', '0 of 1 pods ready'],
  [
    'a missing right',
    { missingRights: { known: ['ovpn-agent may not get pods'] } },
    'error rights',
    'may not get pods',
  ],
  ['a node that is away', { nodes: { known: [node('n1', { ready: false })] } }, 'warning nodes', 'is not Ready'],
  [
    'a tainted node',
    { nodes: { known: [node('n1'), node('n2', { taints: ['a=b:NoSchedule'] })] } },
    'error nodes',
    'has no agent; it has the taints a=b:NoSchedule',
  ],
  [
    'a node that the chart leaves out and a network wants',
    {
      nodes: { known: [node('n1'), node('n2')] },
      daemonSets: { known: [daemonSet({ nodeSelector: { vpn: 'yes' } })] },
    },
    'error nodes',
    'agent.nodeSelector asks for vpn=yes, and VpnNetwork corp wants the node',
  ],
  ['a fast clock', { nodeLeases: { known: new Map([['n1', now + 90_000]]) } }, 'warning clock', '90 s ahead'],
  [
    'a slow clock',
    { nodeLeases: { known: new Map([['n1', now - 10 * minute]]) } },
    'warning clock',
    'up to 10 min behind',
  ],
  [
    'one port for two',
    { networks: { known: [network(), network({}, undefined, 'lab')] } },
    'error listeners',
    'wants UDP port 1194 on n1, as listener udp of VpnNetwork corp',
  ],
  ['no status', { peers: { known: [peer()] } }, 'warning peers', 'nobody has said anything of it yet'],
  ['a contested route', { peers: { known: [peer({ type: 'Contested', ...conflict })] } }, 'warning peers', 'overlaps'],
  [
    'an expired CRL',
    { networks: { known: [network({}, { conditions: [{ ...ready, type: 'Expiring', reason: 'Expired' }] })] } },
    'error networks',
    'Expired',
  ],
  [
    'a CA that expires, with nobody to say so',
    { networks: { known: [network({}, pki(9 * day, 99 * day))] } },
    'warning certificates',
    'its newest CA expires in 9 days',
  ],
  [
    'an expired certificate',
    { networks: { known: [network({}, pki(99 * day, -day))] } },
    'error certificates',
    'certificate expired on',
  ],
  [
    'an object of another version',
    { peers: { known: [seen('VpnPeer', { metadata: { name: 'a' }, spec: 1 })] } },
    'unchecked peers',
    'is not understood',
  ],
  [
    'what may not be seen',
    { nodes: { unknown: 'you may not list nodes' } },
    'unchecked nodes',
    'you may not list nodes',
  ],
  ['a node that cannot be asked', { nodeFindings: new Map([['n1', { unknown: 'no' }]]) }, 'unchecked node', 'no'],
])('%s', (_name, fields, what, text) => {
  const found = notWell(fields).filter(({ severity, check }) => `${severity} ${check}` === what);
  expect(found.map((finding) => finding.text)).toEqual([expect.stringContaining(text)]);
});

test('what is wrong with an object is told once, with the remedy that the message brings', () => {
  const wrong = { status: 'False', ...conflict };
  expect(
    notWell({ peers: { known: [peer({ type: 'Accepted', ...wrong }, { type: 'Programmed', ...wrong }, wrong)] } }),
  ).toEqual([
    {
      ...{ severity: 'error', check: 'peers', object: 'VpnPeer team-a/office' },
      text: 'Accepted: Conflict: overlaps [OVPN109]',
      remedy: 'make them disjoint',
    },
  ]);
});

test.each([
  ['Suspended', { suspend: true }],
  ['WaitingForClient', {}],
  ['Disconnected', {}],
])('a peer that dials in and is %s is as it should be', (reason, spec) => {
  const manifest = {
    ...peerManifest('ann'),
    spec: { networkRef: { name: 'corp' }, identity: { commonName: 'ann' }, ...spec },
    status: { conditions: [{ ...ready, status: 'False', reason }] },
  };
  expect(notWell({ peers: { known: [seen('VpnPeer', manifest)] } })).toEqual([]);
});

test('a node that nobody wants needs no agent', () => {
  const selector = { known: [daemonSet({ nodeSelector: { vpn: 'yes' } })] };
  const nodes = { known: [node('n1', { labels: { vpn: 'yes' } }), node('n2')] };
  const networks = { known: [network({ nodeSelector: { vpn: 'yes' } })] };
  expect(notWell({ daemonSets: selector, nodes, networks })).toEqual([]);
});

test('networks on different nodes, or at different addresses, may have the same port', () => {
  const on = (zone: string) => network({ nodeSelector: { zone } }, undefined, zone);
  const at = (address: string) =>
    network({ listeners: [{ name: 'udp', port: 1194, address }] }, undefined, `at-${address.length}`);
  const nodes = { known: [node('n1', { labels: { zone: 'a' } }), node('n2', { labels: { zone: 'b' } })] };
  const conflicts = (networks: Seen<'VpnNetwork'>[]) =>
    notWell({ networks: { known: networks }, nodes }).filter(({ check }) => check === 'listeners');
  expect(conflicts([on('a'), on('b')])).toEqual([]);
  expect(conflicts([at('192.0.2.1'), at('192.0.2.10')])).toEqual([]);
  expect(conflicts([on('a'), on('a')])).toHaveLength(1);
});

test('the worst comes first', () => {
  const found = clusterFindings(facts({ leader: { known: undefined }, version: '2', nodes: { unknown: 'no' } }));
  const ranks = found.map(({ severity }) => ['error', 'warning', 'unchecked', 'ok'].indexOf(severity));
  expect(ranks).toEqual(ranks.toSorted((a, b) => a - b));
  expect(new Set(ranks).size).toBe(4);
});

describe('a CRD', () => {
  const [own] = definitions.map((one) => customResourceDefinition(one));
  const changed = (
    change: (schema: { properties: Record<string, { properties: Record<string, unknown> }> }) => void,
  ) => {
    const copy = structuredClone(own) as unknown as {
      spec: { versions: { schema: { openAPIV3Schema: Parameters<typeof change>[0] } }[] };
    };
    const [version] = copy.spec.versions;
    if (version !== undefined) change(version.schema.openAPIV3Schema);
    return definitionFact('x', own, copy);
  };

  test('of this version has just its fields', () => {
    expect(changed(() => undefined)).toEqual({ name: 'x', present: true, served: true, lacking: [], unknown: [] });
  });

  test('is compared field by field', () => {
    expect(changed(({ properties }) => delete properties['spec']?.properties['mtu'])).toMatchObject({
      lacking: ['spec.mtu'],
    });
    expect(changed(({ properties }) => (properties['spec']!.properties['x'] = {}))).toMatchObject({
      unknown: ['spec.x'],
    });
  });

  test('may be missing, or serve other versions', () => {
    expect(definitionFact('x', own, undefined)).toMatchObject({ present: false });
    expect(definitionFact('x', own, { spec: { versions: [] } })).toMatchObject({ present: true, served: false });
  });
});

test('the container that installs the plugin is asked with its own folders', () => {
  const args = ['--watch', '--chain', '--bin-dir=/host/cni-bin', '--conf-dir=/host/cni-conf'];
  expect(cniOptions(args)).toEqual(['--bin-dir=/host/cni-bin', '--conf-dir=/host/cni-conf', '--cni-mode', 'chain']);
  expect(cniOptions([])).toEqual(['--cni-mode', 'file']);
});

test.each([{}, [1], [{ severity: 'bad', check: 'a', object: 'b', text: 'c' }]])(
  '%j is no answer of a doctor',
  (value) => {
    expect(() => parseFindings(value)).toThrow('its answer');
  },
);

describe('for people', () => {
  const finding = (fields: Partial<ClusterFinding>): ClusterFinding => ({
    ...{ severity: 'warning', check: 'clock', object: 'node', text: 'is wrong', remedy: 'run NTP' },
    ...fields,
  });

  test('the same on many nodes is one row, and what is well is counted', () => {
    const found = ['n1', 'n2', 'n3', 'n4'].map((name) => finding({ node: name }));
    expect(clusterDoctorText([...found, finding({ severity: 'ok' })], false)).toBe(
      [
        'RESULT    CHECK   NODE                OBJECT   FOUND',
        'WARNING   clock   n1, n2 and 2 more   node     is wrong',
        '',
        'clock, n1, n2 and 2 more, node: to mend it: run NTP',
        '',
        '4 warnings, 1 well',
        '',
      ].join('\n'),
    );
  });

  test('of many findings of a check the first are shown', () => {
    const found = Array.from({ length: 25 }, (_, n) => finding({ object: `VpnPeer a/p${n}`, check: 'peers' }));
    expect(clusterDoctorText(found, false)).toContain('\npeers: 5 more; -o wide shows all\n');
    expect(clusterDoctorText(found, true)).toContain('p24');
  });

  test('that all is well is said in a line', () => {
    expect(clusterDoctorText([finding({ severity: 'ok' })], false)).toBe('1 well\n');
  });

  test.each([
    [5_000, '5 s'],
    [5 * minute, '5 min'],
    [5 * 3_600_000, '5 h'],
    [5 * day, '5 days'],
  ])('%i ms are %s', (ms, text) => expect(duration(ms)).toBe(text));
});
