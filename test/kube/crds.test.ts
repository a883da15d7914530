import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { customResourceDefinition } from '../../operator/src/api/crd.ts';
import { type CrdSchema, schemasIn } from '../../operator/src/api/crd.fixture.ts';
import { definitions } from '../../operator/src/api/definitions.ts';
import { baseManifests, type Manifest } from '../../operator/src/api/rule-cases.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { placesOf } from '../support/kube/paths.ts';
import { eventually } from '../support/run.ts';

let plane: ControlPlane;
let admin: KubeUser;
beforeAll(async () => {
  plane = await ControlPlane.start();
  admin = plane.admin;
  // The server describes a new kind some time after it serves it.
  for (const { plural } of definitions) {
    await eventually(`${plural} are described`, async () =>
      (await admin.tryKubectl(['explain', plural])).code === 0 ? true : undefined,
    );
  }
}, 180_000);
afterAll(() => plane.stop());

interface Crd {
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly versions: readonly {
      readonly schema: { readonly openAPIV3Schema: CrdSchema };
      readonly additionalPrinterColumns: readonly { readonly name: string; readonly priority?: number }[];
    }[];
  };
}

const crds = definitions.map((definition) => customResourceDefinition(definition) as unknown as Crd);
const kinds = definitions.map((definition, index) => [definition.kind, definition, crds[index]!] as const);
const crdPath = (name: string): string => `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${name}`;

describe.each(kinds)('the CRD of a %s', (kind, definition, crd) => {
  test('is stored as it is generated: the server drops nothing and adds only what it always does', async () => {
    const stored = await admin.get<Crd & { status: { conditions: { type: string; status: string }[] } }>(
      crdPath(crd.metadata.name),
    );
    expect(stored.spec).toEqual({ ...crd.spec, conversion: { strategy: 'None' } });
    // NonStructuralSchema, KubernetesAPIApprovalPolicyConformant and the like come only when something is wrong.
    expect(stored.status.conditions.map(({ type, status }) => `${type}=${status}`).sort()).toEqual([
      'Established=True',
      'NamesAccepted=True',
    ]);
  });

  test('is explained to the last field', async () => {
    const schema = crd.spec.versions[0]!.schema.openAPIV3Schema;
    const text = await admin.kubectl('explain', definition.plural, '--recursive');
    // One line per field, two spaces further in for each level.
    const explained: string[] = [];
    const open: string[] = [];
    for (const line of text.split('\n')) {
      const [, indent, name] = /^( *)(\w+)\t</.exec(line) ?? [];
      if (indent === undefined || name === undefined) continue;
      open.splice(indent.length / 2 - 1);
      open.push(name);
      explained.push(open.join('.'));
    }
    const ours = [...schemasIn(schema)].flatMap(([path]) => {
      const field = path.slice(1).replaceAll('[]', '');
      return path.endsWith('[]') || path.endsWith('{}') || field === '' ? [] : [field];
    });
    expect(explained.filter((field) => !field.startsWith('metadata.')).sort()).toEqual(ours.sort());
  });

  test('describes each field to `kubectl explain` in our words', async () => {
    const document = await admin.get<{ components: { schemas: Record<string, CrdSchema> } }>(
      '/openapi/v3/apis/ovpn-operator.io/v1alpha1',
    );
    const served = document.components.schemas[`io.ovpn-operator.v1alpha1.${kind}`]!;
    const words = (schema: CrdSchema): Record<string, unknown> =>
      Object.fromEntries(
        [...schemasIn(schema)]
          .filter(([path]) => /^\.(spec|status)/.test(path))
          .map(([path, { description }]) => [path, description]),
      );
    expect(words(served)).toEqual(words(crd.spec.versions[0]!.schema.openAPIV3Schema));
  });
});

const now = '2026-01-02T03:04:05Z';
const ready = { type: 'Ready', status: 'True', reason: 'Ready', message: '', lastTransitionTime: now };
const connected = { ...ready, type: 'Connected', reason: 'Connected' };
const node = { name: 'worker-1', ready: true, peers: 1, attachments: 0 };

async function store(manifest: Manifest, status?: object): Promise<void> {
  const { path } = placesOf(manifest);
  const { apiVersion, kind, metadata } = manifest;
  await admin.apply(path, manifest);
  if (status !== undefined) await admin.apply(`${path}/status`, { apiVersion, kind, metadata, status });
}

