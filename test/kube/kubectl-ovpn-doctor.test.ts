import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { version } from '../../operator/src/version.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { kubectlOvpn } from '../support/kube/kubectl-ovpn.ts';
import { run } from '../support/run.ts';

/** What `kubectl ovpn doctor` finds in a cluster, and what is left of that for who may see little. */

interface Finding {
  readonly severity: string;
  readonly check: string;
  readonly object: string;
  readonly text: string;
  readonly remedy?: string;
  readonly node?: string;
}

const apiVersion = 'ovpn-operator.io/v1alpha1';
const now = new Date().toISOString().replace(/\.\d+Z/, 'Z');

let plane: ControlPlane;

const doctor = async (user: KubeUser, ...args: string[]): Promise<{ code: number; found: Finding[] }> => {
  const { code, stdout, stderr } = await kubectlOvpn(user, 'doctor', '-o', 'json', ...args);
  expect(stderr).toBe('');
  return { code, found: JSON.parse(stdout) as Finding[] };
};
const of = (found: readonly Finding[], check: string): string[] =>
  found
    .filter((finding) => finding.check === check)
    .map(({ severity, object, text }) => `${severity} ${object} ${text}`);

const makeNode = async (name: string, ready: 'True' | 'False', labels: object = {}): Promise<void> => {
  const path = apiPath('Node', { name });
  await plane.admin.apply(path, { apiVersion: 'v1', kind: 'Node', metadata: { name, labels } });
  await plane.admin.apply(`${path}/status`, {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name },
    status: { conditions: [{ type: 'Ready', status: ready, reason: 'Test', message: '', lastTransitionTime: now }] },
  });
};

const lease = async (namespace: string, name: string, renewed: number): Promise<void> => {
  await plane.admin.apply(apiPath('Lease', { namespace, name }), {
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { namespace, name },
    spec: {
      holderIdentity: name,
      leaseDurationSeconds: 15,
      renewTime: new Date(renewed).toISOString().replace('Z', '000Z'),
    },
  });
};

const makePod = async (name: string, component: string, status: object, fields: object = {}): Promise<void> => {
  const metadata = {
    namespace: systemNamespace,
    name,
    labels: {
      'app.kubernetes.io/part-of': 'ovpn-operator',
      'app.kubernetes.io/component': component,
      'app.kubernetes.io/version': version,
    },
  };
  const path = apiPath('Pod', metadata);
  await plane.admin.apply(path, {
    ...{ apiVersion: 'v1', kind: 'Pod', metadata },
    spec: { serviceAccountName: `ovpn-${component}`, containers: [{ name: component, image: 'none' }], ...fields },
  });
  await plane.admin.apply(`${path}/status`, { ...{ apiVersion: 'v1', kind: 'Pod', metadata }, status });
};
const ready = (name: string): object => ({
  phase: 'Running',
  conditions: [{ type: 'Ready', status: 'True' }],
  containerStatuses: [
    { name, image: 'none', imageID: '', ready: true, restartCount: 0, state: { running: { startedAt: now } } },
  ],
});

const network = (name: string, nodeSelector: object = {}): object => ({
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name },
  spec: { nodeSelector, pools: { peers: ['10.80.0.0/24'] }, listeners: [{ name: 'udp', port: 1194 }] },
});

beforeAll(async () => {
  plane = await ControlPlane.start();
  await plane.namespace('kube-node-lease');
  await plane.namespace('team-a');
}, 180_000);
afterAll(() => plane.stop());

test('a cluster with nothing but the CRDs has no operator', async () => {
  const { code, found } = await doctor(plane.admin);
  expect(code).toBe(1);
  expect(of(found, 'crds')).toEqual(
    ['networks', 'peers', 'keys', 'allocations'].map(
      (plural) => `ok vpn${plural}.ovpn-operator.io is there, and of this version`,
    ),
  );
  expect(of(found, 'controller')).toEqual([`error namespace ${systemNamespace} has no pods of the operator`]);
  expect(of(found, 'leader')).toEqual(['error controller no controller leads']);
});

