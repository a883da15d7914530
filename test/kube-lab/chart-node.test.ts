import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { defaultAgentSocket } from '../../operator/src/agent/attach-protocol.ts';
import type { VpnKey, VpnNetwork, VpnPeer } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { Containerd, type Sandbox } from '../support/containerd.ts';
import { type Host, Hosts, ping } from '../support/hosts.ts';
import { builtImage } from '../support/image-file.ts';
import { chartFolder, helm } from '../support/kube/chart.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { NodePod, type PodSpec } from '../support/node-pods.ts';
import { openvpn27, OpenvpnProcess } from '../support/openvpn.ts';
import { eventually, run } from '../support/run.ts';

/**
 * The chart on a node: what `helm install` brings to a real API server runs from the image that we ship, in containerd,
 * with just the rights, folders and mounts that the chart gives to it. The scheduler's and kubelet's part is the test's.
 */
const apiVersion = 'ovpn-operator.io/v1alpha1';
const podRange = '10.99.0.0/24';
const image = builtImage();

let hosts: Hosts;
let plane: ControlPlane;
let node: Host;
let containerd: Containerd;
let agentUser: KubeUser;
let controllerUser: KubeUser;
let values: object;
const pods = new Map<string, NodePod>();

const templateOf = async (kind: 'daemonsets' | 'deployments', name: string): Promise<PodSpec> => {
  const path = `/apis/apps/v1/namespaces/${systemNamespace}/${kind}/${name}`;
  const { spec } = await plane.admin.get<{ spec: { template: { spec: PodSpec } } }>(path);
  return spec.template.spec;
};

const uidOf = async (namespace: string, name: string): Promise<string> => {
  const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
  return (await plane.admin.get<{ metadata: { uid: string } }>(path)).metadata.uid;
};

const startPod = async (kind: 'daemonsets' | 'deployments', name: string): Promise<NodePod> => {
  const user = name === 'ovpn-controller' ? controllerUser : agentUser;
  const spec = await templateOf(kind, name);
  // The others are on the node's network, where no plugin is asked.
  const uid = name === 'ovpn-controller' ? await uidOf(systemNamespace, `${name}-1`) : undefined;
  const pod = await NodePod.start(containerd, `${name}-1`, spec, { user, server: plane.serverForHosts, uid });
  pods.set(name, pod);
  return pod;
};

const helmDo = async (...args: string[]): Promise<void> => {
  const { code, stderr } = await helm(args, { kubeconfig: plane.admin.kubeconfig, values });
  if (code !== 0) throw new Error(`helm ${args[0] ?? ''}: ${stderr}`);
};

const network = (): object => ({
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name: 'corp' },
  spec: {
    pools: { peers: ['10.80.0.0/24'], pods: ['10.81.0.0/16'] },
    listeners: [{ name: 'udp', port: 1194, endpoints: [{ address: node.ipv4 }] }],
    pki: { builtIn: {} },
    keepalive: { intervalSeconds: 2, timeoutSeconds: 30 },
    allowedPeers: { namespaces: { names: ['default'] } },
    attach: { namespaces: { from: 'Names', names: ['default'] } },
  },
});

const untilCondition = (path: string, type: string): Promise<void> =>
  eventually(
    `${path} is ${type}`,
    async () => {
      const { status } = await plane.admin.get<{ status?: VpnPeer['status'] | VpnNetwork['status'] }>(path);
      const found = status?.conditions?.find((condition) => condition.type === type);
      if (found?.status !== 'True') throw new Error(JSON.stringify(status));
      return true;
    },
    { timeoutMs: 120_000 },
  ).then(() => undefined);

const chained = (): string[] =>
  readdirSync(containerd.lists)
    .filter((name) => name.endsWith('.conflist'))
    .flatMap((name) => {
      const list = JSON.parse(readFileSync(join(containerd.lists, name), 'utf8')) as { plugins: { type: string }[] };
      return list.plugins.map(({ type }) => type);
    });

beforeAll(async () => {
  hosts = await Hosts.create('kchn');
  const api = await hosts.host('api');
  node = await hosts.host('node');
  plane = await ControlPlane.start({ host: api, bare: true });
  containerd = await Containerd.start(node);
  await containerd.importImage(image.archive);
  const ipam = {
    type: 'host-local',
    dataDir: join(hosts.folder, 'ipam'),
    ranges: [[{ subnet: podRange }]],
    routes: [{ dst: '0.0.0.0/0' }],
  };
  const main = { cniVersion: '1.1.0', name: 'cluster', plugins: [{ type: 'ptp', ipam }] };
  writeFileSync(join(containerd.lists, '10-main.conflist'), JSON.stringify(main));
  // Pods reach the API server, and it answers them, as the cluster's network would see to it.
  await run('ip', '-n', api.namespace, 'route', 'add', podRange, 'via', node.ipv4);
  values = {
    image: { registry: image.registry, repository: image.repository },
    agent: { stateDir: join(hosts.folder, 'state'), extraArgs: ['--status-interval=1'] },
    cni: { mode: 'chain', binDir: containerd.plugins, confDir: containerd.lists },
  };
  const chart = ['ovpn', chartFolder, '--namespace', systemNamespace];
  await helmDo('install', ...chart, '--create-namespace');
  agentUser = await plane.agentOf(node.name);
  controllerUser = await plane.controller('ovpn-controller-1');
}, 600_000);
afterAll(async () => {
  for (const pod of pods.values()) await pod.end(5);
  await hosts.remove();
}, 120_000);

