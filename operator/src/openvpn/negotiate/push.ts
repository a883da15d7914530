import { isIPv4, isIPv6 } from 'node:net';
import { OvpnError } from '../../errors.ts';
import { type DataCipher } from '../static-key.ts';
import { netmask, netmaskLength, parseIpv6Prefix, type Prefix } from './address.ts';
import { pushWord, splitWords } from './option-words.ts';
import { printable, ProtocolFault } from './protocol-fault.ts';

/** The options that a server pushes to its client (openvpn(8), "--push", "--pull"). */

export type Topology = 'subnet' | 'net30' | 'p2p';

export interface PushedRoute {
  /** Without host bits checked: the server's word. */
  readonly network: Prefix;
  /** An address, or one of OpenVPN's names for one; undefined: through the tunnel. */
  readonly gateway?: string | undefined;
  readonly metric?: number | undefined;
}

export interface DhcpOption {
  readonly type: string;
  readonly value: string;
}

/** `dns server PRIORITY …` */
export interface DnsServer {
  readonly priority: number;
  readonly addresses: readonly string[];
  readonly resolveDomains: readonly string[];
}

export interface PushedOptions {
  /** Address, and with topology subnet the netmask, else the peer's address. */
  readonly ifconfig?: { readonly address: string; readonly second: string } | undefined;
  readonly ifconfigIpv6?: (Prefix & { readonly gateway: string | undefined }) | undefined;
  readonly routeGateway?: string | undefined;
  readonly topology?: Topology | undefined;
  readonly routes?: readonly PushedRoute[] | undefined;
  readonly routesIpv6?: readonly PushedRoute[] | undefined;
  /** The flags of `redirect-gateway`. */
  readonly redirectGateway?: readonly string[] | undefined;
  readonly pingSeconds?: number | undefined;
  readonly pingRestartSeconds?: number | undefined;
  readonly pingExitSeconds?: number | undefined;
  readonly tunMtu?: number | undefined;
  readonly peerId?: number | undefined;
  readonly cipher?: string | undefined;
  readonly protocolFlags?: readonly string[] | undefined;
  readonly keyDerivation?: string | undefined;
  readonly dhcpOptions?: readonly DhcpOption[] | undefined;
  readonly dnsServers?: readonly DnsServer[] | undefined;
  readonly dnsSearchDomains?: readonly string[] | undefined;
  readonly authToken?: string | undefined;
  /** Decoded from base64. */
  readonly authTokenUser?: string | undefined;
}

/** OpenVPN's PUSH_BUNDLE_SIZE, counting the NUL. */
export const maxPushBytes = 1024;
/** 0xffffff stands for "no peer id". */
export const maxPeerId = 0xfffffe;

const reply = 'PUSH_REPLY';
const continuation = ',push-continuation 2';

/**
 * The messages of a push; more than one when it is long: all but the last then say that more follows.
 *
 * @throws OvpnError InvalidField for a value that cannot be pushed
 */
export function formatPush(options: PushedOptions): string[] {
  const room = maxPushBytes - 1 - reply.length - continuation.length;
  const parts: string[] = [];
  let part = '';
  for (const line of pushLines(options)) {
    const piece = `,${line}`;
    if (Buffer.byteLength(piece) > room) {
      throw new OvpnError('InvalidField', `is longer than the ${room} bytes of one push`, {
        field: splitWords(line)[0] ?? 'push',
      });
    }
    if (Buffer.byteLength(part) + Buffer.byteLength(piece) > room) {
      parts.push(part);
      part = '';
    }
    part += piece;
  }
  parts.push(part);
  return parts.length === 1
    ? [`${reply}${part}`]
    : parts.map((text, i) => `${reply}${text},push-continuation ${i < parts.length - 1 ? 2 : 1}`);
}