describe('with an operator', () => {
  beforeAll(async () => {
    await makeNode('n1', 'True', { zone: 'a' });
    await makeNode('n2', 'True');
    await makeNode('n3', 'False');
    await lease('kube-node-lease', 'n1', Date.now() + 90_000);
    await lease('kube-node-lease', 'n2', Date.now());
    await lease(systemNamespace, 'ovpn-controller', Date.now());
    await makePod('ovpn-controller-0', 'controller', ready('controller'));
    await makePod(
      'ovpn-agent-n1',
      'agent',
      {
        phase: 'Running',
        conditions: [{ type: 'Ready', status: 'False' }],
        containerStatuses: [
          {
            ...{ name: 'agent', image: 'none', imageID: '', ready: false, restartCount: 4 },
            state: { waiting: { reason: 'CrashLoopBackOff', message: 'back-off' } },
          },
        ],
      },
      { nodeName: 'n1' },
    );
    await plane.admin.apply(apiPath('VpnNetwork', { name: 'corp' }), network('corp'));
    await plane.admin.apply(apiPath('VpnNetwork', { name: 'lab' }), network('lab', { zone: 'a' }));
    const path = apiPath('VpnPeer', { namespace: 'team-a', name: 'office' });
    const head = { apiVersion, kind: 'VpnPeer', metadata: { namespace: 'team-a', name: 'office' } };
    await plane.admin.apply(path, {
      ...head,
      spec: { networkRef: { name: 'corp' }, identity: { commonName: 'office' } },
    });
    const message = 'route overlaps; to mend it: make the routes disjoint [OVPN109]';
    await plane.admin.apply(`${path}/status`, {
      ...head,
      status: {
        conditions: [
          { type: 'Accepted', status: 'False', reason: 'Conflict', message, lastTransitionTime: now },
          { type: 'Ready', status: 'False', reason: 'Conflict', message, lastTransitionTime: now },
        ],
      },
    });
  }, 60_000);

  test('finds what is wrong with each part of it, the worst first', async () => {
    const { code, found } = await doctor(plane.admin);
    expect(code).toBe(1);
    const ranks = found.map(({ severity }) => ['error', 'warning', 'unchecked', 'ok'].indexOf(severity));
    expect(ranks).toEqual(ranks.toSorted((a, b) => a - b));
    expect(of(found, 'controller')).toEqual([`ok namespace ${systemNamespace} has a controller that is ready`]);
    expect(of(found, 'leader')).toEqual(['ok controller ovpn-controller leads']);
    expect(of(found, 'pods')[0]).toBe(
      `error Pod ${systemNamespace}/ovpn-agent-n1 is not ready: container agent: CrashLoopBackOff: back-off`,
    );
    expect(of(found, 'versions')).toEqual([
      `ok namespace ${systemNamespace} runs ${version} everywhere, as this program`,
    ]);
    expect(of(found, 'rights')).toEqual(['ok service accounts have the rights that were asked about']);
    expect(of(found, 'nodes')).toEqual([
      // The API server gives it to Nodes that are new, and no controller takes it away here.
      'error Node n2 has no agent; it has the taints node.kubernetes.io/not-ready:NoSchedule',
      'warning Node n3 is not Ready',
      'ok Node n1 has an agent',
    ]);
    expect(of(found, 'clock')[0]).toMatch(/^warning Node n1 its clock is (8|9)\d s ahead of the API server's$/);
    expect(of(found, 'listeners')).toEqual([
      'error VpnNetwork lab listener udp wants UDP port 1194 on n1, as listener udp of VpnNetwork corp',
    ]);
    expect(found.filter(({ check }) => check === 'peers')).toEqual([
      {
        ...{ severity: 'error', check: 'peers', object: 'VpnPeer team-a/office' },
        text: 'Accepted: Conflict: route overlaps [OVPN109]',
        remedy: 'make the routes disjoint',
      },
    ]);
  });

  test('looks at one node', async () => {
    const { found } = await doctor(plane.admin, '--node', 'n2');
    expect([...new Set(found.flatMap(({ node }) => node ?? []))]).toEqual(['n2']);
    expect(await kubectlOvpn(plane.admin, 'doctor', '--node', 'n9')).toMatchObject({ code: 2, stdout: '' });
  });

  test('prints a table for people, with what to do below it', async () => {
    const { stdout } = await kubectlOvpn(plane.admin, 'doctor');
    expect(stdout).toMatch(/^RESULT +CHECK +NODE +OBJECT +FOUND\nERROR/);
    expect(stdout).toContain('peers, VpnPeer team-a/office: to mend it: make the routes disjoint\n');
    expect(stdout).not.toContain('is there, and of this version');
    expect(stdout).toMatch(/\n\d+ errors, .*, \d+ well\n$/);
  });

  test('asks a CRD of an older version for the fields that it lacks', async () => {
    const path = apiPath('CustomResourceDefinition', { name: 'vpnnetworks.ovpn-operator.io' });
    const crd = await plane.admin.get<{ spec: { versions: Record<string, unknown>[] } }>(path);
    const older = JSON.parse(JSON.stringify(crd.spec)) as typeof crd.spec;
    const schema = older.versions[0]?.['schema'] as {
      openAPIV3Schema: { properties: { status: { properties: Record<string, unknown> } } };
    };
    delete schema.openAPIV3Schema.properties.status.properties['pools'];
    await plane.admin.merge(path, { spec: older });
    const { found } = await doctor(plane.admin);
    await plane.admin.merge(path, { spec: crd.spec });
    expect(of(found, 'crds')[0]).toMatch(
      /^warning vpnnetworks.ovpn-operator.io is older than this program: it has no status.pools/,
    );
  });

  test('says of what somebody may not see that it is unchecked, and which right is missing', async () => {
    const nobody = await plane.agentOf('n2');
    const { found } = await doctor(nobody);
    const unchecked = found.filter(({ severity }) => severity === 'unchecked');
    expect(unchecked.map(({ text }) => text)).toEqual(
      expect.arrayContaining([
        `you may not list pods in namespace ${systemNamespace}`,
        'you may not get customresourcedefinitions.apiextensions.k8s.io',
        'you may not list leases.coordination.k8s.io in namespace kube-node-lease',
      ]),
    );
    // What it may see is judged all the same.
    expect(of(found, 'listeners')).toHaveLength(1);
  });
});

test('explain-route says what is in its way before it asks an agent', async () => {
  const explain = (...args: string[]) => kubectlOvpn(plane.admin, 'explain-route', ...args);
  const at = { namespace: 'team-a' };
  const spec = { containers: [{ name: 'main', image: 'none' }], serviceAccountName: 'default' };
  await plane.admin.apply(apiPath('VpnNetwork', { name: 'corp' }), network('corp'));
  await plane.admin.send('POST', '/api/v1/namespaces/team-a/serviceaccounts', {
    ...{ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'default' } },
  });
  for (const [name, more] of Object.entries({
    shop: { nodeName: 'n2' },
    host: { nodeName: 'n2', hostNetwork: true },
    lost: {},
  })) {
    await plane.admin.apply(apiPath('Pod', { ...at, name }), {
      ...{ apiVersion: 'v1', kind: 'Pod', metadata: { ...at, name }, spec: { ...spec, ...more } },
    });
  }
  for (const [name, more] of Object.entries({ web: {}, direct: { clusterIP: 'None' } })) {
    await plane.admin.apply(apiPath('Service', { ...at, name }), {
      ...{ apiVersion: 'v1', kind: 'Service', metadata: { ...at, name }, spec: { ports: [{ port: 80 }], ...more } },
    });
  }
  const cases: [string[], string][] = [
    [['shpo', '10.0.0.1'], 'there is no Pod shpo in namespace team-a; did you mean "shop"?'],
    [['host', '10.0.0.1'], 'Pod team-a/host: is on the network of its node (hostNetwork)'],
    [['lost', '10.0.0.1'], 'Pod team-a/lost: is on no node yet'],
    [['shop', '10.0.0.1'], 'Node n2: no agent is placed on the node'],
    [['shop', 'intranet'], 'the destination is no IP address, Service or VpnPeer: "intranet"'],
    [['shop', 'svc/web'], 'Node n2: no agent is placed on the node'],
    [['shop', 'svc/wep.team-a'], 'there is no Service wep in namespace team-a; did you mean "web"?'],
    [['shop', 'svc/direct'], 'Service team-a/direct: is headless'],
    [['shop', 'vpnpeer/nobody'], 'there is no VpnPeer nobody in namespace team-a'],
  ];
  for (const [args, problem] of cases) {
    const { code, stdout, stderr } = await explain(...args, '-n', 'team-a');
    expect({ code, stdout, stderr }).toEqual({ code: 2, stdout: '', stderr: expect.stringContaining(problem) });
  }
});

