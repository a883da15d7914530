/** The plugin as a pod's second network: Multus calls it by a NetworkAttachmentDefinition. libcni is the runtime. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { programPath } from '../programs/location.ts';
import { AgentProcess, cniBinary, Hosts, ping } from '../support/hosts.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { KernelView } from '../support/kernel-view.ts';
import { newStaticKey } from '../support/manifests.ts';
import { applyOffice } from '../support/office.ts';
import { PlainRemote } from '../support/remote.ts';
import { attempt, type Finished, run } from '../support/run.ts';

let hosts: Hosts;
let plane: ControlPlane;
let agent: AgentProcess;
let kernel: KernelView;
let plugins: string;
let lists: string;
const lan = '192.168.50.1';

const definitionPath = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
/** https://github.com/k8snetworkplumbingwg/network-attachment-definition-client, the fields that matter here. */
const networkAttachmentDefinition = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'network-attachment-definitions.k8s.cni.cncf.io' },
  spec: {
    group: 'k8s.cni.cncf.io',
    scope: 'Namespaced',
    names: {
      plural: 'network-attachment-definitions',
      singular: 'network-attachment-definition',
      kind: 'NetworkAttachmentDefinition',
      shortNames: ['net-attach-def'],
    },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: { spec: { type: 'object', properties: { config: { type: 'string' } } } },
          },
        },
      },
    ],
  },
};

beforeAll(async () => {
  hosts = await Hosts.create('kmul');
  plane = await ControlPlane.start({ host: await hosts.host('api') });
  const node = await hosts.host('node');
  const remoteHost = await hosts.host('remote');
  const material = newStaticKey();
  await applyOffice(plane.admin, node, remoteHost, material);
  await run('ip', '-n', remoteHost.namespace, 'addr', 'add', `${lan}/32`, 'dev', 'lo');
  await PlainRemote.create(remoteHost, {
    peerId: 7,
    addresses: ['10.80.0.2/24'],
    routes: ['10.81.1.0/24'],
    endpoint: { address: node.ipv4, port: 1194 },
    material,
  });
  await plane.admin.apply(
    `${definitionPath}/${networkAttachmentDefinition.metadata.name}`,
    networkAttachmentDefinition,
  );
  // A controller makes it in every namespace; this control plane has none.
  await plane.admin.apply('/api/v1/namespaces/default/serviceaccounts/default', {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { namespace: 'default', name: 'default' },
  });
  agent = new AgentProcess(node, [], await plane.agentOf(node.name));
  await agent.start();
  await agent.untilReady('corp', 1);
  kernel = new KernelView(agent);

  plugins = join(hosts.folder, 'plugins');
  lists = join(hosts.folder, 'net.d');
  for (const folder of [plugins, lists]) mkdirSync(folder);
  symlinkSync(cniBinary, join(plugins, 'ovpn-cni'));
  for (const name of ['multus', 'ptp', 'host-local'] as const) symlinkSync(programPath(name), join(plugins, name));
  const kubeconfig = join(hosts.folder, 'multus.kubeconfig');
  plane.admin.writeKubeconfig(kubeconfig, plane.serverForHosts);
  const ipam = { type: 'host-local', dataDir: join(hosts.folder, 'ipam'), ranges: [[{ subnet: '10.99.0.0/24' }]] };
  const primary = {
    cniVersion: '1.0.0',
    name: 'cluster',
    plugins: [{ type: 'ptp', ipam: { ...ipam, routes: [{ dst: '0.0.0.0/0' }] } }],
  };
  const multus = {
    ...{ type: 'multus', kubeconfig, cniDir: join(hosts.folder, 'multus'), binDir: plugins },
    ...{ confDir: lists, delegates: [primary], logToStderr: true, logLevel: 'error' },
  };
  const list = { cniVersion: '1.0.0', name: 'multus', plugins: [multus] };
  writeFileSync(join(lists, '00-multus.conflist'), JSON.stringify(list));
}, 600_000);
afterAll(() => hosts.remove(), 60_000);

async function define(name: string, config: object): Promise<void> {
  const all = { cniVersion: '1.0.0', name, type: 'ovpn-cni', network: 'corp', agentSocket: agent.socket, ...config };
  await plane.admin.apply(`/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions/${name}`, {
    apiVersion: 'k8s.cni.cncf.io/v1',
    kind: 'NetworkAttachmentDefinition',
    metadata: { namespace: 'default', name },
    spec: { config: JSON.stringify(all) },
  });
}

interface NetworkStatus {
  readonly name: string;
  readonly interface: string;
  readonly ips?: readonly string[];
  readonly mac?: string;
  readonly default?: boolean;
}

