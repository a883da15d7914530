import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VpnAllocation, VpnNetwork, VpnPeer } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { netnsOf, reaches } from '../e2e/scene.ts';
import { AgentProcess, type Host, Hosts, ping } from '../support/hosts.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import {
  clientConfig,
  credentials,
  openvpn26,
  openvpn27,
  type OpenvpnBuild,
  OpenvpnProcess,
} from '../support/openvpn.ts';
import { Pki } from '../support/pki.ts';
import { eventually } from '../support/run.ts';
import { systemNamespace, tlsSecret } from '../support/session-manifests.ts';

/** A small cluster: controller, two nodes, and clients that dial in; nobody writes an address. */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const port = 1194;

let hosts: Hosts;
let plane: ControlPlane;
let controller: ControllerProcess;
let agents: Record<'node1' | 'node2', AgentProcess>;
let pki: Pki;

beforeAll(async () => {
  hosts = await Hosts.create('kcl');
  pki = new Pki('CA of the cluster');
  hosts.onCleanup(() => {
    pki.remove();
    return Promise.resolve();
  });
  plane = await ControlPlane.start({ host: await hosts.host('api'), controllers: true });
  controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  await controller.start();
  hosts.onCleanup(() => controller.stop());
  const agentOn = async (name: string): Promise<AgentProcess> => {
    const host = await hosts.host(name);
    const agent = new AgentProcess(host, ['--status-interval', '2'], await plane.agentOf(name));
    await agent.start();
    return agent;
  };
  agents = { node1: await agentOn('node1'), node2: await agentOn('node2') };
}, 600_000);
afterAll(() => hosts.remove(), 60_000);

const peerPath = (name: string): string => apiPath('VpnPeer', { namespace: 'default', name });
const networkPath = apiPath('VpnNetwork', { name: 'corp' });

const peer = async (name: string): Promise<VpnPeer> => (await plane.admin.get(peerPath(name))) as unknown as VpnPeer;
const network = async (): Promise<VpnNetwork> => (await plane.admin.get(networkPath)) as unknown as VpnNetwork;

const manifest = (name: string, spec: object = {}): object => ({
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace: 'default', name },
  spec: { networkRef: { name: 'corp' }, identity: { commonName: name }, ...spec },
});

function dial(name: string, client: Host, node: Host, build: OpenvpnBuild): OpenvpnProcess {
  return OpenvpnProcess.start(client, {
    build,
    config: clientConfig({ transport: 'UDP', family: 4, remotes: [{ address: node.ipv4, port }] }),
    inline: credentials(pki.ca, pki.client(name)),
  });
}

function conditionOf(status: VpnPeer['status'] | VpnNetwork['status'], type: string): string {
  const found = status?.conditions?.find((condition) => condition.type === type);
  return found === undefined ? 'none' : `${found.status} ${found.reason}`;
}

/** Waits until a peer's status says that it is connected to a node. */
const untilOn = (name: string, node: string): Promise<VpnPeer> =>
  eventually(
    `${name} is said to be on ${node}`,
    async () => {
      const found = await peer(name);
      const said = conditionOf(found.status, 'Connected') === 'True Connected' && found.status?.node === node;
      return said ? found : undefined;
    },
    { timeoutMs: 60_000 },
  );

