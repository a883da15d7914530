import { type AddResult, type Attachment, protocolVersion } from '../../operator/src/agent/attach-protocol.ts';
import { callAgent } from './agent-socket.ts';
import { type AgentProcess as Agent, AgentProcess, type CniCall, type Host, Hosts } from './hosts.ts';
import { KernelView } from './kernel-view.ts';
import type { KubeUser } from './kube/kube-user.ts';
import { key, network, newStaticKey, peer, secret } from './manifests.ts';
import { PlainRemote } from './remote.ts';
import { run } from './run.ts';

/** A pod: a namespace, attached by the CNI binary. */
export interface Pod {
  readonly name: string;
  readonly netns: string;
  readonly call: CniCall;
  readonly result: CniResult;
}

export interface CniResult {
  readonly interfaces: readonly {
    readonly name: string;
    readonly mac: string;
    readonly mtu?: number;
    readonly sandbox?: string;
  }[];
  readonly ips: readonly { readonly address: string; readonly gateway: string; readonly interface: number }[];
  readonly routes: readonly { readonly dst: string; readonly gw: string }[];
}

/** Attaches a fresh pod. */
export async function attachPod(agent: Agent, name: string, options: Partial<CniCall> = {}): Promise<Pod> {
  const { hosts } = agent.host;
  const full = `${hosts.prefix}-${name}`;
  const netns = options.netns ?? (await hosts.namespace(full));
  const call: CniCall = { network: 'corp', containerId: full, ...options, netns };
  const added = await agent.cni('ADD', call);
  if (added.code !== 0) throw new Error(`ADD of ${name}: ${added.stdout}${added.stderr}\n${agent.log}`);
  return { name, netns, call, result: JSON.parse(added.stdout) as CniResult };
}

/**
 * A sandbox as a cluster's primary plugin leaves it: eth0 with a default route, over a gateway that is the rest of
 * the world and has 8.8.8.8.
 */