test('holder, agent, installer and controller run with what the chart gives them', async () => {
  await startPod('daemonsets', 'ovpn-holder');
  const agent = await startPod('daemonsets', 'ovpn-agent');
  await eventually('the plugin is in the list', () => (chained().at(-1) === 'ovpn-cni' ? true : undefined));
  // A kubelet tries again until pods can be attached.
  await eventually('the agent serves the plugin', async () => {
    await agent.requireRunning();
    return existsSync(defaultAgentSocket) ? true : undefined;
  });
  await startPod('deployments', 'ovpn-controller');
  await plane.admin.applyYaml(JSON.stringify(network()));
  await untilCondition(apiPath('VpnNetwork', { name: 'corp' }), 'Ready').catch(async (error: unknown) => {
    throw new Error(`${String(error)}\n${await agent.log('agent')}`, { cause: error });
  });
  for (const pod of pods.values()) await pod.requireRunning();
}, 300_000);

let client: OpenvpnProcess;
let shop: Sandbox;
let address: string;

test('a stock client connects by its profile, and a pod of this node reaches it over vpn0', async () => {
  const name = 'ann';
  await plane.admin.applyYaml(
    [
      { kind: 'VpnKey', spec: { issued: { networkRef: { name: 'corp' } } } },
      { kind: 'VpnPeer', spec: { networkRef: { name: 'corp' }, identity: { key: name } } },
    ]
      .map(({ kind, spec }) => JSON.stringify({ apiVersion, kind, metadata: { namespace: 'default', name }, spec }))
      .join('\n---\n'),
  );
  const key = await eventually(
    'the certificate',
    async () => {
      const found = await plane.admin.get<VpnKey & Record<string, unknown>>(
        apiPath('VpnKey', { namespace: 'default', name }),
      );
      return found.status?.secretName;
    },
    { timeoutMs: 60_000 },
  );
  const encoded = await plane.admin.kubectl('get', 'secret', key, '-o', 'jsonpath={.data.client\\.ovpn}');
  client = OpenvpnProcess.startFile(await hosts.host('ann'), openvpn27, Buffer.from(encoded, 'base64').toString());
  await client.connected(1, 120_000);
  const peer = apiPath('VpnPeer', { namespace: 'default', name });
  await untilCondition(peer, 'Connected');
  const { status } = await plane.admin.get<VpnPeer & Record<string, unknown>>(peer);
  address = status?.addresses?.[0] ?? '';
  const pod = { metadata: { namespace: 'default', name: 'shop' }, apiVersion: 'v1', kind: 'Pod' };
  const spec = { nodeName: node.name, containers: [{ name: 'main', image: 'lab.test/busybox:1' }] };
  const annotations = { 'ovpn-operator.io/networks': 'corp' };
  await plane.admin.apply('/api/v1/namespaces/default/serviceaccounts/default', {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { namespace: 'default', name: 'default' },
  });
  await plane.admin.apply('/api/v1/namespaces/default/pods/shop', {
    ...pod,
    metadata: { ...pod.metadata, annotations },
    spec,
  });
  shop = await containerd.runSandbox({ name: 'shop', uid: await uidOf('default', 'shop') });
  expect(await run('nsenter', `--net=${shop.netns}`, 'ip', '-o', 'link', 'show', 'vpn0')).toContain('vpn0');
  const { sent, received } = await ping(shop.netns, address, { count: 5 });
  expect(received).toBe(sent);
}, 300_000);

test('an agent that is replaced, as a rollout does it, costs no packet', async () => {
  const stream = ping(shop.netns, address, { count: 400, interval: 0.05, deadline: 120 });
  await pods.get('ovpn-agent')?.end(30);
  const agent = await startPod('daemonsets', 'ovpn-agent');
  const { sent, received } = await stream;
  expect([sent, received]).toEqual([400, 400]);
  expect(client.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
  await agent.requireRunning();
}, 180_000);

test('the plugin is taken out before the chart is, and nothing of it stays with the runtime', async () => {
  await containerd.endSandbox(shop);
  await client.end();
  values = { ...values, cni: { mode: 'remove', binDir: containerd.plugins, confDir: containerd.lists } };
  await helmDo('upgrade', 'ovpn', chartFolder, '--namespace', systemNamespace);
  await pods.get('ovpn-agent')?.end(30);
  await startPod('daemonsets', 'ovpn-agent');
  expect(chained()).toEqual(['ptp']);
  expect(existsSync(join(containerd.plugins, 'ovpn-cni'))).toBe(false);
  // What the network had in the kernel goes with the network; the agent has to be there for that.
  await plane.admin.delete(apiPath('VpnNetwork', { name: 'corp' }));
  await eventually('its namespace is gone', async () =>
    (await run('ip', 'netns')).includes('ovpn-corp') ? undefined : true,
  );
  const { code, stderr } = await helm(['uninstall', 'ovpn', '--namespace', systemNamespace], {
    kubeconfig: plane.admin.kubeconfig,
  });
  expect([code, stderr]).toEqual([0, expect.not.stringContaining('Error')]);
}, 180_000);
