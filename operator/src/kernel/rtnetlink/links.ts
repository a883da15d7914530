import {
  forEachAttribute,
  type Message,
  NLM_F_CREATE,
  NLM_F_EXCL,
  readString,
  readU8,
  RequestWriter,
} from '../netlink/message.ts';
import { NetlinkError } from '../netlink/error.ts';
import type { NetlinkSocket, Request } from '../netlink/socket.ts';
import { emit, type LinkAttrs, rt, strictly } from './codec.ts';

const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const IFLA_OVPN_MODE = 1;
const VETH_INFO_PEER = 1;
const IFINFOMSG_BYTES = 16;
// The codec's enumeration; netlink messages carry plain numbers.
const replyType: number = rt.MessageType.NEWLINK;

/** Without it the kernel writes 200 bytes of counters per link that nobody here reads. */
const RTEXT_FILTER_SKIP_STATS = 8;

/** `p2p`: one peer that gets everything. `mp`: many peers, chosen by next hop (drivers/net/ovpn/peer.c). */
export type OvpnMode = 'p2p' | 'mp';
const modeNumbers = { p2p: 0, mp: 1 } as const;

/** A network interface as the kernel has it. */
export interface Link {
  readonly index: number;
  readonly name: string;
  readonly up: boolean;
  readonly mtu: number;
  /** `aa:bb:cc:dd:ee:ff`; empty for interfaces without hardware addresses, such as ovpn. */
  readonly mac: string;
  /** Driver, e.g. `ovpn`, `veth`; undefined for hardware and loopback. */
  readonly kind: string | undefined;
  readonly ovpnMode: OvpnMode | undefined;
  readonly alias: string | undefined;
  /** Index of the other end of a veth pair, in the namespace `linkNetnsid`. */
  readonly peerIndex: number | undefined;
  readonly carrier: boolean;
  readonly loopback: boolean;
}

export interface NewOvpnLink {
  readonly name: string;
  readonly mode: OvpnMode;
  /** Chosen by us, so that notifications can tell devices of different namespaces apart. */
  readonly index?: number;
  readonly mtu?: number;
}

export interface NewVeth {
  readonly name: string;
  /** Index of this end; the kernel chooses one when it is left out. */
  readonly index?: number;
  readonly mtu: number;
  readonly mac?: string | undefined;
  readonly peer: {
    readonly name: string;
    /** File descriptor of the namespace that the other end is made in, under its final name. */
    readonly namespaceFd: number;
    readonly mac?: string | undefined;
  };
}

/** Changes to an existing link; what is undefined stays. */
export interface LinkChange {
  readonly up?: boolean;
  readonly mtu?: number;
  readonly alias?: string;
  readonly mac?: string;
}

/** Makes an ovpn device (drivers/net/ovpn/main.c, ovpn_newlink). Fails with EEXIST when the name or index is taken. */
export function newOvpnLink(link: NewOvpnLink): Request {
  const attributes: LinkAttrs = { ifname: link.name };
  if (link.mtu !== undefined) attributes.mtu = link.mtu;
  attributes.linkinfo = linkinfo('ovpn', (data) => data.u8(IFLA_OVPN_MODE, modeNumbers[link.mode]));
  return newLink(`make ovpn device ${link.name}`, { index: link.index ?? 0 }, attributes);
}

/** Makes a veth pair with both ends named and placed in one step (drivers/net/veth.c, veth_newlink). */
export function newVeth(link: NewVeth): Request {
  const attributes: LinkAttrs = { ifname: link.name, mtu: link.mtu };
  if (link.mac !== undefined) attributes.address = macBytes(link.mac);
  const peer: LinkAttrs = { ifname: link.peer.name, mtu: link.mtu, netNsFd: link.peer.namespaceFd };
  if (link.peer.mac !== undefined) peer.address = macBytes(link.peer.mac);
  attributes.linkinfo = linkinfo('veth', (data) => {
    const inner = new RequestWriter(256);
    emit(inner, (out) => rt.formatLinkMessage({ kind: 'link', data: {}, attrs: peer }, out));
    data.bytes(VETH_INFO_PEER, inner.view());
  });
  return newLink(`make veth pair ${link.name} and ${link.peer.name}`, { index: link.index ?? 0 }, attributes);
}

function newLink(describe: string, data: rt.Link, attrs: LinkAttrs): Request {
  return {
    type: rt.MessageType.NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    describe: () => describe,
    write: (writer) => emit(writer, (out) => rt.formatLinkMessage({ kind: 'link', data, attrs }, out)),
  };
}

