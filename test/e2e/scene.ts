import { expect } from '@jest/globals';
import { AgentProcess, type Host, Hosts, ping } from '../support/hosts.ts';
import { KernelView } from '../support/kernel-view.ts';
import { network } from '../support/manifests.ts';
import {
  clientConfig,
  credentials,
  type Family,
  openvpn26,
  type OpenvpnBuild,
  OpenvpnProcess,
  serverConfig,
  type Transport,
  type Wrap,
  WrapKeys,
} from '../support/openvpn.ts';
import { agentTail, untilConnected } from '../support/peer-status.ts';
import { type Certificate, Pki } from '../support/pki.ts';
import { eventually, patienceMs } from '../support/run.ts';
import {
  controlChannel,
  dialInPeer,
  type DialInSettings,
  dialOutPeer,
  type RemoteEndpoint,
  systemNamespace,
  tlsKey,
  tlsSecret,
  wrapSecret,
} from '../support/session-manifests.ts';

export interface NetworkSettings {
  readonly name?: string;
  readonly port?: number;
  readonly wrap?: Wrap;
  readonly keys?: WrapKeys;
  readonly certificate?: Certificate;
  readonly crl?: string;
  /** More of the spec, or instead. */
  readonly spec?: object;
}

export type AdmitSettings = Omit<DialInSettings, 'name' | 'addresses'>;

export interface ClientSettings {
  /** Default: a host of its own, named like the client. */
  readonly host?: Host;
  readonly build?: OpenvpnBuild;
  readonly transport?: Transport;
  readonly family?: Family;
  readonly remotes?: readonly { readonly address: string; readonly port: number }[];
  readonly wrap?: Wrap;
  readonly keys?: WrapKeys;
  readonly certificate?: Certificate;
  readonly ca?: string;
  readonly config?: readonly string[];
}

export interface ServerSettings {
  readonly build?: OpenvpnBuild;
  readonly transport?: Transport;
  readonly family?: Family;
  readonly port?: number;
  readonly wrap?: Wrap;
  readonly certificate?: Certificate;
  readonly ca?: string;
  readonly config?: readonly string[];
}

export interface DialSettings {
  readonly networkName?: string;
  readonly endpoints: readonly [RemoteEndpoint, ...RemoteEndpoint[]];
  readonly wrap?: Wrap;
  readonly keys?: WrapKeys;
  readonly certificate?: Certificate;
  readonly ca?: string;
  readonly routes?: readonly string[];
  readonly spec?: object;
}

/** The VPN addresses of a peer that dials in. */
export interface VpnAddresses {
  readonly ipv4: string;
  readonly ipv6: string;
}

export type MaybeSoon<T> = Promise<T | undefined> | T | undefined;

/** Our own end inside of the VPN. */
export const nodeVpn = { ipv4: '10.80.0.1', ipv6: 'fd80::1' } as const;
export const defaultPort = 1194;

/**
 * One node with our agent, a PKI for everybody, and further hosts with stock OpenVPN. The agent has the network
 * `corp`, unless there is to be none yet, and runs when this resolves.
 */
export class Scene {
  readonly hosts: Hosts;
  readonly agent: AgentProcess;
  readonly kernel: KernelView;
  readonly pki: Pki;
  readonly keys: WrapKeys;
  readonly wrap: Wrap;
  #peers = 0;

  private constructor(hosts: Hosts, agent: AgentProcess, pki: Pki, keys: WrapKeys, wrap: Wrap) {
    this.hosts = hosts;
    this.agent = agent;
    this.kernel = new KernelView(agent);
    this.pki = pki;
    this.keys = keys;
    this.wrap = wrap;
  }

  static async open(
    prefix: string,
    settings: { wrap?: Wrap; spec?: object; network?: boolean; options?: readonly string[] } = {},
  ): Promise<Scene> {
    const { wrap = 'tls-crypt', spec = {}, network: withNetwork = true, options = [] } = settings;
    const hosts = await Hosts.create(prefix);
    try {
      const node = await hosts.host('node');
      const keys = await WrapKeys.create(hosts.folder);
      const pki = new Pki(`CA of ${prefix}`);
      hosts.onCleanup(() => {
        pki.remove();
        return Promise.resolve();
      });
      const scene = new Scene(hosts, new AgentProcess(node, options), pki, keys, wrap);
      if (withNetwork) scene.applyNetwork({ wrap, spec });
      await scene.agent.start();
      if (withNetwork) await scene.listening();
      return scene;
    } catch (error) {
      await hosts.remove();
      throw error;
    }
  }

