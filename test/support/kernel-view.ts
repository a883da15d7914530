import { closeSync } from 'node:fs';
import { join } from 'node:path';
import { HolderClient } from '../../operator/src/holder/client.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../operator/src/kernel/netlink/socket.ts';
import { OvpnFamily } from '../../operator/src/kernel/ovpn/family.ts';
import type { KeyInfo, Peer } from '../../operator/src/kernel/ovpn/codec.ts';
import { getLinkByName } from '../../operator/src/kernel/rtnetlink/links.ts';
import type { AgentProcess } from './hosts.ts';
import { ovpnDevices } from './links.ts';
import { run } from './run.ts';

export interface DialledDevice {
  readonly device: string;
  /** The name of the VpnPeer. */
  readonly of: string;
  readonly peer: Peer | undefined;
}

/** What the kernel holds of one network of an agent, asked by this process itself and by `ip`: never the agent's word. */
export class KernelView {
  readonly path: string;

  constructor(agent: AgentProcess, network = 'corp') {
    this.path = join(agent.netns, `ovpn-${network}`);
  }

  /** Runs a program inside the network's namespace. */
  async exec(command: string, ...args: string[]): Promise<string> {
    return run('nsenter', `--net=${this.path}`, command, ...args);
  }

  get deviceIndex(): number {
    return this.#indexOf('ovpn0');
  }

  peers(): Peer[] {
    const index = this.deviceIndex;
    return this.#with((ovpn) => ovpn.dumpPeers(index));
  }

  /** The peer that has a VPN address. */
  peerAt(vpnIpv4: string): Peer | undefined {
    return this.peers().find((peer) => peer.vpnIpv4 === vpnIpv4);
  }

  /** The devices of remotes that we dial: each remote has one of its own, and on it the one peer that there may be. */
  async dialled(): Promise<DialledDevice[]> {
    const devices = (await ovpnDevices(this.path)).filter(({ name }) => name !== 'ovpn0');
    return devices.map(({ name, alias }) => {
      const index = this.#indexOf(name);
      return { device: name, of: alias.split('/').at(-1) ?? '', peer: this.#with((ovpn) => ovpn.dumpPeers(index))[0] };
    });
  }

  /** The device of one VpnPeer that we dial. */
  async dialledTo(peerName: string): Promise<DialledDevice | undefined> {
    return (await this.dialled()).find(({ of }) => of === peerName);
  }

  /** The peer of a device, if both are there: in one look, without a program. */
  peerOf(device: string): Peer | undefined {
    const socket = NetlinkSocket.open(NETLINK_ROUTE, this.path);
    let index: number | undefined;
    try {
      index = getLinkByName(socket, device)?.index;
    } finally {
      socket.close();
    }
    return index === undefined ? undefined : this.#with((ovpn) => ovpn.dumpPeers(index)[0]);
  }

  peer(id: number): Peer | undefined {
    const index = this.deviceIndex;
    return this.#with((ovpn) => ovpn.getPeer(index, id));
  }

  /** Key ids as `primary/secondary`, `-` for an empty slot. */
  slots(id: number, device = 'ovpn0'): string {
    const index = this.#indexOf(device);
    const keys = this.#with((ovpn) => ovpn.getKeys(index, [id])).get(id) ?? [];
    const find = (slot: KeyInfo['slot']): string => String(keys.find((key) => key.slot === slot)?.keyId ?? '-');
    return `${find('primary')}/${find('secondary')}`;
  }

  deletePeer(id: number): void {
    const index = this.deviceIndex;
    this.#with((ovpn) => ovpn.send(ovpn.requests.peerDel(index, id)));
  }

  /** Adds a peer behind the agent's back, on the agent's own socket. */
  addPeer(id: number, agent: AgentProcess): void {
    const index = this.deviceIndex;
    const socket = new HolderClient(agent.holderSocket).get('corp/udp');
    if (socket === undefined) throw new Error('the holder has no socket corp/udp');
    const remote = { address: '203.0.113.200', port: 1194 };
    try {
      this.#with((ovpn) => {
        ovpn.send(ovpn.requests.peerNew(index, { id, socket, remote, vpnIpv4: '10.80.0.200' }));
      });
    } finally {
      closeSync(socket);
    }
  }

  deleteKey(id: number, slot: KeyInfo['slot']): void {
    const index = this.deviceIndex;
    this.#with((ovpn) => ovpn.send(ovpn.requests.keyDel(index, id, slot)));
  }

  /** Links, addresses, routes, rules, peers and keys as sorted lines: equal texts, equal state. */
  async picture(): Promise<string> {
    const commands = ['ip -d addr', 'ip route show table all', 'ip rule', 'ip -6 rule'];
    const text = await this.exec('sh', '-ec', commands.join('; '));
    const peers = this.peers().flatMap(({ id, txId, remote, localPort, vpnIpv4, vpnIpv6, keepalive }) => [
      // Not the counters, nor the local address, which the kernel learns from packets.
      JSON.stringify({ id, txId, remote, localPort, vpnIpv4, vpnIpv6, keepalive }),
      `keys of ${id}: ${this.slots(id)}`,
    ]);
    return [...text.split('\n'), ...peers].sort().join('\n');
  }

  #indexOf(device: string): number {
    const socket = NetlinkSocket.open(NETLINK_ROUTE, this.path);
    try {
      const link = getLinkByName(socket, device);
      if (link === undefined) throw new Error(`no ${device} in ${this.path}`);
      return link.index;
    } finally {
      socket.close();
    }
  }

  #with<T>(use: (ovpn: OvpnFamily) => T): T {
    const ovpn = OvpnFamily.open(this.path);
    try {
      return use(ovpn);
    } finally {
      ovpn.close();
    }
  }
}