function pushLines(options: PushedOptions): string[] {
  const lines: string[] = [];
  const add = (name: string, ...words: (string | number)[]): void => {
    lines.push([name, ...words.map((word) => (typeof word === 'number' ? `${word}` : pushWord(word, name)))].join(' '));
  };
  const addIfSet = (name: string, value: string | number | undefined): void => {
    if (value !== undefined) {
      add(name, value);
    }
  };
  addIfSet('route-gateway', options.routeGateway);
  addIfSet('topology', options.topology);
  addIfSet('ping', options.pingSeconds);
  addIfSet('ping-restart', options.pingRestartSeconds);
  addIfSet('ping-exit', options.pingExitSeconds);
  for (const { network, gateway, metric } of options.routes ?? []) {
    add('route', network.address, netmask(network.length), ...routeTail(gateway, metric, 'vpn_gateway'));
  }
  for (const { network, gateway, metric } of options.routesIpv6 ?? []) {
    add('route-ipv6', `${network.address}/${network.length}`, ...routeTail(gateway, metric, 'default'));
  }
  if (options.redirectGateway !== undefined) {
    add('redirect-gateway', ...options.redirectGateway);
  }
  for (const { type, value } of options.dhcpOptions ?? []) {
    add('dhcp-option', type, value);
  }
  if ((options.dnsSearchDomains ?? []).length > 0) {
    add('dns', 'search-domains', ...(options.dnsSearchDomains ?? []));
  }
  for (const { priority, addresses, resolveDomains } of options.dnsServers ?? []) {
    add('dns', 'server', priority, 'address', ...addresses);
    if (resolveDomains.length > 0) {
      add('dns', 'server', priority, 'resolve-domains', ...resolveDomains);
    }
  }
  if (options.ifconfigIpv6 !== undefined) {
    const { address, length, gateway } = options.ifconfigIpv6;
    add('ifconfig-ipv6', `${address}/${length}`, ...(gateway === undefined ? [] : [gateway]));
  }
  if (options.ifconfig !== undefined) {
    add('ifconfig', options.ifconfig.address, options.ifconfig.second);
  }
  addIfSet('peer-id', options.peerId);
  addIfSet('auth-token', options.authToken);
  if (options.authTokenUser !== undefined) {
    add('auth-token-user', Buffer.from(options.authTokenUser).toString('base64'));
  }
  addIfSet('cipher', options.cipher);
  if ((options.protocolFlags ?? []).length > 0) {
    add('protocol-flags', ...(options.protocolFlags ?? []));
  }
  addIfSet('key-derivation', options.keyDerivation);
  addIfSet('tun-mtu', options.tunMtu);
  return lines;
}

function routeTail(gateway: string | undefined, metric: number | undefined, none: string): (string | number)[] {
  if (metric !== undefined) {
    return [gateway ?? none, metric];
  }
  return gateway === undefined ? [] : [gateway];
}

/** What came of a push: the options, and those that are passed over. */
export interface ReceivedPush {
  readonly options: PushedOptions;
  /** Options that are unknown or of no use here, each on one line for the log, without values that may be secret. */
  readonly ignored: readonly string[];
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Building = Omit<Mutable<PushedOptions>, 'dnsServers'> & {
  routes: PushedRoute[];
  routesIpv6: PushedRoute[];
  dhcpOptions: DhcpOption[];
  dnsServers: { priority: number; addresses: string[]; resolveDomains: string[] }[];
  dnsSearchDomains: string[];
};

/** Options that change the framing of data packets in a way the kernel cannot follow. */
const impossible: ReadonlyMap<string, string> = new Map([
  ['comp-lzo', 'compression or its framing'],
  ['compress', 'compression or its framing'],
  ['fragment', 'fragmentation of data packets'],
]);

/**
 * Puts together the parts of a push and reads them.
 */
export class PushReader {
  static readonly maxBytes = 256 * 1024;
  #lines: string[] = [];
  #bytes = 0;