  get node(): Host {
    return this.agent.host;
  }

  /** What the kernel holds of a network of the agent. */
  kernelOf(networkName: string): KernelView {
    return new KernelView(this.agent, networkName);
  }

  async close(): Promise<void> {
    await this.hosts.remove();
  }

  /** A network that takes clients in, with its Secrets. */
  applyNetwork(settings: NetworkSettings = {}): void {
    const { name = 'corp', port = defaultPort, wrap = this.wrap, spec = {}, crl } = settings;
    const { certificate = this.pki.server(), keys = this.keys } = settings;
    const key = keys.of(wrap, 'server');
    const server = tlsSecret(`${name}-server`, { certificate, ca: this.pki.ca, crl, namespace: systemNamespace });
    this.agent.apply(`${name}-server.yaml`, server);
    if (key !== undefined) this.agent.apply(`${name}-wrap.yaml`, wrapSecret(`${name}-wrap`, key, systemNamespace));
    const manifest = network({
      name,
      node: this.node.name,
      addresses: [nodeVpn.ipv4, nodeVpn.ipv6],
      podBlocks: ['10.81.1.0/24', 'fd81::/64'],
      spec: {
        listeners: [
          { name: 'udp', protocol: 'UDP', port },
          { name: 'tcp', protocol: 'TCP', port },
        ],
        pki: { secretRef: { name: `${name}-server` } },
        controlChannel: controlChannel(wrap, `${name}-wrap`, 'server'),
        keepalive: { intervalSeconds: 2, timeoutSeconds: 20 },
        keyTransition: { seconds: 2 },
        ...spec,
      },
    });
    this.agent.apply(`${name}-network.yaml`, manifest);
  }

  /** Waits until a network's sockets are open. */
  async listening(name = 'corp', listeners = 2): Promise<void> {
    const opened = ({ networks }: Awaited<ReturnType<AgentProcess['report']>>): boolean =>
      networks.find((each) => each.name === name)?.listeners.length === listeners;
    await this.agent.until(`listeners of ${name}`, opened);
  }

  /** Lets a client in: a VpnPeer whose identity is its name, if no other is given. */
  admit(name: string, settings: AdmitSettings = {}): VpnAddresses {
    const number = 10 + this.#peers++;
    const addresses = { ipv4: `10.80.0.${number}`, ipv6: `fd80::${number}` };
    this.readmit(name, addresses, settings);
    return addresses;
  }

  /** Changes the VpnPeer of a client. */
  readmit(name: string, { ipv4, ipv6 }: VpnAddresses, settings: AdmitSettings = {}): void {
    this.agent.apply(`peer-${name}.yaml`, dialInPeer({ name, addresses: [ipv4, ipv6], ...settings }));
  }

  /** Starts a stock client of ours, and does not wait for it. */
  async client(name: string, settings: ClientSettings = {}): Promise<OpenvpnProcess> {
    const {
      build = openvpn26,
      transport = 'UDP',
      family = 4,
      config = [],
      ca = this.pki.ca,
      wrap = this.wrap,
    } = settings;
    const { host = await this.hosts.host(name), certificate = this.pki.client(name), keys = this.keys } = settings;
    const address = family === 4 ? this.node.ipv4 : this.node.ipv6;
    const { remotes = [{ address, port: defaultPort }] } = settings;
    const wrapping = keys.openvpn(wrap, 'client');
    return OpenvpnProcess.start(host, {
      build,
      config: [...clientConfig({ transport, family, remotes }), ...wrapping.config, ...config],
      inline: { ...credentials(ca, certificate), ...wrapping.inline },
    });
  }

