import type { VpnNetwork, VpnPeer } from '../../../operator/src/api/types.ts';
import { apiPath } from '../../../operator/src/cluster/resource-path.ts';
import { officeManifests, officeServer } from '../dialled-office.ts';
import { AgentProcess, type Host, Hosts } from '../hosts.ts';
import { ControlPlane } from '../kube/control-plane.ts';
import { ControllerProcess } from '../kube/controller-process.ts';
import { profileOf, untilMesh } from '../kube/until.ts';
import { attachPod, type Pod, sandboxWithEth0 } from '../office.ts';
import { openvpn26, openvpn27, type OpenvpnBuild, OpenvpnProcess } from '../openvpn.ts';
import { Pki } from '../pki.ts';
import { Deployment } from './deployment.ts';

/**
 * The cluster that chaos is done to: an API server, the controller, five nodes in a mesh, a pod on each of them with an
 * eth0 beside its VPN, stock clients that dial in, and a stock server that one of the nodes dials.
 */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const namespace = 'team-a';
const nodeNames = ['node1', 'node2', 'node3', 'node4', 'node5'] as const;
/** What is inside of the VPN and never outside, in the language of tcpdump. */
export const vpnRanges =
  'net 10.80.0.0/16 or net 10.81.0.0/16 or net 192.168.50.0/24 or ip6 net fd80::/15 or ip6 net fd50::/16';

interface ClientKind {
  readonly name: string;
  readonly build: OpenvpnBuild;
  readonly protocol: 'udp' | 'tcp';
}

const clientKinds: readonly ClientKind[] = [
  { name: 'ann', build: openvpn26, protocol: 'udp' },
  { name: 'bea', build: openvpn27, protocol: 'udp' },
  { name: 'cid', build: openvpn26, protocol: 'tcp' },
];
export const clientNames = clientKinds.map(({ name }) => name);

export interface ChaosNode {
  readonly host: Host;
  readonly agent: AgentProcess;
  /** The pod that stays. */
  readonly pod: Pod;
}

/** A stock client with a profile that names all nodes. */
export class ChaosClient {
  readonly name: string;
  readonly host: Host;
  readonly #build: OpenvpnBuild;
  readonly #profile: (first: Host) => string;
  #process: OpenvpnProcess;

  constructor(host: Host, { name, build }: ClientKind, profile: (first: Host) => string, first: Host) {
    this.name = name;
    this.host = host;
    this.#build = build;
    this.#profile = profile;
    this.#process = OpenvpnProcess.startFile(host, build, profile(first));
  }

  get process(): OpenvpnProcess {
    return this.#process;
  }

  /** @param first the node that it tries before the others */
  start(first: Host): void {
    this.#process = OpenvpnProcess.startFile(this.host, this.#build, this.#profile(first));
  }
}

export class ChaosScene {
  readonly hosts: Hosts;
  readonly plane: ControlPlane;
  readonly apiHost: Host;
  readonly controller: ControllerProcess;
  readonly deployment: Deployment;
  readonly nodes: readonly ChaosNode[];
  readonly clients: readonly ChaosClient[];
  readonly #startServer: () => OpenvpnProcess;
  #server: OpenvpnProcess;

  private constructor({ startServer, ...parts }: Parts) {
    this.hosts = parts.hosts;
    this.plane = parts.plane;
    this.apiHost = parts.apiHost;
    this.controller = parts.controller;
    this.deployment = parts.deployment;
    this.nodes = parts.nodes;
    this.clients = parts.clients;
    this.#startServer = startServer;
    this.#server = parts.server;
  }

  /** Starts all of it; resolves when the nodes are joined, the clients connected and the pods attached. */
  static async open(prefix: string): Promise<ChaosScene> {
    const hosts = await Hosts.create(prefix);
    const logs: (() => string)[] = [];
    try {
      return new ChaosScene(await startAll(hosts, logs));
    } catch (error) {
      const said = logs.map((log) => log().slice(-6_000)).join('\n\n');
      await hosts.remove();
      throw new Error(`${String(error)}\n${said}`, { cause: error });
    }
  }

  node(name: string): ChaosNode {
    const found = this.nodes.find(({ host }) => host.name === name);
    if (found === undefined) throw new Error(`no node ${name}`);
    return found;
  }

  client(name: string): ChaosClient {
    const found = this.clients.find((client) => client.name === name);
    if (found === undefined) throw new Error(`no client ${name}`);
    return found;
  }

  /** The server that is dialled. */
  get server(): OpenvpnProcess {
    return this.#server;
  }

  startServer(): void {
    this.#server = this.#startServer();
  }

  async network(): Promise<VpnNetwork> {
    return networkOf(this.plane);
  }

  async peers(): Promise<VpnPeer[]> {
    const { items } = await this.plane.admin.get<{ items: VpnPeer[] }>(apiPath('VpnPeer', { namespace }));
    return items;
  }
}

interface Parts extends Pick<
  ChaosScene,
  'hosts' | 'plane' | 'apiHost' | 'controller' | 'deployment' | 'nodes' | 'clients' | 'server'