export function setLink(index: number, change: LinkChange): Request {
  const attrs: LinkAttrs = {};
  if (change.mtu !== undefined) attrs.mtu = change.mtu;
  if (change.alias !== undefined) attrs.ifalias = change.alias;
  if (change.mac !== undefined) attrs.address = macBytes(change.mac);
  const data: rt.Link = { index };
  if (change.up !== undefined) {
    data.change = { up: true };
    data.flags = change.up ? { up: true } : {};
  }
  return {
    type: rt.MessageType.NEWLINK,
    describe: () => `change interface ${index}: ${Object.keys(change).join(', ')}`,
    write: (writer) => emit(writer, (out) => rt.formatLinkMessage({ kind: 'link', data, attrs }, out)),
  };
}

export function deleteLink(index: number): Request {
  return {
    type: rt.MessageType.DELLINK,
    describe: () => `delete interface ${index}`,
    write: (writer) => emit(writer, (out) => rt.formatLinkMessage({ kind: 'link', data: { index }, attrs: {} }, out)),
  };
}

/** All interfaces of the socket's namespace. */
export function dumpLinks(socket: NetlinkSocket): Link[] {
  return socket.dump(getLink({}, {}, 'list interfaces'), strictly(parseLink));
}

/** One interface by name, or undefined when there is none. */
export function getLinkByName(socket: NetlinkSocket, name: string): Link | undefined {
  try {
    return strictly(parseLink)(socket.get(getLink({}, { ifname: name }, `look up interface ${name}`)));
  } catch (error) {
    if (error instanceof NetlinkError && error.code === 'ENODEV') return undefined;
    throw error;
  }
}

function getLink(data: rt.Link, attrs: LinkAttrs, describe: string): Request {
  const extMask = Buffer.alloc(4);
  extMask.writeUInt32LE(RTEXT_FILTER_SKIP_STATS);
  return {
    type: rt.MessageType.GETLINK,
    describe: () => describe,
    write: (writer) =>
      emit(writer, (out) => rt.formatLinkMessage({ kind: 'link', data, attrs: { ...attrs, extMask } }, out)),
  };
}

function linkinfo(kind: string, fill: (data: RequestWriter) => void): Buffer {
  const writer = new RequestWriter(512);
  writer.string(IFLA_INFO_KIND, kind);
  writer.nest(IFLA_INFO_DATA, () => fill(writer));
  return writer.view();
}

function parseLink(message: Message): Link | undefined {
  if (message.type !== replyType || message.payload.length < IFINFOMSG_BYTES) return undefined;
  const { data, attrs } = rt.parseLinkMessage(message.payload);
  const { kind, ovpnMode } = parseLinkinfo(attrs.linkinfo);
  return {
    index: data.index ?? 0,
    name: attrs.ifname ?? '',
    up: data.flags?.up === true,
    mtu: attrs.mtu ?? 0,
    mac: macText(attrs.address),
    kind,
    ovpnMode,
    alias: attrs.ifalias,
    peerIndex: attrs.link?.length === 4 ? attrs.link.readUInt32LE() : undefined,
    carrier: attrs.carrier === 1,
    loopback: data.flags?.loopback === true,
  };
}

function parseLinkinfo(info: Buffer | undefined): Pick<Link, 'kind' | 'ovpnMode'> {
  let kind: string | undefined;
  let data: Buffer | undefined;
  if (info !== undefined) {
    forEachAttribute(info, (type, value) => {
      if (type === IFLA_INFO_KIND) kind = readString(value);
      if (type === IFLA_INFO_DATA) data = value;
    });
  }
  let ovpnMode: OvpnMode | undefined;
  if (kind === 'ovpn' && data !== undefined) {
    forEachAttribute(data, (type, value) => {
      if (type === IFLA_OVPN_MODE) ovpnMode = readU8(value) === modeNumbers.mp ? 'mp' : 'p2p';
    });
  }
  return { kind, ovpnMode };
}

function macBytes(mac: string): Buffer {
  const bytes = Buffer.from(mac.replaceAll(':', ''), 'hex');
  if (bytes.length !== 6) throw new TypeError(`${JSON.stringify(mac)} is not a MAC address`);
  return bytes;
}

function macText(bytes: Buffer | undefined): string {
  return bytes?.toString('hex').replaceAll(/(..)(?!$)/g, '$1:') ?? '';
}
