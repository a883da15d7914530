import { createHash } from 'node:crypto';
import { formatRef, type ObjectRef } from '../../api/types.ts';
import { hostPrefix } from '../../kernel/address.ts';
import type { Outcome, Request } from '../../kernel/netlink/socket.ts';
import { deleteAddress, type InterfaceAddress, setAddress } from '../../kernel/rtnetlink/addresses.ts';
import { deleteLink, type Link, newOvpnLink, setLink } from '../../kernel/rtnetlink/links.ts';
import type { Log } from '../../telemetry/log.ts';
import { deviceAlias } from '../names.ts';

/**
 * The P2P devices of dialled remotes: one each, because a remote chooses its peer id by itself, so that two remotes
 * would meet on a shared device. They stand in the network's namespace beside its P2MP device.
 */

/** What of the kernel this needs. */
export interface DeviceKernel {
  change(requests: readonly Request[]): void;
  tryChange(requests: readonly Request[]): Outcome[];
  link(name: string): Link | undefined;
  links(): Link[];
  addresses(): InterfaceAddress[];
}

const prefix = 'dial-';

/** At most 15 bytes. */
export function tunnelDeviceName(ref: ObjectRef): string {
  return prefix + createHash('sha256').update(formatRef(ref)).digest('hex').slice(0, 10);
}

/** Says in `ip link` whose device it is. */
function aliasOf(network: string, ref: ObjectRef): string {
  return `${deviceAlias(network)}/${ref.namespace ?? ''}/${ref.name}`;
}

/**
 * The device of a remote, up and with that MTU; made when it is missing.
 *
 * @throws NetlinkError
 */
export function ensureTunnelDevice(
  kernel: DeviceKernel,
  network: string,
  ref: ObjectRef,
  mtu: number,
  allocateIndex: () => number,
): Link {
  const name = tunnelDeviceName(ref);
  const alias = aliasOf(network, ref);
  if (kernel.link(name) === undefined) {
    kernel.change([newOvpnLink({ name, mode: 'p2p', index: allocateIndex(), mtu })]);
  }
  const link = kernel.link(name);
  if (link === undefined) throw new Error(`the device ${name} went away while it was being made`);
  const change = {
    ...(link.up ? {} : { up: true }),
    ...(link.mtu === mtu ? {} : { mtu }),
    ...(link.alias === alias ? {} : { alias }),
  };
  if (Object.keys(change).length > 0) kernel.change([setLink(link.index, change)]);
  return link;
}

/**
 * Gives the device these addresses and no others, each as a host's own: what is behind the remote is said by routes.
 *
 * @throws NetlinkError
 */
export function setTunnelAddresses(kernel: DeviceKernel, index: number, addresses: readonly string[]): void {
  const wanted = new Set(addresses.map(hostPrefix));
  const present = new Set(
    kernel
      .addresses()
      .filter((entry) => entry.index === index && entry.scope === 0)
      .map(({ address }) => address),
  );
  kernel.tryChange([...present].filter((address) => !wanted.has(address)).map((text) => deleteAddress(index, text)));
  kernel.change([...wanted].filter((address) => !present.has(address)).map((text) => setAddress(index, text)));
}

/** Removes the device of a remote; one that is not there is no error. */
export function removeTunnelDevice(kernel: DeviceKernel, ref: ObjectRef, log: Log): void {
  const link = kernel.link(tunnelDeviceName(ref));
  if (link !== undefined) removeDevice(kernel, link, log);
}

/** Removes the devices of remotes that nobody wants any more. */
export function removeTunnelDevices(kernel: DeviceKernel, network: string, keep: readonly ObjectRef[], log: Log): void {
  const wanted = new Set(keep.map(tunnelDeviceName));
  const ours = `${deviceAlias(network)}/`;
  for (const link of kernel.links()) {
    const { name, kind, alias } = link;
    if (kind !== 'ovpn' || !name.startsWith(prefix) || wanted.has(name) || alias?.startsWith(ours) !== true) continue;
    removeDevice(kernel, link, log);
  }
}

function removeDevice(kernel: DeviceKernel, { name, index }: Link, log: Log): void {
  const [outcome] = kernel.tryChange([deleteLink(index)]);
  if (outcome?.ok === false)
    log.warn({ event: 'device.delete-failed', device: name, error: outcome.error.message }, 'a device stays');
  else log.info({ event: 'device.removed', device: name }, 'removed the device of a remote');
}