> {
  readonly startServer: () => OpenvpnProcess;
}

const networkOf = async (plane: ControlPlane): Promise<VpnNetwork> =>
  plane.admin.get<VpnNetwork & Record<string, unknown>>(apiPath('VpnNetwork', { name: 'corp' }));

/** @param logs gets what can tell of those that have started, should others not */
async function startAll(hosts: Hosts, logs: (() => string)[]): Promise<Parts> {
  const apiHost = await hosts.host('api');
  const places: Host[] = [];
  for (const name of nodeNames) places.push(await hosts.host(name));
  const office = await hosts.host('office');
  const plane = await ControlPlane.start({ host: apiHost });
  await plane.namespace(namespace);
  const controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  logs.push(() => controller.log);
  const deployment = new Deployment(controller);
  hosts.onCleanup(async () => {
    deployment.stop();
    await controller.stop('SIGKILL');
  });
  const pki = new Pki('Office CA');
  hosts.onCleanup(() => {
    pki.remove();
    return Promise.resolve();
  });
  const startServer = await officeServer(office, pki);
  const server = startServer();
  const agents: AgentProcess[] = [];
  for (const host of places) {
    // Figures write the one status of the network, and all agents get it: no more often than is waited for them.
    const agent = new AgentProcess(host, ['--status-interval', '10'], await plane.agentOf(host.name));
    // As a kubelet says it.
    await plane.admin.merge(`/api/v1/nodes/${host.name}/status`, {
      status: { addresses: [{ type: 'InternalIP', address: host.ipv4 }] },
    });
    agents.push(agent);
    logs.push(() => agent.log);
  }
  await plane.admin.applyYaml(
    JSON.stringify({ apiVersion: 'v1', kind: 'List', items: manifests(places, office, pki) }),
  );
  await deployment.start();
  // Five programs that start at once on one CPU keep each other from it no longer than one after the other.
  await Promise.all(agents.map((agent) => agent.start()));
  await untilMesh(plane.admin, agents.length);
  const clients: ChaosClient[] = [];
  for (const [i, kind] of clientKinds.entries()) {
    const profile = await profileWithAll(plane, kind, places);
    const first = places[i % places.length];
    if (first !== undefined) clients.push(new ChaosClient(await hosts.host(kind.name), kind, profile, first));
  }
  const nodes: ChaosNode[] = [];
  for (const agent of agents) {
    const { host } = agent;
    const netns = await sandboxWithEth0(hosts, `${hosts.prefix}-pod-${host.name}`, `${hosts.prefix}-gw-${host.name}`);
    nodes.push({ host, agent, pod: await attachPod(agent, `pod-${host.name}`, { netns }) });
  }
  for (const { process } of clients) await process.connected();
  return { hosts, plane, apiHost, controller, deployment, nodes, clients, startServer, server };
}

function manifests(nodes: readonly Host[], office: Host, pki: Pki): object[] {
  const endpoints = nodes.map(({ ipv4 }) => ({ address: ipv4 }));
  return [
    {
      apiVersion,
      kind: 'VpnNetwork',
      metadata: { name: 'corp' },
      spec: {
        pools: { peers: ['10.80.0.0/24', 'fd80::/112'], pods: ['10.81.0.0/16', 'fd81::/64'] },
        listeners: [
          { name: 'udp', port: 1194, endpoints },
          { name: 'tcp', protocol: 'TCP', port: 1194, endpoints },
        ],
        pki: { builtIn: {} },
        mesh: {},
        keepalive: { intervalSeconds: 2, timeoutSeconds: 10 },
        allowedPeers: { namespaces: { names: [namespace] }, routes: ['192.168.0.0/16'] },
        attach: { namespaces: { from: 'All' } },
      },
    },
    ...officeManifests(namespace, office, pki),
    ...clientNames.flatMap((name) => [
      { apiVersion, kind: 'VpnKey', metadata: { namespace, name }, spec: { issued: { networkRef: { name: 'corp' } } } },
      {
        apiVersion,
        kind: 'VpnPeer',
        metadata: { namespace, name },
        spec: { networkRef: { name: 'corp' }, identity: { key: name } },
      },
    ]),
  ];
}

/** The profile that the operator wrote for a client, for one transport, with any node first. */
async function profileWithAll(
  plane: ControlPlane,
  { name, protocol }: ClientKind,
  nodes: readonly Host[],
): Promise<(first: Host) => string> {
  const text = await profileOf(plane.admin, namespace, name);
  const rest = text.replaceAll(/^remote .*\n/gm, '');
  return (first) => {
    const order = [first, ...nodes.filter((node) => node !== first)];
    const remotes = order.map(({ ipv4 }) => `remote ${ipv4} 1194 ${protocol}\n`).join('');
    // OpenVPN waits longer and longer before it tries the same remote again: up to five minutes.
    return `connect-retry 1 2\n${remotes}${rest}`;
  };
}
