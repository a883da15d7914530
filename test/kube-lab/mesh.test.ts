import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VpnPeer } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { netnsOf, reaches } from '../e2e/scene.ts';
import { AgentProcess, type Host, Hosts, ping } from '../support/hosts.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { profileOf, untilMesh } from '../support/kube/until.ts';
import { openvpn26, openvpn27, type OpenvpnBuild, OpenvpnProcess } from '../support/openvpn.ts';
import { eventually } from '../support/run.ts';

/** A network over two nodes from nothing but its manifest, and clients that move between them. */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const namespace = 'team-a';

let hosts: Hosts;
let plane: ControlPlane;
let controller: ControllerProcess;
let nodes: readonly [Host, Host];
let agents: readonly [AgentProcess, AgentProcess];

const apply = (...items: object[]): Promise<void> =>
  plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));

const client = (name: string): object[] => [
  {
    apiVersion,
    kind: 'VpnKey',
    metadata: { namespace, name },
    spec: { issued: { networkRef: { name: 'corp' } } },
  },
  {
    apiVersion,
    kind: 'VpnPeer',
    metadata: { namespace, name },
    spec: { networkRef: { name: 'corp' }, identity: { key: name } },
  },
];

const peer = (name: string) =>
  plane.admin.get<VpnPeer & Record<string, unknown>>(apiPath('VpnPeer', { namespace, name }));

async function connect(name: string, host: Host, build: OpenvpnBuild, node: Host): Promise<OpenvpnProcess> {
  const profile = (await profileOf(plane.admin, namespace, name)).replaceAll(/^remote (\S+) .*\n/gm, (line, address) =>
    address === node.ipv4 ? line : '',
  );
  const started = OpenvpnProcess.startFile(host, build, profile);
  await started.connected(1, 120_000);
  return started;
}

/** Waits until a peer is said to be on a node. */
const held = (name: string, node: Host): Promise<number> =>
  eventually(
    `${name} is on ${node.name}`,
    async () => {
      const { holder } = (await peer(name)).status ?? {};
      return holder?.node === node.name ? holder.epoch : undefined;
    },
    { timeoutMs: 60_000, stepMs: 50 },
  );

const addressesOf = async (name: string): Promise<readonly string[]> =>
  (await peer(name)).status?.allocation?.addresses ?? [];

beforeAll(async () => {
  hosts = await Hosts.create('kmesh');
  plane = await ControlPlane.start({ host: await hosts.host('api') });
  nodes = [await hosts.host('node1'), await hosts.host('node2')];
  await plane.namespace(namespace);
  controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  await controller.start();
  const agentOn = async (node: Host): Promise<AgentProcess> => {
    const agent = new AgentProcess(node, ['--status-interval', '1'], await plane.agentOf(node.name));
    // As a kubelet says it.
    await plane.admin.merge(`/api/v1/nodes/${node.name}/status`, {
      status: { addresses: [{ type: 'InternalIP', address: node.ipv4 }] },
    });
    await agent.start();
    return agent;
  };
  agents = [await agentOn(nodes[0]), await agentOn(nodes[1])];
  const corp = {
    apiVersion,
    kind: 'VpnNetwork',
    metadata: { name: 'corp' },
    spec: {
      pools: { peers: ['10.80.0.0/24', 'fd80::/112'] },
      listeners: [{ name: 'udp', port: 1194, endpoints: nodes.map(({ ipv4 }) => ({ address: ipv4 })) }],
      pki: { builtIn: {} },
      mesh: {},
      keepalive: { intervalSeconds: 2, timeoutSeconds: 30 },
      allowedPeers: { namespaces: { names: [namespace] } },
    },
  };
  await apply(corp, ...client('ann'), ...client('bea'));
}, 600_000);
afterAll(async () => {
  await controller.stop();
  await hosts.remove();
}, 60_000);

describe('a mesh of two nodes', () => {
  let ann: OpenvpnProcess;
  let bea: OpenvpnProcess;
  let places: Record<'ann' | 'bea', Host>;

  test('stands by itself, and status says so', async () => {
    const said = await untilMesh(plane.admin, 2);
    const underlay = said.map(({ name, underlayAddresses }) => [name, underlayAddresses]);
    expect(Object.fromEntries(underlay)).toEqual(Object.fromEntries(nodes.map(({ name, ipv4 }) => [name, [ipv4]])));
  }, 240_000);

  test('clients on two nodes reach each other', async () => {
    places = { ann: await hosts.host('ann'), bea: await hosts.host('bea') };
    ann = await connect('ann', places.ann, openvpn26, nodes[0]);
    bea = await connect('bea', places.bea, openvpn27, nodes[1]);
    expect([await held('ann', nodes[0]), await held('bea', nodes[1])]).toEqual([1, 1]);
    await reaches(netnsOf(places.ann), await addressesOf('bea'));
    await reaches(netnsOf(places.bea), await addressesOf('ann'));
  }, 240_000);

  test('a client that comes to the other node without a word takes its routes along, within two seconds', async () => {
    const [address = ''] = await addressesOf('ann');
    await ann.end('SIGKILL');
    ann = await connect('ann', places.ann, openvpn26, nodes[1]);
    expect(await held('ann', nodes[1])).toBe(2);
    const since = Date.now();
    // The node where it was has let go of it, long before its keepalive would have told.
    await eventually(
      'the first node sends to the second',
      async () => {
        const [corp] = (await agents[0].report()).networks;
        return corp?.peers.every(({ name, peerId }) => !name.endsWith('/ann') || peerId === undefined) || undefined;
      },
      { stepMs: 50 },
    );
    expect(Date.now() - since).toBeLessThan(2_000);
    const old = `${agents[0].netns}/ovpn-corp`;
    expect(await ping(old, address, { count: 3 })).toMatchObject({ received: 3 });
    await reaches(netnsOf(places.bea), await addressesOf('ann'));
  }, 120_000);

  test('what is connected goes on without the controller, and a node finds its neighbour again', async () => {
    await controller.stop('SIGKILL');
    await agents[1].stopAgent('SIGKILL');
    const [address = ''] = await addressesOf('ann');
    const old = `${agents[0].netns}/ovpn-corp`;
    expect(await ping(old, address, { count: 5 })).toMatchObject({ received: 5 });
    await agents[1].startAgent();
    await agents[1].until('its neighbour', ({ networks }) => networks[0]?.neighbours[0]?.connected === true);
    expect(await ping(old, address, { count: 5 })).toMatchObject({ received: 5 });
    await bea.end('SIGTERM');
    await ann.end('SIGTERM');
  }, 120_000);
});
