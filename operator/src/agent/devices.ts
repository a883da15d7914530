import { join } from 'node:path';
import { NETLINK_ROUTE, NetlinkSocket } from '../kernel/netlink/socket.ts';
import { listNamespaces } from '../kernel/netns.ts';
import { dumpLinks, type Link } from '../kernel/rtnetlink/links.ts';
import { clusterLinkName, deviceAlias, deviceName, isVethName, namespaceName } from './names.ts';

/** The ovpn devices of all networks on the node, whoever made them. */

/** Device indexes of ours start here: far above what a kernel numbers by itself. */
const firstDeviceIndex = 0x100000;

/** Only a namespace whose device carries our mark may be removed. */
export function isOurs(network: string, netnsFolder: string): boolean {
  return linksIn(join(netnsFolder, namespaceName(network))).some(
    ({ name, alias }) => name === deviceName && alias === deviceAlias(network),
  );
}

/**
 * Whether a namespace with the name of ours is somebody else's: it has interfaces that carry traffic, and no
 * device of ours. One that a crash left half made, or whose device somebody deleted, has only far ends of pods and of the
 * link to the host.
 */
export function isForeign(network: string, netnsFolder: string): boolean {
  const links = linksIn(join(netnsFolder, namespaceName(network)));
  const isLinkOfOurs = (name: string): boolean => isVethName(name) || name === clusterLinkName;
  return (
    !isOurs(network, netnsFolder) && links.some(({ up, loopback, name }) => up && !loopback && !isLinkOfOurs(name))
  );
}

/**
 * An index that no device in any named namespace has. Notifications carry the index of the device's namespace
 * and arrive in the socket's: only unique indexes say which network they are about.
 */
export function freeDeviceIndex(netnsFolder: string): number {
  const taken = new Set<number>();
  for (const namespace of listNamespaces(netnsFolder)) {
    for (const { index } of linksIn(join(netnsFolder, namespace))) taken.add(index);
  }
  let index = firstDeviceIndex;
  while (taken.has(index)) index++;
  return index;
}

function linksIn(path: string): Link[] {
  try {
    const socket = NetlinkSocket.open(NETLINK_ROUTE, path);
    try {
      return dumpLinks(socket);
    } finally {
      socket.close();
    }
  } catch {
    // Gone in the meantime: it has no devices.
    return [];
  }
}
