import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VpnNetwork } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { agentFieldManager } from '../../operator/src/cluster/status-writer.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { eventually } from '../support/run.ts';

const path = apiPath('VpnNetwork', { name: 'corp' });
const corp = { apiVersion: 'ovpn-operator.io/v1alpha1', kind: 'VpnNetwork', metadata: { name: 'corp' } };
let plane: ControlPlane;
let controller: ControllerProcess;
const agents = new Map<string, KubeUser>();

const say = (node: string): Promise<unknown> => {
  const entry = { name: node, ready: true, addresses: [], podBlocks: [], peers: 0, attachments: 0 };
  const manager = agentFieldManager(node);
  const agent = agents.get(node);
  if (agent === undefined) throw new Error(`no agent on ${node}`);
  return agent.apply(`${path}/status`, { ...corp, status: { nodes: [entry] } }, { manager });
};

const status = async () => (await plane.admin.get<VpnNetwork & Record<string, unknown>>(path)).status;
const names = async () => (await status())?.nodes?.map(({ name }) => name);

beforeAll(async () => {
  plane = await ControlPlane.start();
  for (const node of ['node-a', 'node-b', 'node-c']) agents.set(node, await plane.agentOf(node));
  controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  await controller.start();
  await plane.admin.apply(path, {
    ...corp,
    spec: { pools: { peers: ['10.8.0.0/16'] }, listeners: [{ name: 'udp', port: 1194 }] },
  });
}, 300_000);
afterAll(async () => {
  await controller.stop();
  await plane.stop();
}, 60_000);

test('what the agent of a Node said goes with the Node, and nothing else does', async () => {
  for (const node of agents.keys()) await say(node);
  await eventually('all nodes are ready', async () => ((await status())?.nodesReady === 3 ? true : undefined));
  await plane.admin.delete('/api/v1/nodes/node-b');
  await eventually('the entry is gone', async () => ((await names())?.includes('node-b') === false ? true : undefined));
  expect(await names()).toEqual(['node-a', 'node-c']);
  const { conditions, nodesWanted } = await eventually('the figures follow', async () => {
    const now = await status();
    return now?.nodesReady === 2 ? now : undefined;
  });
  expect(nodesWanted).toBe(2);
  expect(conditions).toMatchObject([{ type: 'Ready', status: 'True' }]);
});

test('a Node that goes while no controller runs is noticed by the next one; one that has just joined stays', async () => {
  await controller.stop('SIGKILL');
  await plane.admin.delete('/api/v1/nodes/node-c');
  agents.set('node-d', await plane.agentOf('node-d'));
  await say('node-d');
  await controller.start();
  await eventually(
    'the entry is gone',
    async () => ((await names())?.includes('node-c') === false ? true : undefined),
    {
      timeoutMs: 60_000,
    },
  );
  expect(await names()).toEqual(['node-a', 'node-d']);
}, 90_000);