/** A pod on the API server, and the calls that its kubelet's runtime would make. */
async function pod(
  name: string,
  networks: string,
): Promise<{
  netns: string;
  call: (verb: 'add' | 'del' | 'check') => Promise<Finished>;
  status: () => Promise<NetworkStatus[]>;
}> {
  const path = `/api/v1/namespaces/default/pods/${name}`;
  const made = await plane.admin.apply(path, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'default', name, annotations: { 'k8s.v1.cni.cncf.io/networks': networks } },
    spec: { nodeName: 'node', containers: [{ name: 'main', image: 'none' }] },
  });
  const { uid } = made['metadata'] as { uid: string };
  const netns = await hosts.namespace(`kmul-${name}`);
  const args = [
    `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${name}`,
    `K8S_POD_INFRA_CONTAINER_ID=${name};K8S_POD_UID=${uid}`,
  ].join(';');
  const env = { NETCONFPATH: lists, CNI_PATH: plugins, CNI_ARGS: args };
  return {
    netns,
    call: (verb) => attempt('nsenter', agent.host.command(programPath('cnitool'), verb, 'multus', netns), { env }),
    status: async () => {
      const { metadata } = await plane.admin.get<{ metadata: { annotations: Record<string, string> } }>(path);
      return JSON.parse(metadata.annotations['k8s.v1.cni.cncf.io/network-status'] ?? '[]') as NetworkStatus[];
    },
  };
}
const inPod = (netns: string, ...command: string[]): Promise<string> => run('nsenter', `--net=${netns}`, ...command);

describe('a pod with a second network', () => {
  test('gets it as net1, with what it asks for, and says so in its status', async () => {
    await define('office-vpn', { capabilities: { ips: true, mac: true } });
    const before = await kernel.picture();
    const wanted = { name: 'office-vpn', ips: ['10.81.1.77'], mac: '02:00:00:00:00:77' };
    const shop = await pod('shop', JSON.stringify([wanted]));
    expect(await shop.call('add')).toMatchObject({ code: 0 });
    const [primary, secondary] = await shop.status();
    expect(primary).toMatchObject({ name: 'cluster', interface: 'eth0', default: true });
    expect(secondary).toMatchObject({ name: 'default/office-vpn', interface: 'net1', mac: wanted.mac });
    expect(secondary?.ips).toContain('10.81.1.77');
    expect(await inPod(shop.netns, 'ip', 'route')).toMatch(/^default via 10\.99\.0\.1 dev eth0/);
    expect(await inPod(shop.netns, 'ip', 'link', 'show', 'net1')).toContain(wanted.mac);
    expect(await ping(shop.netns, lan, { count: 2 })).toMatchObject({ received: 2 });
    expect(await shop.call('del')).toMatchObject({ code: 0 });
    expect(await shop.call('del')).toMatchObject({ code: 0 });
    expect(await kernel.picture()).toBe(before);
  });

  test('may name the interface; the network twice is refused, and the first one goes with it', async () => {
    await define('plain', {});
    const before = await kernel.picture();
    const named = await pod('named', 'plain@vpn0');
    expect(await named.call('add')).toMatchObject({ code: 0 });
    expect((await named.status()).map((each) => each.interface)).toEqual(['eth0', 'vpn0']);
    expect(await ping(named.netns, lan, { count: 1 })).toMatchObject({ received: 1 });
    expect(await named.call('del')).toMatchObject({ code: 0 });
    // Both interfaces would lead to the same addresses.
    const twice = await pod('twice', 'plain@vpn0,plain@vpn1');
    const refused = await twice.call('add');
    expect([refused.code, refused.stdout + refused.stderr]).toEqual([1, expect.stringContaining('OVPN109')]);
    expect(await twice.call('del')).toMatchObject({ code: 0 });
    expect(await kernel.picture()).toBe(before);
  });

  test('does not start with a network that is not there, and nothing of it is left', async () => {
    await define('lost', { network: 'nowhere' });
    const before = await kernel.picture();
    const lost = await pod('lost', 'plain,lost');
    const added = await lost.call('add');
    expect([added.code, added.stdout + added.stderr]).toEqual([
      1,
      expect.stringMatching(/VpnNetwork nowhere.*OVPN503/),
    ]);
    expect(await lost.call('del')).toMatchObject({ code: 0 });
    expect(await kernel.picture()).toBe(before);
  });

  test('is let go when the agent is away, and the agent takes the interface away when it is back', async () => {
    const before = await kernel.picture();
    const away = await pod('away', 'plain');
    expect(await away.call('add')).toMatchObject({ code: 0 });
    await agent.stopAgent('SIGKILL');
    expect(await away.call('del')).toMatchObject({ code: 0 });
    await agent.startAgent();
    await agent.untilReady('corp', 1);
    await agent.until('the pod is detached', ({ networks }) => networks[0]?.attachments.length === 0);
    expect(await kernel.picture()).toBe(before);
  });
});