export async function sandboxWithEth0(hosts: Hosts, name: string, gateway: string): Promise<string> {
  const netns = await hosts.namespace(name);
  await hosts.namespace(gateway);
  const ip = (namespace: string, ...args: string[]): Promise<string> => run('ip', '-n', namespace, ...args);
  await ip(name, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', gateway);
  for (const [namespace, host] of [
    [name, 2],
    [gateway, 1],
  ] as const) {
    await ip(namespace, 'addr', 'add', `10.244.0.${host}/24`, 'dev', 'eth0');
    await ip(namespace, 'addr', 'add', `fd44::${host}/64`, 'dev', 'eth0', 'nodad');
    await ip(namespace, 'link', 'set', 'eth0', 'up');
  }
  await ip(gateway, 'addr', 'add', '8.8.8.8/32', 'dev', 'lo');
  await ip(name, 'route', 'add', 'default', 'via', '10.244.0.1');
  await ip(name, 'route', 'add', 'default', 'via', 'fd44::1');
  return netns;
}

/** Attaches by the agent's socket, as the CNI binary does, without the time that its process takes to start. */
export async function attachDirectly(
  agent: Agent,
  containerId: string,
  netns: string,
  network = 'corp',
): Promise<Attachment> {
  const call = { config: 'ovpn', containerId, cniIfname: 'vpn0' };
  const request = { version: protocolVersion, op: 'add', ...call, network, ifname: 'vpn0', netns } as const;
  const { attachments } = (await callAgent(agent.socket, request)) as AddResult;
  const [attachment] = attachments;
  if (attachment === undefined) throw new Error(`${containerId} was not attached`);
  return attachment;
}

export async function detachDirectly(agent: Agent, containerId: string, netns: string): Promise<void> {
  const call = { config: 'ovpn', containerId, cniIfname: 'vpn0' };
  await callAgent(agent.socket, { version: protocolVersion, op: 'del', ...call, netns });
}

/** Addresses of a pod without length, IPv4 first. */
export function podAddress(pod: Pod, family: 4 | 6): string {
  const found = pod.result.ips
    .map(({ address }) => address)
    .find((address) => address.includes(':') === (family === 6));
  if (found === undefined) throw new Error(`${pod.name} has no IPv${family} address`);
  return found.split('/')[0] ?? '';
}

/**
 * The common scene: a node with an agent, and a remote that is not ours, with an address of a network behind
 * it. The agent runs when this resolves; the pod `p` of the node reaches the remote.
 */
export class Office {
  readonly hosts: Hosts;
  readonly agent: AgentProcess;
  readonly remote: PlainRemote;
  readonly kernel: KernelView;
  readonly pod: Pod;
  readonly material: string;
  /** What lies behind the remote. */
  readonly lan = { ipv4: '192.168.50.1', ipv6: 'fd50::1' };
  readonly vpn = { ipv4: '10.80.0.2', ipv6: 'fd80::2' };

  private constructor(hosts: Hosts, agent: AgentProcess, remote: PlainRemote, pod: Pod, material: string) {
    this.hosts = hosts;
    this.agent = agent;
    this.remote = remote;
    this.kernel = new KernelView(agent);
    this.pod = pod;
    this.material = material;
  }

  static async open(
    prefix: string,
    { spec = {}, options = [] }: { spec?: object; options?: readonly string[] } = {},
  ): Promise<Office> {
    const hosts = await Hosts.create(prefix);
    try {
      const node = await hosts.host('node');
      const remoteHost = await hosts.host('remote');
      const material = newStaticKey();
      const agent = new AgentProcess(node, options);
      agent.apply('network.yaml', officeNetwork(node, spec));
      agent.apply('key.yaml', officeKey());
      agent.apply('secret.yaml', secret('office', material));
      agent.apply('peer.yaml', officePeer(remoteHost));
      const [remote] = await Promise.all([
        (async () => {
          await run('ip', '-n', remoteHost.namespace, 'addr', 'add', '192.168.50.1/32', 'dev', 'lo');
          await run('ip', '-n', remoteHost.namespace, 'addr', 'add', 'fd50::1/128', 'dev', 'lo');
          return PlainRemote.create(remoteHost, {
            peerId: 7,
            addresses: ['10.80.0.2/24', 'fd80::2/112'],
            routes: ['10.81.1.0/24', 'fd81::/64'],
            endpoint: { address: node.ipv4, port: 1194 },
            material,
          });
        })(),
        agent.start(),
      ]);
      await agent.untilReady('corp', 1);
      const pod = await attachPod(agent, 'p');
      return new Office(hosts, agent, remote, pod, material);
    } catch (error) {
      await hosts.remove();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.hosts.remove();
  }
}

export const officeNetwork = (node: Host, spec: object = {}): string =>
  network({
    node: node.name,
    addresses: ['10.80.0.1', 'fd80::1'],
    podBlocks: ['10.81.1.0/24', 'fd81::/64'],
    spec: { keyTransition: { seconds: 2 }, ...spec },
  });

export const officePeer = (remote: Host, spec: object = {}, routes = ['192.168.50.0/24', 'fd50::/64']): string =>
  peer({
    name: 'office',
    peerID: 7,
    endpoint: { address: remote.ipv4, port: 1194 },
    addresses: ['10.80.0.2', 'fd80::2'],
    routes,
    spec,
  });

export const officeKey = (generation = 1, spec: object = {}): string =>
  key({ name: 'office', direction: 'Normal', generation, spec });

/** Applies the network, its key and its peer on an API server, as a person does, with the Secret that agents read. */
export async function applyOffice(admin: KubeUser, node: Host, remote: Host, material: string): Promise<void> {
  await admin.applyYaml([officeNetwork(node), officeKey(), officePeer(remote)].join('---\n'));
  await admin.apply('/api/v1/namespaces/ovpn-system/secrets/default-office', {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: {
      name: 'default-office',
      labels: { 'ovpn-operator.io/material': 'true' },
      annotations: { 'ovpn-operator.io/source': 'default/office' },
    },
    stringData: { 'static.key': material },
  });
}

/** A second node with an agent of its own, and a pod on it: both ends of its tunnel with `office` are ours. */
export interface Branch {
  readonly agent: AgentProcess;
  readonly kernel: KernelView;
  readonly pod: Pod;
}

export const branchNetwork = (node: Host, spec: object = {}): string =>
  network({
    node: node.name,
    addresses: ['10.80.0.3', 'fd80::3'],
    podBlocks: ['10.82.1.0/24', 'fd82::/64'],
    spec: { keyTransition: { seconds: 2 }, ...spec },
  });

export const branchPeer = (branch: Host, spec: object = {}): string =>
  peer({
    name: 'branch',
    peerID: 8,
    endpoint: { address: branch.ipv4, port: 1194 },
    addresses: ['10.80.0.3', 'fd80::3'],
    routes: ['10.82.1.0/24', 'fd82::/64'],
    spec,
  });

/** Raises, or sets for the first time, the generation of the branch's key on both ends. */
export function setBranchGeneration(office: Office, branch: AgentProcess, generation: number): void {
  office.agent.apply('branch-key.yaml', key({ name: 'branch', direction: 'Normal', generation }));
  branch.apply('key.yaml', key({ name: 'node', direction: 'Inverse', generation }));
}

export async function openBranch(office: Office, options: readonly string[] = []): Promise<Branch> {
  const node = office.agent.host;
  const host = await office.hosts.host('branch');
  const material = newStaticKey();
  const agent = new AgentProcess(host, options);
  agent.apply('network.yaml', branchNetwork(host));
  agent.apply('secret.yaml', secret('node', material));
  agent.apply(
    'peer.yaml',
    peer({
      name: 'node',
      peerID: 8,
      endpoint: { address: node.ipv4, port: 1194 },
      addresses: ['10.80.0.1', 'fd80::1'],
      routes: ['10.81.1.0/24', 'fd81::/64'],
    }),
  );
  setBranchGeneration(office, agent, 1);
  office.agent.apply('branch-secret.yaml', secret('branch', material));
  office.agent.apply('branch-peer.yaml', branchPeer(host));
  await agent.start();
  await Promise.all([agent.untilReady('corp', 1), office.agent.untilReady('corp', 2)]);
  return { agent, kernel: new KernelView(agent), pod: await attachPod(agent, 'q') };
}
