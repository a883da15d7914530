import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { customResourceDefinition } from '../../operator/src/api/crd.ts';
import { definitionOf } from '../../operator/src/api/definitions.ts';
import { baseManifests } from '../../operator/src/api/rule-cases.ts';
import { ApiSource } from '../../operator/src/cluster/api-source.ts';
import { loadKubeAccess } from '../../operator/src/cluster/kube-access.ts';
import { createLog } from '../../operator/src/telemetry/log.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { placesOf } from '../support/kube/paths.ts';
import { eventually } from '../support/run.ts';

/** Agents, CRDs and stored objects of different versions, as they meet while a cluster is upgraded. */
let plane: ControlPlane;
let source: ApiSource;
const said: string[] = [];

interface Schema {
  properties: Record<string, Schema>;
  default?: unknown;
  type?: string;
}

/** The CRD of VpnPeers with another spec. */
function peersWith(change: (spec: Schema) => void): object {
  const crd = structuredClone(customResourceDefinition(definitionOf('VpnPeer')!)) as unknown as {
    spec: { versions: [{ schema: { openAPIV3Schema: Schema } }] };
  };
  change(crd.spec.versions[0].schema.openAPIV3Schema.properties['spec']!);
  return crd;
}

async function install(crd: object): Promise<void> {
  await plane.admin.apply('/apis/apiextensions.k8s.io/v1/customresourcedefinitions/vpnpeers.ovpn-operator.io', crd);
}

beforeAll(async () => {
  plane = await ControlPlane.start();
  const { kubeconfig } = await plane.agentOf('node-a');
  const to = { write: (line: string) => void said.push(line) };
  source = new ApiSource({
    access: await loadKubeAccess({ kubeconfig }),
    node: 'node-a',
    log: createLog({ to }),
  });
  await source.start();
}, 180_000);
afterAll(async () => {
  await source.stop();
  await plane.stop();
});

const { dialIn } = baseManifests;
const { path } = placesOf(dialIn);
const seen = () => source.get('VpnPeer', 'ovpn-system', 'alice');

test('an object with a field of newer CRDs is taken without it, and the log says so once', async () => {
  await install(
    peersWith((spec) => {
      spec.properties['weight'] = { type: 'integer' } as unknown as Schema;
    }),
  );
  const newer = { ...dialIn, spec: { ...(dialIn['spec'] as object), weight: 3 } };
  await eventually('the server knows the newer field', async () => {
    const { spec } = (await plane.admin.apply(path, newer)) as { spec: { weight?: number } };
    return spec.weight;
  });
  expect(await eventually('the agent has it', seen)).toMatchObject({ spec: { identity: { commonName: 'alice' } } });
  // Watches that are older than the CRD still come without the field.
  let weight = 3;
  await eventually('the field comes to the agent', async () => {
    await plane.admin.merge(path, { spec: { weight: ++weight } });
    return said.some((line) => line.includes('"field.newer"')) || undefined;
  });
  await plane.admin.merge(path, { spec: { weight: ++weight, routes: ['10.33.0.0/16'] } });
  await eventually('the agent follows', () => (seen()?.spec.routes.length === 1 ? true : undefined));
  expect(seen()?.spec).not.toHaveProperty('weight');
  expect(source.rejections).toEqual([]);
  expect(source.complete).toBe(true);
  expect(said.filter((line) => line.includes('"field.newer"'))).toHaveLength(1);
});

test('an object that was stored before a field had its default has the default for everybody', async () => {
  await plane.admin.delete(path);
  await install(
    peersWith((spec) => {
      delete spec.properties['suspend']!.default;
    }),
  );
  await eventually('the server gives no default', async () => {
    const { spec } = (await plane.admin.apply(path, dialIn)) as { spec: object };
    if (!('suspend' in spec)) return true;
    await plane.admin.delete(path);
    return undefined;
  });
  expect(await eventually('an agent that is newer has it', seen)).toMatchObject({ spec: { suspend: false } });
  await install(peersWith(() => {}));
  const stored = await eventually('the server gives the default', async () => {
    const { spec } = await plane.admin.get<{ spec: { suspend?: boolean } }>(path);
    return spec.suspend === undefined ? undefined : spec;
  });
  expect(stored.suspend).toBe(false);
  expect(source.rejections).toEqual([]);
});
