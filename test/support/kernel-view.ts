import { join } from 'node:path';
import { OvpnFamily } from '../../operator/src/kernel/ovpn/family.ts';
import type { KeyInfo, Peer } from '../../operator/src/kernel/ovpn/codec.ts';
import type { AgentProcess } from './hosts.ts';
import { run } from './run.ts';

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

  async deviceIndex(): Promise<number> {
    const [link] = JSON.parse(await this.exec('ip', '-j', 'link', 'show', 'ovpn0')) as { ifindex: number }[];
    if (link === undefined) throw new Error(`no ovpn0 in ${this.path}`);
    return link.ifindex;
  }

  async peers(): Promise<Peer[]> {
    const index = await this.deviceIndex();
    return this.#with((ovpn) => ovpn.dumpPeers(index));
  }

  async peer(id: number): Promise<Peer | undefined> {
    const index = await this.deviceIndex();
    return this.#with((ovpn) => ovpn.getPeer(index, id));
  }

  /** Key ids as `primary/secondary`, `-` for an empty slot. */
  async slots(id: number): Promise<string> {
    const index = await this.deviceIndex();
    const keys = this.#with((ovpn) => ovpn.getKeys(index, [id])).get(id) ?? [];
    const find = (slot: KeyInfo['slot']): string => String(keys.find((key) => key.slot === slot)?.keyId ?? '-');
    return `${find('primary')}/${find('secondary')}`;
  }

  async deletePeer(id: number): Promise<void> {
    const index = await this.deviceIndex();
    this.#with((ovpn) => ovpn.send(ovpn.requests.peerDel(index, id)));
  }

  async deleteKey(id: number, slot: KeyInfo['slot']): Promise<void> {
    const index = await this.deviceIndex();
    this.#with((ovpn) => ovpn.send(ovpn.requests.keyDel(index, id, slot)));
  }

  /** Links, addresses, routes and sysctls as text: equal texts, equal state. */
  async picture(): Promise<string> {
    const parts = await Promise.all([
      this.exec('ip', '-d', 'addr'),
      this.exec('ip', 'route', 'show', 'table', 'all'),
      this.exec('ip', '-6', 'route', 'show', 'table', 'all'),
      this.exec('ip', 'rule'),
    ]);
    const peers = (await this.peers()).map(({ vpn: _vpn, link: _link, local: _learned, ...peer }) =>
      JSON.stringify(peer),
    );
    const keys = await Promise.all((await this.peers()).map(async ({ id }) => `${id}: ${await this.slots(id)}`));
    return [...parts, ...peers.sort(), ...keys.sort()].join('\n');
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
