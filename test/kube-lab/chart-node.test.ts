import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VpnKey, VpnNetwork, VpnPeer } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { Containerd } from '../support/containerd.ts';
import { type Host, Hosts, ping } from '../support/hosts.ts';
import { builtImage } from '../support/image-file.ts';
import { chartFolder, helm } from '../support/kube/chart.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import { Kubelet } from '../support/kube/kubelet.ts';
import { kubectlOvpn } from '../support/kube/kubectl-ovpn.ts';
import { openvpn27, OpenvpnProcess } from '../support/openvpn.ts';
import { eventually, run } from '../support/run.ts';

/**
 * The chart on a node: `helm install`, and from there on all is Kubernetes' own. Its controllers and scheduler place the
 * pods, its kubelet runs them in containerd from the image that we ship, asks their probes, and has the plugin called.
 */
const apiVersion = 'ovpn-operator.io/v1alpha1';
const podRange = '10.99.0.0/24';
const image = builtImage();

let hosts: Hosts;
let plane: ControlPlane;
let node: Host;
let containerd: Containerd;
let kubelet: Kubelet;

interface Pod {
  readonly metadata: { readonly name: string };
  readonly status: {
    readonly containerStatuses?: readonly {
      readonly name: string;
      readonly ready: boolean;
    }[];
  };
}

const ourPods = async (): Promise<readonly Pod[]> =>
  (await plane.admin.get<{ items: Pod[] }>(`/api/v1/namespaces/${systemNamespace}/pods`)).items;

/** kubectl in the operator's namespace. */
const kubectl = (...args: string[]): Promise<string> => plane.admin.kubectl('--namespace', systemNamespace, ...args);

const valuesWith = (mode: 'chain' | 'remove'): object => ({
  image: { registry: image.registry, repository: image.repository },
  agent: { stateDir: join(hosts.folder, 'state'), extraArgs: ['--status-interval=1'] },
  cni: { mode, binDir: containerd.plugins, confDir: containerd.lists },
});

/** Helm, until all that it changed is ready. */
const helmDo = async (args: readonly string[], values?: object): Promise<void> => {
  const { code, stdout, stderr } = await helm([...args, '--namespace', systemNamespace, '--wait', '--timeout', '4m'], {
    kubeconfig: plane.admin.kubeconfig,
    ...(values === undefined ? {} : { values }),
  });
  if (code === 0) return;
  const state = await kubectl('get', 'pods,events', '-o', 'wide');
  throw new Error(`helm ${args[0] ?? ''}: ${stderr}${stdout}\n${state}\n${kubelet.log.slice(-6000)}`);
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

const agents = async (): Promise<string[]> =>
  (await ourPods()).map(({ metadata }) => metadata.name).filter((name) => name.startsWith('ovpn-agent-'));

beforeAll(async () => {
  hosts = await Hosts.create('kchn');
  const api = await hosts.host('api');
  node = await hosts.host('node');
  plane = await ControlPlane.start({ host: api, nodes: [node.name], bare: true });
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
  kubelet = await Kubelet.start(containerd, plane);
}, 600_000);
afterAll(() => hosts.remove(), 120_000);

test('what helm installs runs on the node, and is ready by its probes', async () => {
  await helmDo(['install', 'ovpn', chartFolder, '--create-namespace'], valuesWith('chain'));
  const found = (await ourPods()).flatMap(({ status }) => status.containerStatuses ?? []);
  expect(found.map(({ name, ready }) => [name, ready]).sort()).toEqual([
    ['agent', true],
    ['controller', true],
    ['holder', true],
    ['install-cni', true],
  ]);
  await eventually('the plugin is in the list', () => (chained().at(-1) === 'ovpn-cni' ? true : undefined));
  await plane.admin.applyYaml(JSON.stringify(network()));
  await untilCondition(apiPath('VpnNetwork', { name: 'corp' }), 'Ready').catch(async (error: unknown) => {
    throw new Error(`${String(error)}\n${await kubectl('logs', 'ds/ovpn-agent')}`, { cause: error });
  });
}, 600_000);

test('kubectl reads its log, and runs commands in it', async () => {
  expect(await kubectl('logs', 'ds/ovpn-agent')).toContain('"agent.ready"');
  expect(await kubectl('exec', 'ds/ovpn-agent', '--', 'ovpn-agent', 'status')).toContain('corp');
}, 400_000);

let client: OpenvpnProcess;
let shopNetns: string;
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
    { timeoutMs: 180_000 },
  );
  const encoded = await plane.admin.kubectl('get', 'secret', key, '-o', 'jsonpath={.data.client\\.ovpn}');
  client = OpenvpnProcess.startFile(await hosts.host('ann'), openvpn27, Buffer.from(encoded, 'base64').toString());
  await client.connected(1, 120_000);
  const peer = apiPath('VpnPeer', { namespace: 'default', name });
  await untilCondition(peer, 'Connected');
  const { status } = await plane.admin.get<VpnPeer & Record<string, unknown>>(peer);
  address = status?.addresses?.[0] ?? '';
  await plane.admin.apply('/api/v1/namespaces/default/pods/shop', {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'default', name: 'shop', annotations: { 'ovpn-operator.io/networks': 'corp' } },
    spec: { terminationGracePeriodSeconds: 1, containers: [{ name: 'main', image: 'lab.test/busybox:1' }] },
  });
  await plane.admin.kubectl('wait', 'pod/shop', '--for=condition=Ready', '--timeout=90s');
  const inside = ['exec', 'shop', '--', '/bin/busybox'];
  expect(await plane.admin.kubectl(...inside, 'ip', 'address', 'show', 'vpn0')).toContain('inet 10.81.');
  expect(await plane.admin.kubectl(...inside, 'ping', '-c', '3', address)).toContain(' 0% packet loss');
  shopNetns = await containerd.netnsOf('shop');
}, 600_000);