  /**
   * Takes the text after "PUSH_REPLY,"; the push, when this was its last part.
   *
   * @throws ProtocolFault
   */
  add(text: string): ReceivedPush | undefined {
    this.#bytes += text.length;
    if (this.#bytes > PushReader.maxBytes) {
      throw new ProtocolFault(`pushed more than ${PushReader.maxBytes} bytes of options`);
    }
    let more = false;
    for (const line of text.split(',')) {
      const [name, value] = splitWords(line);
      if (name === 'push-continuation') {
        more = value === '2';
      } else if (name !== undefined) {
        this.#lines.push(line);
      }
    }
    if (more) {
      return undefined;
    }
    const lines = this.#lines;
    this.#lines = [];
    this.#bytes = 0;
    return parsePush(lines);
  }
}

function parsePush(lines: readonly string[]): ReceivedPush {
  const options: Building = { routes: [], routesIpv6: [], dhcpOptions: [], dnsServers: [], dnsSearchDomains: [] };
  const ignored: string[] = [];
  for (const line of lines) {
    const [name = '', ...words] = splitWords(line);
    const known = readers.get(name);
    if (known !== undefined) {
      known(options, words);
    } else if (impossible.has(name)) {
      throw new ProtocolFault(`pushed "${printable(line, 64)}": ${impossible.get(name)} is not possible in the kernel`);
    } else {
      ignored.push(printable(name, 64));
    }
  }
  return { options, ignored };
}

type Reader = (options: Building, words: readonly string[]) => void;

const readers: ReadonlyMap<string, Reader> = new Map<string, Reader>([
  [
    'ifconfig',
    (options, [address = '', second = '']) => {
      expect(isIPv4(address) && isIPv4(second), 'ifconfig');
      options.ifconfig = { address, second };
    },
  ],
  [
    'ifconfig-ipv6',
    (options, [prefix = '', gateway]) => {
      const parsed = parseIpv6Prefix(prefix);
      expect(parsed !== undefined && (gateway === undefined || isIPv6(gateway)), 'ifconfig-ipv6');
      options.ifconfigIpv6 = { ...parsed, gateway };
    },
  ],
  [
    'route-gateway',
    (options, [gateway = '']) => {
      // "dhcp" belongs to tap devices.
      expect(isIPv4(gateway), 'route-gateway');
      options.routeGateway = gateway;
    },
  ],
  [
    'topology',
    (options, [topology]) => {
      expect(topology === 'subnet' || topology === 'net30' || topology === 'p2p', 'topology');
      options.topology = topology;
    },
  ],
  [
    'route',
    (options, [address = '', mask = '255.255.255.255', gateway, metric]) => {
      const length = netmaskLength(mask === 'default' ? '255.255.255.255' : mask);
      expect(isIPv4(address) && length !== undefined, 'route');
      options.routes.push({
        network: { address, length },
        gateway: routeGateway(gateway, isIPv4),
        metric: routeMetric(metric),
      });
    },
  ],
  [
    'route-ipv6',
    (options, [prefix = '', gateway, metric]) => {
      const network = parseIpv6Prefix(prefix);
      expect(network !== undefined, 'route-ipv6');
      options.routesIpv6.push({ network, gateway: routeGateway(gateway, isIPv6), metric: routeMetric(metric) });
    },
  ],
  [
    'redirect-gateway',
    (options, flags) => {
      options.redirectGateway = flags.map((flag) => printable(flag, 32));
    },
  ],
  ['ping', (options, [value]) => (options.pingSeconds = natural(value, 'ping', 86_400))],
  ['ping-restart', (options, [value]) => (options.pingRestartSeconds = natural(value, 'ping-restart', 86_400))],
  ['ping-exit', (options, [value]) => (options.pingExitSeconds = natural(value, 'ping-exit', 86_400))],
  ['tun-mtu', (options, [value]) => (options.tunMtu = natural(value, 'tun-mtu', 65_535))],
  ['peer-id', (options, [value]) => (options.peerId = natural(value, 'peer-id', maxPeerId))],
  ['cipher', (options, [value = '']) => (options.cipher = printable(value, 64).toUpperCase())],
  ['protocol-flags', (options, flags) => (options.protocolFlags = flags.map((flag) => printable(flag, 32)))],
  ['key-derivation', (options, [value = '']) => (options.keyDerivation = printable(value, 32))],
  [
    'dhcp-option',
    (options, [type = '', ...value]) => {
      options.dhcpOptions.push({ type: printable(type, 64), value: printable(value.join(' ')) });
    },
  ],
  ['dns', readDns],
  ['auth-token', (options, [token]) => (options.authToken = token)],
  ['auth-token-user', (options, [user = '']) => (options.authTokenUser = Buffer.from(user, 'base64').toString('utf8'))],
]);

function readDns(options: Building, [what, ...words]: readonly string[]): void {
  if (what === 'search-domains') {
    words.forEach((word) => options.dnsSearchDomains.push(printable(word)));
    return;
  }
  const [priority, attribute, ...values] = words;
  if (what !== 'server') {
    return;
  }
  const at = natural(priority?.replace(/^-/, ''), 'dns', 127) * (priority?.startsWith('-') === true ? -1 : 1);
  let server = options.dnsServers.find((one) => one.priority === at);
  if (server === undefined) {
    server = { priority: at, addresses: [], resolveDomains: [] };
    options.dnsServers.push(server);
  }
  const list =
    attribute === 'address' ? server.addresses : attribute === 'resolve-domains' ? server.resolveDomains : undefined;
  // In place: a copy for each line would make a long push quadratic.
  values.forEach((value) => list?.push(printable(value)));
}

function routeGateway(word: string | undefined, isAddress: (text: string) => boolean): string | undefined {
  if (word === undefined || word === 'vpn_gateway' || word === 'default' || word === '::') {
    return undefined;
  }
  expect(isAddress(word) || word === 'net_gateway' || word === 'net_gateway_ipv6' || word === 'remote_host', 'route');
  return word;
}

function routeMetric(word: string | undefined): number | undefined {
  return word === undefined || word === 'default' ? undefined : natural(word, 'route', 2 ** 31 - 1);
}

function natural(word: string | undefined, option: string, max: number): number {
  const value = word !== undefined && /^\d{1,10}$/.test(word) ? Number(word) : NaN;
  expect(value <= max, option);
  return value;
}

function expect(condition: boolean, option: string): asserts condition {
  if (!condition) {
    throw new ProtocolFault(`pushed a malformed "${option}" option`);
  }
}

/** What a client session needs of a push besides addresses. */
export interface PushedSession {
  readonly cipher: DataCipher;
  readonly peerId: number;
  readonly exitMessage: boolean;
  readonly dynamicTlsCrypt: boolean;
}

/**
 * Checks that a push makes a session possible whose data goes through the kernel.
 *
 * @throws ProtocolFault with what the server would have to change
 */
export function pushedSession(options: PushedOptions, allowed: readonly DataCipher[]): PushedSession {
  const { cipher: pushed, peerId, protocolFlags = [], keyDerivation } = options;
  if (peerId === undefined) {
    throw new ProtocolFault('pushed no peer-id: the server is too old for data packets with one');
  }
  if (!protocolFlags.includes('tls-ekm') && keyDerivation !== 'tls-ekm') {
    throw new ProtocolFault('does not derive keys by TLS key export (tls-ekm): it has to be OpenVPN 2.6 or newer');
  }
  const unknown = protocolFlags.find((flag) => !['tls-ekm', 'cc-exit', 'dyn-tls-crypt'].includes(flag));
  if (unknown !== undefined) {
    // Flags change what goes over the wire (aead-epoch, for example): without knowing one, nothing would work.
    throw new ProtocolFault(`pushed the protocol flag "${unknown}", which is not supported`);
  }
  if (pushed === undefined) {
    throw new ProtocolFault('pushed no cipher: it negotiates none (--data-ciphers)');
  }
  const cipher = allowed.find((name) => name === pushed);
  if (cipher === undefined) {
    throw new ProtocolFault(`pushed the cipher ${pushed}, which is not among ${allowed.join(':')}`);
  }
  return {
    cipher,
    peerId,
    exitMessage: protocolFlags.includes('cc-exit'),
    dynamicTlsCrypt: protocolFlags.includes('dyn-tls-crypt'),
  };
}
