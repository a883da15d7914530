import { createHash } from 'node:crypto';
import type { AttachmentKey } from './attach-protocol.ts';

/** Names of what the agent makes in the kernel. They are how a restarted agent finds its own again. */

const namespacePrefix = 'ovpn-';
const aliasPrefix = 'ovpn-operator:';

/** One device per network, in a namespace of its own: the name needs not be unique. */
export const deviceName = 'ovpn0';

/** The network namespace of a VpnNetwork; the API limits names so that this fits. */
export function namespaceName(network: string): string {
  return `${namespacePrefix}${network}`;
}

/** The network a namespace's name stands for, or undefined when it cannot be ours. */
export function networkOfNamespace(name: string): string | undefined {
  return name.startsWith(namespacePrefix) ? name.slice(namespacePrefix.length) || undefined : undefined;
}

/** The alias (`ip link show`) that marks a device as made by this project for this network. */
export function deviceAlias(network: string): string {
  return `${aliasPrefix}${network}`;
}

/** What names of far ends begin with; nothing else in a network's namespace does. */
export const vethPrefix = 'veth';

/** The far end of an attachment, in the network's namespace: at most 15 bytes. */
export function vethName({ containerId, ifname }: AttachmentKey): string {
  return `${vethPrefix}${createHash('sha256').update(`${containerId}/${ifname}`).digest('hex').slice(0, 11)}`;
}

/** The name under which the holder keeps the socket of a listener. */
export function socketName(network: string, listener: string): string {
  return `${network}/${listener}`;
}

/** Whether an interface may be the far end of an attachment, by its name. */
export function isVethName(name: string): boolean {
  return /^veth[0-9a-f]{11}$/.test(name);
}

/** The network's end of the link to the host (cluster access); one per network, in the namespace of the network. */
export const clusterLinkName = 'cluster0';

const hostLinkPrefix = 'ovpn';

/** The host's end of that link: at most 15 bytes. */
export function hostLinkName(network: string): string {
  return `${hostLinkPrefix}${createHash('sha256').update(network).digest('hex').slice(0, 11)}`;
}

/** Whether an interface may be the host's end of such a link, by its name. */
export function isHostLinkName(name: string): boolean {
  return /^ovpn[0-9a-f]{11}$/.test(name);
}