test('kubectl ovpn explain-route asks the agent of the pod which way a packet takes', async () => {
  const reached = await kubectlOvpn(plane.admin, 'explain-route', 'shop', address, '-n', 'default');
  expect(reached).toMatchObject({ code: 0, stderr: '' });
  expect(reached.stdout).toContain(`on node ${node.name}:\nok    pod default/shop sends from 10.81.`);
  expect(reached.stdout).toContain('VpnPeer default/ann');
  expect(reached.stdout).toContain(`\n${address} is reached\n`);
}, 400_000);

test('kubectl ovpn support-bundle has what doctor finds, the logs and the kernel, and nothing of any Secret', async () => {
  const file = join(hosts.folder, 'bundle.tar.gz');
  const { code, stdout } = await kubectlOvpn(plane.admin, 'support-bundle', '-o', file);
  expect({ code, stdout }).toEqual({ code: 0, stdout: expect.not.stringContaining('what could not be read') });
  const doctor = await run('tar', '-xzOf', file, '--wildcards', '*/doctor.json');
  const found = JSON.parse(doctor) as { severity: string; check: string; node?: string }[];
  // Nothing keeps the clock of a lab right.
  expect(found.filter(({ severity, check }) => severity !== 'ok' && check !== 'clock')).toEqual([]);
  // The folders of the runtime are looked at in another container than all else.
  const ofNode = found.filter((finding) => finding.node === node.name).map(({ check }) => check);
  expect(ofNode).toEqual(
    expect.arrayContaining(['ovpn-driver', 'cni-plugin', 'listener', 'nodes', 'pods', 'socket-holder']),
  );
  const text = await run('tar', '-xzOf', file);
  expect(text).toContain('"agent.ready"');
  expect(text).toContain('"device": "ovpn0"');
  expect(text).toContain('"kernelVersion"');
  const { items } = await plane.admin.get<{ items: { data?: Record<string, string> }[] }>(apiPath('Secret'));
  const values = items.flatMap(({ data = {} }) => Object.values(data));
  // Keys, and certificates too, as they are stored and line by line.
  const rows = values
    .flatMap((value) => [value, ...Buffer.from(value, 'base64').toString('latin1').split('\n')])
    .filter((row) => /^[A-Za-z0-9+/=]{24,}$/.test(row));
  expect(rows.length).toBeGreaterThan(50);
  expect(rows.filter((row) => text.includes(row))).toEqual([]);
}, 240_000);

test('kubectl rollout restart of the agent costs no packet', async () => {
  const [before] = await agents();
  await kubectl('rollout', 'restart', 'ds/ovpn-agent');
  let replaced = false;
  const rollout = kubectl('rollout', 'status', 'ds/ovpn-agent', '--timeout=150s').finally(() => (replaced = true));
  const counts = { sent: 0, received: 0 };
  while (!replaced) {
    const { sent, received } = await ping(shopNetns, address, { count: 40, interval: 0.05 });
    counts.sent += sent;
    counts.received += received;
  }
  await rollout;
  expect(await agents()).not.toContain(before);
  expect(counts.received).toBe(counts.sent);
  expect(client.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
}, 400_000);

test('the plugin is taken out before the chart is, and nothing of it stays on the node', async () => {
  await plane.admin.kubectl('delete', 'pod', 'shop', '--timeout=60s');
  await client.end();
  await helmDo(['upgrade', 'ovpn', chartFolder], valuesWith('remove'));
  expect(chained()).toEqual(['ptp']);
  expect(existsSync(join(containerd.plugins, 'ovpn-cni'))).toBe(false);
  // What the network had in the kernel goes with the network; the agent has to be there for that.
  await plane.admin.delete(apiPath('VpnNetwork', { name: 'corp' }));
  await eventually('its namespace is gone', async () =>
    (await run('ip', 'netns')).includes('ovpn-corp') ? undefined : true,
  );
  await helmDo(['uninstall', 'ovpn']);
  await eventually('the pods are gone', async () => ((await ourPods()).length === 0 ? true : undefined));
  await eventually('their sandboxes are gone', async () =>
    (await containerd.crictl('pods', '--quiet', '--state', 'Ready')).stdout === '' ? true : undefined,
  );
  expect(await node.exec('ip', '-o', 'link')).not.toContain('veth');
}, 240_000);