describe('a cluster of two nodes', () => {
  let clients: Record<'alice' | 'bob', Host>;
  let alice: OpenvpnProcess;
  let bob: OpenvpnProcess;

  test('a network and two peers are applied: both nodes serve, and stock clients connect to either', async () => {
    clients = { alice: await hosts.host('alice'), bob: await hosts.host('bob') };
    const server = tlsSecret('corp-pki', { certificate: pki.server(), ca: pki.ca, namespace: systemNamespace });
    await plane.admin.applyYaml(server);
    const corp = {
      apiVersion,
      kind: 'VpnNetwork',
      metadata: { name: 'corp' },
      spec: {
        pools: { peers: ['10.80.0.0/24', 'fd80::/112'], pods: ['10.81.0.0/16', 'fd81::/64'] },
        listeners: [{ name: 'udp', port }],
        pki: { secretRef: { name: 'corp-pki' } },
        controlChannel: { wrap: 'None' },
        keepalive: { intervalSeconds: 2, timeoutSeconds: 10 },
        allowedPeers: { namespaces: { from: 'Selector', selector: { matchLabels: { vpn: 'yes' } } } },
      },
    };
    const objects = { apiVersion: 'v1', kind: 'List', items: [corp, manifest('alice'), manifest('bob')] };
    await plane.namespace('default', { vpn: 'yes' });
    await plane.admin.applyYaml(JSON.stringify(objects));
    const { status } = await eventually(
      'the network is ready',
      async () => {
        const found = await network();
        return conditionOf(found.status, 'Ready') === 'True Ready' && found.status?.nodesReady === 2
          ? found
          : undefined;
      },
      { timeoutMs: 60_000 },
    );
    expect(status?.nodes?.map(({ podBlocks }) => podBlocks?.length)).toEqual([2, 2]);
    alice = dial('alice', clients.alice, agents.node1.host, openvpn26);
    bob = dial('bob', clients.bob, agents.node2.host, openvpn27);
    await Promise.all([alice.connected(), bob.connected()]);
    const seen = [await untilOn('alice', 'node1'), await untilOn('bob', 'node2')];
    expect(seen.map((one) => one.status?.addresses)).toEqual(seen.map((one) => one.status?.allocation?.addresses));
    expect(seen[0]!.status?.allocation?.addresses).not.toEqual(seen[1]!.status?.allocation?.addresses);
    // Each reaches the node that it is connected to.
    for (const [host, node] of [
      [clients.alice, 'node1'],
      [clients.bob, 'node2'],
    ] as const) {
      await reaches(netnsOf(host), status?.nodes?.find(({ name }) => name === node)?.addresses ?? []);
    }
  }, 120_000);

  test('what status says of them stays: the node that does not have a peer says nothing', async () => {
    const before = [await peer('alice'), await peer('bob')].map(({ status }) => [status?.node, status?.conditions]);
    await new Promise((resolve) => setTimeout(resolve, 7_000));
    const after = [await peer('alice'), await peer('bob')].map(({ status }) => [status?.node, status?.conditions]);
    expect(after).toEqual(before);
    const { status } = await eventually('the network counts them', async () => {
      const found = await network();
      return found.status?.peersConnected === 2 ? found : undefined;
    });
    expect(status).toMatchObject({ peers: 2, nodesWanted: 2, pools: { numbers: { used: 4, total: 254 } } });
    expect(status?.pools?.podBlocks?.used).toBe(2);
    expect(await plane.admin.kubectl('get', 'vpnnet', 'corp')).toMatch(/corp\s.*True\s+2\s+2\s/);
  }, 60_000);

  test('settled, it costs the API server nothing but the lease and what watches need', async () => {
    // Events, and what the network sums up, come some seconds after.
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    const from = plane.audit().length;
    await new Promise((resolve) => setTimeout(resolve, 60_000));
    const ours = plane.audit().slice(from);
    const requests = ours
      .filter(({ user, verb, objectRef }) => {
        const isOurs = /:ovpn-(agent|controller)$/.test(user.username);
        return isOurs && verb !== 'watch' && objectRef?.resource !== 'leases';
      })
      .map(({ user, verb, requestURI }) => `${user.username} ${verb} ${requestURI}`);
    expect(requests).toEqual([]);
  }, 120_000);

  test('the controller is killed and comes back: nobody loses a packet, a connection or an address', async () => {
    const before = await peer('alice');
    const { status } = (await network()) as { status?: VpnNetwork['status'] };
    const addresses = status?.nodes?.find(({ name }) => name === 'node1')?.addresses ?? [];
    expect(addresses).toHaveLength(2);
    const stream = ping(netnsOf(clients.alice), addresses[0] ?? '', { count: 700, interval: 0.05, deadline: 120 });
    await controller.stop('SIGKILL');
    await reaches(netnsOf(clients.alice), addresses);
    await controller.start();
    // A lease that nobody gave back runs out first.
    await new Promise((resolve) => setTimeout(resolve, 20_000));
    await reaches(netnsOf(clients.alice), addresses);
    const { sent, received } = await stream;
    expect([sent, received]).toEqual([700, 700]);
    expect((await peer('alice')).status?.allocation).toEqual(before.status?.allocation);
    expect(alice.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
  }, 180_000);

  test('a client moves to the other node with its address, and status follows', async () => {
    const before = await peer('bob');
    await bob.end('SIGTERM');
    await eventually('it is said to be gone', async () => {
      const { status } = await peer('bob');
      return conditionOf(status, 'Connected').startsWith('False') ? true : undefined;
    });
    bob = dial('bob', clients.bob, agents.node1.host, openvpn26);
    await bob.connected();
    const after = await untilOn('bob', 'node1');
    expect(after.status?.addresses).toEqual(before.status?.addresses);
    expect(after.status?.lastError).toBeUndefined();
  }, 90_000);

  test('a peer is deleted: its client is out within five seconds', async () => {
    const began = Date.now();
    await plane.admin.delete(peerPath('alice'));
    await agents.node1.until('alice is gone', ({ networks }) =>
      networks.every(({ peers }) => peers.every(({ name }) => name !== 'default/alice')),
    );
    expect(Date.now() - began).toBeLessThan(5_000);
    await alice.end('SIGKILL');
  }, 60_000);

  test('a namespace loses its label: its peers are out, and their numbers are given up', async () => {
    await plane.admin.merge('/api/v1/namespaces/default', { metadata: { labels: { vpn: null } } });
    await eventually(
      'bob is refused',
      async () => {
        const { status } = await peer('bob');
        return conditionOf(status, 'Accepted') === 'False NotAllowed' ? true : undefined;
      },
      { timeoutMs: 60_000 },
    );
    await eventually('bob has no number', async () => {
      const { items } = await plane.admin.get<{ items: VpnAllocation[] }>(apiPath('VpnAllocation'));
      const his = items.filter(({ spec }) => spec.holder.name === 'bob');
      return his.every(({ status }) => status?.releasedAt !== undefined) ? true : undefined;
    });
    await bob.end('SIGKILL');
  }, 60_000);

  test('the network is deleted: nothing of it stays on the nodes', async () => {
    await plane.admin.delete(networkPath);
    for (const agent of Object.values(agents)) {
      await agent.until('no network is left', ({ networks }) => networks.length === 0);
    }
  }, 60_000);
});