describe('support-bundle', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-bundle-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  /** Each canary is another one, so that what is found tells where it was. */
  const canaries = new Map<string, string>();
  const plant = (where: string): string => {
    const canary = `Canary${randomBytes(6).toString('hex')}`;
    canaries.set(where, canary);
    return canary;
  };
  /** A text with a secret of each sort, for a place where anybody may write anything. */
  const confession = (where: string): string => {
    const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' });
    const rows = Array.from({ length: 16 }, () => randomBytes(16).toString('hex'));
    const jwt = ['{"alg":"none"}', `{"sub":"${plant(`${where}, token`)}"}`].map((one) =>
      Buffer.from(one).toString('base64url'),
    );
    const token = `${jwt.join('.')}.${randomBytes(24).toString('base64url')}`;
    canaries.set(`${where}, claims`, jwt[1] ?? '');
    canaries.set(`${where}, PEM`, key.split('\n')[1] ?? '');
    canaries.set(`${where}, static key`, rows[7] ?? '');
    return [
      `dialled with password=${plant(`${where}, password`)} and ${token}`,
      key,
      `-----BEGIN OpenVPN Static key V1-----\n${rows.join('\n')}\n-----END OpenVPN Static key V1-----`,
      `<auth-user-pass>\nann\n${plant(`${where}, auth-user-pass`)}\n</auth-user-pass>`,
      `<tls-crypt>\n${plant(`${where}, tls-crypt`)}\n</tls-crypt>`,
    ].join('\n');
  };
  const annotations = (where: string): object => ({
    'kubectl.kubernetes.io/last-applied-configuration': JSON.stringify({ data: plant(`${where}, last applied`) }),
    note: plant(`${where}, annotation`),
  });

  test('has what is needed, and none of the canaries that are planted wherever a secret could be', async () => {
    const { admin } = plane;
    const system = { namespace: systemNamespace };
    const secret = { ...system, name: 'material', annotations: annotations('Secret') };
    await admin.apply(apiPath('Secret', secret), {
      ...{ apiVersion: 'v1', kind: 'Secret', metadata: secret, stringData: { 'tls.key': plant('Secret') } },
    });
    const map = { ...system, name: 'settings', annotations: annotations('ConfigMap') };
    await admin.apply(apiPath('ConfigMap', map), {
      ...{ apiVersion: 'v1', kind: 'ConfigMap', metadata: map, data: { 'client.conf': plant('ConfigMap') } },
    });
    const net = { ...network('corp'), metadata: { name: 'corp', annotations: annotations('VpnNetwork') } };
    await admin.apply(apiPath('VpnNetwork', { name: 'corp' }), net);
    const office = { namespace: 'team-a', name: 'confused', annotations: annotations('VpnPeer') };
    const head = { apiVersion, kind: 'VpnPeer' };
    await admin.apply(apiPath('VpnPeer', office), {
      ...{ ...head, metadata: office, spec: { networkRef: { name: 'corp' }, identity: { commonName: 'office' } } },
    });
    await admin.apply(`${apiPath('VpnPeer', office)}/status`, {
      ...{ ...head, metadata: { namespace: 'team-a', name: 'confused' } },
      status: {
        lastError: confession('lastError').slice(0, 4096),
        conditions: [
          { type: 'Ready', status: 'False', reason: 'X', message: confession('condition'), lastTransitionTime: now },
        ],
      },
    });
    const labels = { 'example.org/join-token': plant('label of a Node') };
    await makeNode('n7', 'True', labels);
    await admin.merge(apiPath('Node', { name: 'n7' }), { metadata: { annotations: annotations('Node') } });
    await makePod(
      'ovpn-controller-7',
      'controller',
      {
        phase: 'Failed',
        message: confession('status of a Pod'),
        containerStatuses: [
          {
            ...{ name: 'controller', image: 'none', imageID: '', ready: false, restartCount: 1 },
            state: { terminated: { exitCode: 1, reason: 'Error', message: confession('last words of a container') } },
          },
        ],
      },
      {
        containers: [
          {
            ...{ name: 'controller', image: 'none', args: [`--password=${plant('argument')}`] },
            command: ['sh', '-c', plant('command')],
            env: [{ name: 'ADMIN_PASSWORD', value: plant('variable') }],
          },
        ],
      },
    );
    await admin.must('POST', apiPath('Event', { namespace: 'team-a' }), {
      ...{ apiVersion: 'events.k8s.io/v1', kind: 'Event', metadata: { name: 'e1', annotations: annotations('Event') } },
      ...{ type: 'Warning', reason: 'Refused', action: 'Dial', note: confession('Event').slice(0, 1000) },
      ...{
        eventTime: new Date().toISOString().replace('Z', '000Z'),
        reportingController: 'a/b',
        reportingInstance: 'c',
      },
      regarding: { apiVersion, kind: 'VpnPeer', namespace: 'team-a', name: 'confused' },
    });

    const file = join(folder, 'bundle.tar.gz');
    const { code, stdout, stderr } = await kubectlOvpn(admin, 'support-bundle', '-o', file, '--since', '1h');
    expect(code).toBe(0);
    expect(stderr).toContain('operator/pods.json\n');
    expect(stdout).toContain('look through it before you share it');
    const bundle = await run('tar', '-xzOf', file);
    const names = (await run('tar', '-tzf', file)).split('\n').map((name) => name.replace(/^[^/]*\//, ''));
    expect(names).toEqual(
      expect.arrayContaining([
        ...['README.txt', 'versions.json', 'events.json', 'nodes.json', 'doctor.txt', 'doctor.json', 'errors.txt'],
        ...['objects/vpnnetworks.json', 'objects/vpnpeers.json', 'objects/vpnkeys.json', 'objects/definitions.json'],
        ...['operator/pods.json', 'operator/configmaps.json', 'operator/leases.json'],
      ]),
    );
    // What was planted is in the cluster, and the bundle is of that cluster.
    for (const wanted of [
      '"confused"',
      '"settings"',
      '"ADMIN_PASSWORD"',
      '"Refused"',
      'dialled with password=[redacted',
    ])
      expect(bundle).toContain(wanted);
    expect(canaries.size).toBeGreaterThan(40);
    expect([...canaries].filter(([, canary]) => bundle.includes(canary)).map(([where]) => where)).toEqual([]);
    expect(stdout + stderr).not.toContain('Canary');
    const asked = plane.audit().filter(({ userAgent }) => userAgent?.startsWith('kubectl-ovpn') === true);
    expect(asked.length).toBeGreaterThan(10);
    expect(asked.filter(({ requestURI }) => requestURI.includes('/secrets'))).toEqual([]);
  });

  test('says what could not be read, and writes over nothing', async () => {
    const file = join(folder, 'little.tar.gz');
    const little = await kubectlOvpn(await plane.agentOf('n8'), 'support-bundle', '-o', file);
    expect(little).toMatchObject({ code: 0, stdout: expect.stringContaining('what could not be read:\n') });
    expect(little.stdout).toContain(`operator/pods.json: you may not list pods in namespace ${systemNamespace}`);
    expect(await kubectlOvpn(plane.admin, 'support-bundle', '-o', file)).toMatchObject({
      ...{ code: 2, stdout: '', stderr: expect.stringContaining('little.tar.gz is there already') },
    });
  });
});