  /** Waits until the agent has read the VpnPeer: before, it refuses the client for good. */
  async #known(name: string): Promise<void> {
    await this.agent.until(`VpnPeer ${name}`, ({ networks }) =>
      networks.some(({ peers }) => peers.some((peer) => peer.name === `default/${name}`)),
    );
  }

  /** Starts a stock client of ours and waits until both ends say that the tunnel stands. */
  async connectedClient(name: string, settings: ClientSettings = {}): Promise<OpenvpnProcess> {
    await this.#known(name);
    const client = await this.client(name, settings);
    await client.connected().catch((error: unknown) => {
      throw new Error(`${String(error)}\nour agent:\n${agentTail(this.agent)}`, { cause: error });
    });
    await untilConnected(this.agent, name);
    return client;
  }

  /** Starts a stock server and waits until it listens. */
  async server(host: Host, settings: ServerSettings = {}): Promise<OpenvpnProcess> {
    const { build = openvpn26, transport = 'UDP', family = 4, port = defaultPort, config = [] } = settings;
    const { wrap = this.wrap, ca = this.pki.ca, certificate = this.pki.server() } = settings;
    const wrapping = this.keys.openvpn(wrap, 'server');
    const server = OpenvpnProcess.start(host, {
      build,
      config: [...serverConfig({ transport, family, port }), ...wrapping.config, ...config],
      inline: { ...credentials(ca, certificate), ...wrapping.inline },
    });
    await server.connected();
    return server;
  }

  /** Dials a server: the VpnPeer, its key and its Secrets; our certificate is for `gateway`. */
  dial(name: string, settings: DialSettings): void {
    const { endpoints, wrap = this.wrap, ca = this.pki.ca, keys = this.keys, spec = {}, ...rest } = settings;
    const { certificate = this.pki.client('gateway'), ...more } = rest;
    const key = keys.of(wrap, 'client');
    this.agent.apply(`peer-${name}-tls.yaml`, tlsSecret(name, { certificate, ca }));
    this.agent.apply(`peer-${name}-key.yaml`, tlsKey(name));
    if (key !== undefined) this.agent.apply(`peer-${name}-wrap.yaml`, wrapSecret(`${name}-wrap`, key));
    const channel = { controlChannel: controlChannel(wrap, `${name}-wrap`, 'client') };
    this.agent.apply(`peer-${name}.yaml`, dialOutPeer({ name, endpoints, ...more, spec: { ...channel, ...spec } }));
  }

  /** The id of the key that we send with to a client; undefined while it has no peer in the kernel. */
  keyTo({ ipv4 }: VpnAddresses, kernel = this.kernel): number | undefined {
    const peer = kernel.peerAt(ipv4);
    return peer === undefined ? undefined : Number(kernel.slots(peer.id).split('/')[0]);
  }

  /** The same for a remote that we dialled. */
  async keyToRemote(name: string, kernel = this.kernel): Promise<number | undefined> {
    const { device, peer } = (await kernel.dialledTo(name)) ?? {};
    return peer === undefined ? undefined : Number(kernel.slots(peer.id, device).split('/')[0]);
  }

  /** Waits until we send with another key than now. */
  async laterKey(stock: OpenvpnProcess, key: () => MaybeSoon<number>, timeoutMs = patienceMs): Promise<void> {
    const before = await key();
    const renewed = async (): Promise<true | undefined> => {
      const now = await key();
      return (now !== undefined && now !== before) || undefined;
    };
    await eventually('new keys', renewed, { timeoutMs }).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${stock.tail}\n${agentTail(this.agent)}`, { cause: error });
    });
  }

  /**
   * Waits until the kernel has no peer at a VPN address any more; the answer is how long it took. By default less long
   * than the keepalive, which would end the peer in any case.
   */
  async gone(vpnIpv4: string, timeoutMs = 30_000, kernel = this.kernel): Promise<number> {
    const started = Date.now();
    const what = `the kernel has no peer ${vpnIpv4} any more`;
    const look = (): true | undefined => kernel.peerAt(vpnIpv4) === undefined || undefined;
    await eventually(what, look, { timeoutMs, stepMs: 50 }).catch((error: unknown) => {
      throw new Error(`${String(error)}\nour agent:\n${agentTail(this.agent)}`, { cause: error });
    });
    return Date.now() - started;
  }
}

/** The path of a host's namespace. */
export const netnsOf = (host: Host): string => `/run/netns/${host.namespace}`;

/** Every destination answers so many pings. What is late counts: ping sends another then. */
export async function reaches(netns: string, destinations: readonly string[], count = 3): Promise<void> {
  const results = await Promise.all(destinations.map((destination) => ping(netns, destination, { count })));
  const unreached = destinations.flatMap((destination, n) => {
    const { sent = 0, received = 0 } = results[n] ?? {};
    return received >= count ? [] : [`${destination}: ${received} of ${sent}`];
  });
  expect(unreached).toEqual([]);
}
