import { closeSync, openSync } from 'node:fs';
import { describe, OvpnError } from '../errors.ts';
import { hostPrefix, isIpv6, parsePrefix } from '../kernel/address.ts';
import { NETLINK_ROUTE, NetlinkSocket, type Request } from '../kernel/netlink/socket.ts';
import { namespaceId, ownNamespaceId, sandboxId } from '../kernel/netns.ts';
import { deleteAddress, dumpAddresses, setAddress } from '../kernel/rtnetlink/addresses.ts';
import { deleteLink, getLinkByName, type Link, newVeth, setLink } from '../kernel/rtnetlink/links.ts';
import {
  addRoute,
  deleteRoute,
  dumpOurRoutes,
  effectiveMetric,
  type Route,
  setRoute,
} from '../kernel/rtnetlink/routes.ts';
import { writeSysctls } from '../kernel/sysctl.ts';
import type { DesiredAttachment } from './desired.ts';
import { failClosedRoute, missingRoutes } from './diff.ts';
import { vethName } from './names.ts';
import type { NetworkKernel } from './network-kernel.ts';
import { type ObservedNetwork, routeKey } from './observed.ts';

/**
 * One pod's interface: a veth pair between its sandbox and the network's namespace. Every function here
 * brings about a state and does nothing where it stands already.
 *
 * The pod has its address as a single host and reaches everything of the network over a gateway that lives on
 * the far end, as the reference plugin `ptp` does it. Below each such route stands an unreachable one with the
 * worst metric: if the interface goes away, the destination is refused and never sent out of eth0.
 */

/** Addresses that the kernel gives a link by itself. */
export const LINK_SCOPE = 253;
/** Above the indexes of the networks' devices (node-agent.ts). */
const firstFarIndex = 0x200000;

/** What a sandbox should hold, beyond the attachment itself. */
export interface SandboxSettings {
  /** The pod's next hops, at most one per family. */
  readonly gateways: readonly string[];
  /** Everything the pod reaches over the network: its pools and the routes of its peers. */
  readonly destinations: readonly string[];
  /** Destinations of other networks that the same sandbox is attached to: their refusing routes are not ours to remove. */
  readonly foreignDestinations: ReadonlySet<string>;
  readonly mtu: number;
  /** Whether routes that are not wanted may go: not before all resources are known. */
  readonly mayRemove: boolean;
}

/** Writes issued, for the proof that a settled node is silent. */
export interface WriteCounter {
  writes: number;
}

/** The pod's end and the far end, as they are. */
export interface SandboxLinks {
  readonly inside: Link;
  readonly far: Link;
}

/**
 * Makes the veth pair if needed, and everything on both ends.
 *
 * @throws OvpnError NamespaceUnusable when the sandbox is not there or is the host's own
 * @throws NetlinkError when the kernel refuses a step
 */
export function ensureAttachment(
  attachment: DesiredAttachment,
  settings: SandboxSettings,
  kernel: NetworkKernel,
  observed: ObservedNetwork,
  counter: WriteCounter,
): SandboxLinks {
  const sandbox = openSandbox(attachment);
  try {
    const links = ensureLinks(attachment, settings.mtu, kernel, sandbox);
    ensureFarEnd(attachment, settings, kernel, observed, links.far);
    ensureInside(attachment, settings, sandbox, links.inside);
    return links;
  } finally {
    counter.writes += sandbox.counters.writes;
    sandbox.close();
  }
}

/** Removes the pair by its far end, and what is left in the sandbox. What is gone already is no error. */
export function removeAttachment(
  attachment: DesiredAttachment,
  foreignDestinations: ReadonlySet<string>,
  kernel: NetworkKernel | undefined,
  counter: WriteCounter,
): void {
  const far = kernel?.link(vethName(attachment));
  if (kernel !== undefined && far !== undefined) kernel.change([deleteLink(far.index)]);
  // Gone, or another namespace has the path by now: nothing of the pod's is left.
  if (!sandboxStands(attachment)) return;
  const sandbox = openSandbox(attachment);
  try {
    const inside = getLinkByName(sandbox, attachment.ifname);
    // A network whose namespace is gone took the pair along; an interface of this name may be another plugin's.
    const requests: Request[] =
      inside?.kind === 'veth' && inside.mac === attachment.mac ? [deleteLink(inside.index)] : [];
    // The refusing routes belong to no interface and outlive it.
    const leftover = dumpOurRoutes(sandbox).filter(
      (route) => route.type === 'unreachable' && isOwn(route, undefined, foreignDestinations),
    );
    requests.push(...leftover.map(deleteRoute));
    for (const outcome of sandbox.batch(requests))
      if (!outcome.ok && !['ENODEV', 'ESRCH'].includes(outcome.error.code)) throw outcome.error;
  } finally {
    counter.writes += sandbox.counters.writes;
    sandbox.close();
  }
}

