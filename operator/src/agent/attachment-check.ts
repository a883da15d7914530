import { hostPrefix } from '../kernel/address.ts';
import { type InterfaceAddress, dumpAddresses } from '../kernel/rtnetlink/addresses.ts';
import { getLinkByName, type Link } from '../kernel/rtnetlink/links.ts';
import { dumpOurRoutes, formatRoute, type Route } from '../kernel/rtnetlink/routes.ts';
import type { ExpectedInterface } from './attach-protocol.ts';
import type { DesiredAttachment } from './desired.ts';
import { missingRoutes } from './diff.ts';
import { vethName } from './names.ts';
import type { NetworkKernel } from './network-kernel.ts';
import { routeKey } from './observed.ts';
import { farRoutes, insideRoutes, LINK_SCOPE, openSandbox, type SandboxSettings, sandboxStands } from './sandbox.ts';

/** What the kernel has of one attachment. */
export interface ObservedAttachment {
  readonly inside: Link | undefined;
  readonly insideAddresses: readonly string[];
  readonly insideRoutes: readonly Route[];
  readonly far: Link | undefined;
  readonly farAddresses: readonly string[];
  readonly farRoutes: readonly Route[];
}

/** Reads both ends; undefined when the sandbox is gone. @throws what the kernel refuses */
export function observeAttachment(
  attachment: DesiredAttachment,
  kernel: NetworkKernel,
): ObservedAttachment | undefined {
  if (!sandboxStands(attachment)) return undefined;
  const sandbox = openSandbox(attachment);
  try {
    const inside = getLinkByName(sandbox, attachment.ifname);
    const far = kernel.link(vethName(attachment));
    return {
      inside,
      insideAddresses: addressesOf(inside, dumpAddresses(sandbox)),
      insideRoutes: dumpOurRoutes(sandbox),
      far,
      farAddresses: addressesOf(far, kernel.addresses()),
      farRoutes: kernel.ourRoutes(),
    };
  } finally {
    sandbox.close();
  }
}

/** Every way in which the kernel differs from what an attachment should be, in words. Pure. */
export function deviations(
  attachment: DesiredAttachment,
  settings: Pick<SandboxSettings, 'gateways' | 'destinations' | 'mtu'>,
  observed: ObservedAttachment | undefined,
): string[] {
  if (observed === undefined) return ['the network namespace of the sandbox is gone, or another one has its path'];
  const { inside, far } = observed;
  const { ifname } = attachment;
  const farName = vethName(attachment);
  return [
    ...(inside === undefined
      ? [`${ifname} is not there`]
      : [
          ...linkDeviations(ifname, inside, settings.mtu),
          ...(inside.mac === attachment.mac ? [] : [`${ifname} has MAC ${inside.mac}, not ${attachment.mac}`]),
          ...(far !== undefined && inside.peerIndex !== far.index
            ? [`${ifname} is not the other end of ${farName}`]
            : []),
          ...addressDeviations(ifname, observed.insideAddresses, attachment.addresses.map(hostPrefix)),
          ...routeDeviations('in the sandbox', observed.insideRoutes, insideRoutes(settings, inside.index)),
        ]),
    ...(far === undefined
      ? [`the far end ${farName} is not there`]
      : [
          ...linkDeviations(`the far end ${farName}`, far, settings.mtu),
          ...addressDeviations(`the far end ${farName}`, observed.farAddresses, settings.gateways.map(hostPrefix)),
          ...routeDeviations("in the network's namespace", observed.farRoutes, farRoutes(attachment, far.index)),
        ]),
  ];
}

/**
 * How an attachment differs from what the runtime remembers of it. MTU and routes are not compared with that: they
 * follow the underlay and the peers, and are held against what is wanted now.
 */
export function expectationDeviations(
  { ifname, mac, addresses }: DesiredAttachment,
  expected: readonly ExpectedInterface[],
): string[] {
  const found = expected.find((each) => each.ifname === ifname);
  if (found === undefined) return [`the previous result has no interface ${ifname} in this sandbox`];
  return [
    ...(found.mac === undefined || found.mac === mac
      ? []
      : [`the previous result has MAC ${found.mac} for ${ifname}, the agent's record ${mac}`]),
    ...addressDeviations(
      `${ifname} in the previous result`,
      found.addresses.map((text) => (text.includes('/') ? text : hostPrefix(text))),
      addresses.map(hostPrefix),
    ),
  ];
}

function linkDeviations(what: string, link: Link, mtu: number): string[] {
  return [
    ...(link.kind === 'veth' ? [] : [`${what} is no veth but ${link.kind ?? 'hardware'}`]),
    ...(link.up ? [] : [`${what} is down`]),
    ...(link.mtu === mtu ? [] : [`${what} has MTU ${link.mtu}, not ${mtu}`]),
  ];
}

function addressDeviations(what: string, present: readonly string[], wanted: readonly string[]): string[] {
  return [
    ...wanted.filter((address) => !present.includes(address)).map((address) => `${what} lacks address ${address}`),
    ...present
      .filter((address) => !wanted.includes(address))
      .map((address) => `${what} has address ${address} beside its own`),
  ];
}

function routeDeviations(where: string, present: readonly Route[], wanted: readonly Route[]): string[] {
  const observed = new Map(present.map((route) => [routeKey(route), route]));
  return missingRoutes(wanted, observed).map((route) => `there is no route ${formatRoute(route)} ${where}`);
}

function addressesOf(link: Link | undefined, addresses: readonly InterfaceAddress[]): string[] {
  return addresses
    .filter(({ index, scope }) => index === link?.index && scope !== LINK_SCOPE)
    .map(({ address }) => address);
}