describe('kubectl get', () => {
  beforeAll(async () => {
    await store(baseManifests.VpnNetwork, { conditions: [ready], nodes: [node], nodesReady: 1, peersConnected: 3 });
    await store(baseManifests.dialOut, {
      conditions: [ready, connected],
      addresses: ['10.8.0.20'],
      endpoint: '198.51.100.7:1194',
      cipher: 'AES-256-GCM',
      lastHandshake: now,
      node: 'worker-1',
      traffic: { rxBytes: 5, txBytes: 6, rxPackets: 1, txPackets: 1 },
    });
    await store(baseManifests.VpnKey, { conditions: [ready], generation: 3, fingerprint: 'sha256:ab' });
  });

  /** The columns of the only row. */
  async function row(...args: string[]): Promise<Record<string, string>> {
    const [head = '', ...rows] = (await admin.kubectl('get', ...args)).trimEnd().split('\n');
    expect(rows).toHaveLength(1);
    // Columns are aligned and parted by three spaces.
    const starts = [...head.matchAll(/\S+(?: \S+)*/g)].map((match) => [match[0], match.index] as const);
    return Object.fromEntries(
      starts.map(([name, from], index) => [name, rows[0]!.slice(from, starts[index + 1]?.[1]).trim()]),
    );
  }

  test('shows a network', async () => {
    const wide = await row('vpnnet', '-o', 'wide');
    expect(wide).toMatchObject({ NAME: 'offices', READY: 'True', REASON: 'Ready', NODES: '1' });
    expect(wide['CONNECTED']).toBe('3');
    expect(wide['POOLS']).toContain('10.8.0.0/24');
    expect(wide['AGE']).toMatch(/^\d+s$/);
  });

  test('shows a peer', async () => {
    expect(await row('vpnp', '-n', 'ovpn-system')).toMatchObject({
      NAME: 'partner',
      NETWORK: 'offices',
      ADDRESS: '10.8.0.20',
      ENDPOINT: '198.51.100.7:1194',
      CONNECTION: 'Connected',
      CIPHER: 'AES-256-GCM',
      READY: 'True',
    });
    expect(await row('vpnp', '-A', '-o', 'wide')).toMatchObject({ NODE: 'worker-1', RX: '5', TX: '6' });
  });

  test('shows a key', async () => {
    expect(await row('vpnk', '-n', 'ovpn-system', '-o', 'wide')).toMatchObject({
      NAME: 'office',
      CIPHER: 'AES-256-GCM',
      WANTED: '3',
      GENERATION: '3',
      READY: 'True',
      FINGERPRINT: 'sha256:ab',
    });
  });

  test('has one word for all our kinds', async () => {
    const all = await admin.kubectl('get', 'ovpn', '-A', '-o', 'name');
    expect(all.trim().split('\n').sort()).toEqual([
      'vpnkey.ovpn-operator.io/office',
      'vpnnetwork.ovpn-operator.io/offices',
      'vpnpeer.ovpn-operator.io/partner',
    ]);
  });
});

describe('server-side apply by several managers', () => {
  const path = apiPath('VpnNetwork', { name: 'shared' });
  const identity = { apiVersion: 'ovpn-operator.io/v1alpha1', kind: 'VpnNetwork', metadata: { name: 'shared' } };
  interface Network {
    readonly metadata: { readonly resourceVersion: string; readonly managedFields: readonly { manager: string }[] };
    readonly spec: {
      readonly listeners: readonly { name: string; port: number }[];
      readonly nodes: readonly { name: string }[];
      readonly push: { readonly routes: readonly string[] };
      readonly mtu?: number;
    };
    readonly status?: { readonly nodes: readonly { name: string; peers: number }[] };
  }
  const applied = async (manager: string, spec: object, force = false): Promise<Network> =>
    (await admin.apply(path, { ...identity, spec }, { manager, force })) as unknown as Network;

  const base = {
    pools: { peers: ['10.70.0.0/24'] },
    listeners: [{ name: 'udp', port: 1194 }],
    push: { routes: ['10.1.0.0/16'] },
  };
  const extra = {
    pools: { peers: ['10.70.0.0/24'] },
    listeners: [{ name: 'tcp', port: 1194, protocol: 'TCP' }],
    nodes: [{ name: 'worker-9', addresses: ['10.70.0.9'] }],
    push: { routes: ['10.2.0.0/16'] },
  };

  test('each adds entries of its own to a list, and takes only its own away', async () => {
    await applied('team', base);
    const both = await applied('platform', extra);
    expect(both.spec.listeners.map(({ name }) => name).sort()).toEqual(['tcp', 'udp']);
    expect([...both.spec.push.routes].sort()).toEqual(['10.1.0.0/16', '10.2.0.0/16']);
    const fewer = await applied('platform', { pools: extra.pools });
    expect(fewer.spec).toMatchObject({ listeners: [{ name: 'udp' }], push: { routes: ['10.1.0.0/16'] } });
    expect(fewer.spec.nodes).toEqual([]);
  });

  test('who applies the same again changes nothing, whatever the server has filled in', async () => {
    const before = await applied('team', base);
    const after = await applied('team', base);
    expect(after.metadata.resourceVersion).toBe(before.metadata.resourceVersion);
  });

  test('who sets what another one has set is told whose it is', async () => {
    await applied('team', { ...base, mtu: 1400 });
    await expect(applied('platform', { ...extra, mtu: 1380 })).rejects.toThrow(/conflict with "team".*spec\.mtu/s);
    expect((await admin.get<Network>(path)).spec.mtu).toBe(1400);
  });

  test('agents of two nodes say what is so on theirs, and a person who applies the spec takes nothing of it away', async () => {
    const agents = [await plane.agentOf('worker-1'), await plane.agentOf('worker-2')];
    const say = async (index: number, peers: number): Promise<unknown> =>
      agents[index]!.apply(
        `${path}/status`,
        { ...identity, status: { nodes: [{ ...node, name: `worker-${index + 1}`, peers }] } },
        { manager: `ovpn-agent/worker-${index + 1}` },
      );
    await say(0, 1);
    await say(1, 2);
    await say(0, 3);
    const { status } = await applied('team', base);
    expect(status?.nodes.map(({ name, peers }) => [name, peers])).toEqual([
      ['worker-1', 3],
      ['worker-2', 2],
    ]);
  });

  test('status is not changed by way of the object, nor the object by way of status', async () => {
    const before = await admin.get<Network>(path);
    await admin.merge(path, { status: { nodes: [] } });
    await admin.merge(`${path}/status`, { spec: { mtu: 1300 } });
    const after = await admin.get<Network>(path);
    expect([after.spec, after.status]).toEqual([before.spec, before.status]);
  });
});