/** Whether the path of the sandbox still names the namespace that was attached. */
export function sandboxStands({ netns, sandbox }: DesiredAttachment): boolean {
  return sandboxId(netns) === sandbox;
}

/**
 * The identity of a sandbox that is to be attached, refusing the host's namespace: a runtime's mistake must not give
 * the node a VPN interface.
 *
 * @throws OvpnError NamespaceUnusable
 */
export function identifySandbox(path: string): string {
  const id = sandboxId(path);
  if (id === undefined)
    throw new OvpnError('NamespaceUnusable', 'the network namespace of the sandbox does not exist', { object: path });
  if (namespaceId(path) === ownNamespaceId()) {
    throw new OvpnError(
      'NamespaceUnusable',
      "this is the host's own network namespace, not a sandbox",
      { object: path },
      {
        remedy: 'attach pods only; a pod with hostNetwork has the host network and cannot be attached',
      },
    );
  }
  return id;
}

/** Opens the sandbox's namespace. @throws OvpnError NamespaceUnusable, also when the path names another one by now */
export function openSandbox({ netns: path, sandbox }: DesiredAttachment): NetlinkSocket {
  if (identifySandbox(path) !== sandbox) {
    throw new OvpnError('NamespaceUnusable', 'the sandbox is gone and another one has its path', { object: path });
  }
  try {
    return NetlinkSocket.open(NETLINK_ROUTE, path);
  } catch (error) {
    throw new OvpnError(
      'NamespaceUnusable',
      `cannot enter the network namespace: ${describe(error)}`,
      { object: path },
      { cause: error },
    );
  }
}

function ensureLinks(
  attachment: DesiredAttachment,
  mtu: number,
  kernel: NetworkKernel,
  sandbox: NetlinkSocket,
): SandboxLinks {
  const name = vethName(attachment);
  // Looked up afresh: an index that was remembered may be another pod's by now.
  const farBefore = kernel.link(name);
  const insideBefore = getLinkByName(sandbox, attachment.ifname);
  if (farBefore !== undefined && insideBefore !== undefined && insideBefore.peerIndex === farBefore.index) {
    return { inside: insideBefore, far: farBefore };
  }
  if (insideBefore !== undefined) {
    throw new OvpnError(
      'NamespaceUnusable',
      `the sandbox has an interface ${attachment.ifname} that is not ours`,
      { object: attachment.netns, field: attachment.ifname },
      { remedy: 'choose another interface name, or remove that interface' },
    );
  }
  // Half a pair: the sandbox it belonged to was made anew under the same path.
  if (farBefore !== undefined) kernel.change([deleteLink(farBefore.index)]);
  const index = freeFarIndex(kernel.links());
  const namespaceFd = openSync(attachment.netns, 'r');
  try {
    kernel.change([newVeth({ name, index, mtu, peer: { name: attachment.ifname, namespaceFd, mac: attachment.mac } })]);
  } finally {
    closeSync(namespaceFd);
  }
  const inside = getLinkByName(sandbox, attachment.ifname);
  const far = kernel.link(name);
  if (inside === undefined || far === undefined) {
    throw new OvpnError('KernelRefused', `the veth pair ${name} is not there after it was made`, {
      object: attachment.netns,
    });
  }
  return { inside, far };
}

/**
 * An index that the pod's end surely has not: a kernel numbers by itself from 1. When both ends of a pair have
 * the same index, the kernel takes the new carrier for no urgent news (net/core/link_watch.c,
 * linkwatch_urgent_event) and for up to a second the far end has no link-local address and is in no multicast
 * group: no neighbour discovery, so the first IPv6 packet waits for a second try.
 */
export function freeFarIndex(links: readonly Link[]): number {
  return Math.max(firstFarIndex - 1, ...links.map(({ index }) => index)) + 1;
}

/** The far end: the gateway's address, and a route to the pod for each of its addresses. */
function ensureFarEnd(
  attachment: DesiredAttachment,
  { gateways, mtu }: SandboxSettings,
  kernel: NetworkKernel,
  observed: ObservedNetwork,
  far: Link,
): void {
  const wanted = gateways.map(hostPrefix);
  const present = new Set(
    kernel
      .addresses()
      .filter(({ index }) => index === far.index)
      .map(({ address }) => address),
  );
  const requests: Request[] = wanted
    .filter((address) => !present.has(address))
    .map((address) => setAddress(far.index, address));
  requests.push(...linkChanges(far, mtu));
  const missing = missingRoutes(farRoutes(attachment, far.index), observed.routes);
  requests.push(...missing.map(setRoute));
  kernel.change(requests);
  for (const route of missing) observed.routes.set(routeKey(route), route);
}

