import { closeSync } from 'node:fs';
import { inNamespace } from '../../operator/src/kernel/netns.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../operator/src/kernel/netlink/socket.ts';
import type { Peer } from '../../operator/src/kernel/ovpn/codec.ts';
import { OvpnFamily } from '../../operator/src/kernel/ovpn/family.ts';
import type { KeySlot } from '../../operator/src/kernel/ovpn/uapi.ts';
import { getLinkByName, newOvpnLink } from '../../operator/src/kernel/rtnetlink/links.ts';
import { openUdpSocket } from '../../operator/src/kernel/transport-socket.ts';
import { deriveDataKeys, parseStaticKey } from '../../operator/src/openvpn/static-key.ts';
import type { Host } from './hosts.ts';
import { run } from './run.ts';

export interface RemoteSettings {
  readonly peerId: number;
  /** What the agent's end is addressed by, where it has another id there. Linux 7.1. */
  readonly transmitId?: number;
  /** The remote's VPN addresses with length. */
  readonly addresses: readonly string[];
  /** What the remote reaches through the tunnel. */
  readonly routes: readonly string[];
  /** The agent's end. */
  readonly endpoint: { readonly address: string; readonly port: number };
  readonly port?: number;
  /** The text of the static key. */
  readonly material: string;
  readonly generation?: number;
  /** Name of the device; a host with several tunnels has one for each. */
  readonly deviceName?: string;
}

/**
 * A remote without any of our agent: one P2P device on a host, programmed once by the kernel library, as a
 * foreign implementation would do it. Its end of a static key is the inverse one.
 */
export class PlainRemote {
  readonly host: Host;
  readonly device: number;
  readonly #peerId: number;
  readonly #material: string;
  readonly #ovpn: OvpnFamily;
  readonly #fd: number;

  private constructor(host: Host, settings: RemoteSettings, device: number, ovpn: OvpnFamily, fd: number) {
    this.host = host;
    this.device = device;
    this.#peerId = settings.peerId;
    this.#material = settings.material;
    this.#ovpn = ovpn;
    this.#fd = fd;
  }

  static async create(host: Host, settings: RemoteSettings): Promise<PlainRemote> {
    const path = `/run/netns/${host.namespace}`;
    const { deviceName = 'tun0' } = settings;
    const rt = NetlinkSocket.open(NETLINK_ROUTE, path);
    let device: number;
    try {
      rt.request(newOvpnLink({ name: deviceName, mode: 'p2p' }));
      device = getLinkByName(rt, deviceName)?.index ?? 0;
    } finally {
      rt.close();
    }
    const ip = (...args: string[]): Promise<string> => run('ip', '-n', host.namespace, ...args);
    for (const address of settings.addresses) {
      await ip('addr', 'add', address, 'dev', deviceName, ...(address.includes(':') ? ['nodad'] : []));
    }
    await ip('link', 'set', deviceName, 'mtu', '1416', 'up');
    for (const route of settings.routes) await ip('route', 'add', route, 'dev', deviceName);
    const ovpn = OvpnFamily.open(path);
    const fd = inNamespace(path, () => openUdpSocket({ address: '::', port: settings.port ?? 1194 }));
    const remote = new PlainRemote(host, settings, device, ovpn, fd);
    host.hosts.onCleanup(() => {
      remote.close();
      return Promise.resolve();
    });
    const { peerId: id, transmitId: txId, endpoint } = settings;
    ovpn.send(ovpn.requests.peerNew(device, { id, txId, socket: fd, remote: endpoint }));
    remote.install('primary', settings.generation ?? 1);
    return remote;
  }

  /** Puts a generation's key into a slot. */
  install(slot: KeySlot, generation: number): void {
    const options = { cipher: 'AES-256-GCM', direction: 'Inverse', generation, derivation: 'HKDF-SHA256' } as const;
    const keys = deriveDataKeys(parseStaticKey(this.#material, {}), options);
    this.#ovpn.send(
      this.#ovpn.requests.keyNew(this.device, {
        peerId: this.#peerId,
        slot,
        keyId: generation % 8,
        cipher: 'AES-GCM',
        encrypt: keys.encrypt,
        decrypt: keys.decrypt,
      }),
    );
  }

  swap(): void {
    this.#ovpn.send(this.#ovpn.requests.keySwap(this.device, this.#peerId));
  }

  get peer(): Peer | undefined {
    return this.#ovpn.getPeer(this.device, this.#peerId);
  }

  close(): void {
    this.#ovpn.close();
    closeSync(this.#fd);
  }
}