/** Routes in the network's namespace that lead to the pod. */
export function farRoutes(attachment: DesiredAttachment, farIndex: number): Route[] {
  return attachment.addresses.map((address) => ({
    destination: hostPrefix(address),
    type: 'unicast',
    gateway: undefined,
    index: farIndex,
    metric: effectiveMetric(address, 0),
    source: undefined,
    mtu: undefined,
  }));
}

/** The pod's end: address, routes to the network, and the refusing routes below them. */
function ensureInside(
  attachment: DesiredAttachment,
  settings: SandboxSettings,
  sandbox: NetlinkSocket,
  inside: Link,
): void {
  const wanted = attachment.addresses.map(hostPrefix);
  const present = dumpAddresses(sandbox).filter(({ index, scope }) => index === inside.index && scope !== LINK_SCOPE);
  const requests: Request[] = [];
  const ipv6 = attachment.addresses.some(isIpv6);
  if (!inside.up && ipv6) allowIpv6(attachment.netns, attachment.ifname);
  for (const address of wanted) {
    if (!present.some((found) => found.address === address)) requests.push(setAddress(inside.index, address));
  }
  for (const { address } of present) if (!wanted.includes(address)) requests.push(deleteAddress(inside.index, address));
  requests.push(...linkChanges(inside, settings.mtu));
  const observed = new Map(dumpOurRoutes(sandbox).map((route) => [routeKey(route), route]));
  const routes = insideRoutes(settings, inside.index);
  // The refusing routes first: there is no moment in which a destination can leave by another interface.
  const missing = missingRoutes(routes, observed).filter((route) => {
    // A destination that another network of this sandbox has keeps going there.
    const present = observed.get(routeKey(route));
    return present?.index === undefined || present.index === inside.index;
  });
  // A route that is not ours is not replaced: the pod's other interfaces keep what they have.
  requests.push(...missing.map((route) => (observed.has(routeKey(route)) ? setRoute(route) : addRoute(route))));
  const kept = new Set(routes.map(routeKey));
  const stale = [...observed.values()].filter(
    (route) => !kept.has(routeKey(route)) && isOwn(route, inside.index, settings.foreignDestinations),
  );
  if (settings.mayRemove) requests.push(...stale.map(deleteRoute));
  for (const outcome of sandbox.batch(requests)) if (!outcome.ok) throw outcome.error;
}

function linkChanges(link: Link, mtu: number): Request[] {
  const change = { ...(link.up ? {} : { up: true }), ...(link.mtu === mtu ? {} : { mtu }) };
  return Object.keys(change).length === 0 ? [] : [setLink(link.index, change)];
}

/** Whether a route with our protocol number belongs to this attachment, not to another network's in the same sandbox. */
function isOwn(route: Route, index: number | undefined, foreignDestinations: ReadonlySet<string>): boolean {
  return route.type === 'unreachable' ? !foreignDestinations.has(route.destination) : route.index === index;
}

/** Routes in the sandbox, in the order in which they must be made. */
export function insideRoutes(
  { gateways, destinations }: Pick<SandboxSettings, 'gateways' | 'destinations'>,
  index: number,
): Route[] {
  const direct = { type: 'unicast', index, source: undefined, mtu: undefined } as const;
  const refuse: Route[] = [];
  const hops: Route[] = gateways.map((gateway) => ({
    ...direct,
    destination: hostPrefix(gateway),
    gateway: undefined,
    metric: effectiveMetric(gateway, 0),
  }));
  const via: Route[] = [];
  for (const destination of destinations) {
    // A pod's default route stays where it was: everything else of a peer's routes comes to the pod.
    if (parsePrefix(destination).length === 0) continue;
    const gateway = gateways.find((candidate) => isIpv6(candidate) === isIpv6(destination));
    refuse.push(failClosedRoute(destination));
    if (gateway !== undefined) via.push({ ...direct, destination, gateway, metric: effectiveMetric(destination, 0) });
  }
  return [...refuse, ...hops, ...via];
}

/** Runtimes switch IPv6 off in sandboxes of IPv4 clusters; and a pair of two needs no duplicate address detection. */
function allowIpv6(netns: string, ifname: string): void {
  const name = ifname.replaceAll('.', '/');
  writeSysctls(
    netns,
    new Map([
      [`net.ipv6.conf.${name}.disable_ipv6`, '0'],
      [`net.ipv6.conf.${name}.accept_dad`, '0'],
      [`net.ipv6.conf.${name}.accept_ra`, '0'],
    ]),
  );
}
