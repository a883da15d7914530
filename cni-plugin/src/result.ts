/**
 * The result of ADD (section 5, "ADD Success"): what earlier plugins of the chain reported, and ours after it.
 * Inside, a result has the newest form; writing it leaves out what an older version does not have.
 */
import { isIPv6 } from 'node:net';
import type { Attachment, ExpectedInterface } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { quote } from './environment.ts';
import { present, Reader } from './json-reader.ts';
import { parsePrefix } from './prefix.ts';
import type { CniVersion } from './versions.ts';
import { isSupportedVersion } from './versions.ts';

export interface ResultInterface {
  readonly name: string;
  readonly mac?: string;
  readonly mtu?: number;
  readonly sandbox?: string;
  readonly socketPath?: string;
  readonly pciID?: string;
}

export interface ResultIp {
  /** "4" or "6"; only before 1.0.0. */
  readonly version?: string;
  readonly interface?: number;
  readonly address: string;
  readonly gateway?: string;
}

export interface ResultRoute {
  readonly dst: string;
  readonly gw?: string;
  readonly mtu?: number;
  readonly advmss?: number;
  readonly priority?: number;
  readonly table?: number;
  readonly scope?: number;
}

export interface ResultDns {
  readonly nameservers?: readonly string[];
  readonly domain?: string;
  readonly search?: readonly string[];
  readonly options?: readonly string[];
}

export interface CniResult {
  readonly interfaces: readonly ResultInterface[];
  readonly ips: readonly ResultIp[];
  readonly routes: readonly ResultRoute[];
  readonly dns: ResultDns;
}

export const emptyResult: CniResult = { interfaces: [], ips: [], routes: [], dns: {} };

function refuse(field: string, problem: string): never {
  throw new OvpnError('CniConfigInvalid', problem, { field });
}

/** The prevResult of a chain, in any known version; without a version of its own it has the configuration's. */
export function parsePrevResult(value: unknown): CniResult {
  if (value === undefined) {
    return emptyResult;
  }
  const reader = new Reader(value, 'prevResult', refuse);
  const version = reader.optionalString('cniVersion');
  if (version !== undefined && version !== '' && !isSupportedVersion(version)) {
    reader.refuse('cniVersion', `version ${quote(version)} has another form of result than this plugin knows`);
  }
  const interfaces = reader.objects('interfaces').map((entry) => ({
    name: entry.string('name'),
    ...present<Omit<ResultInterface, 'name'>>({
      mac: entry.optionalString('mac'),
      mtu: entry.optionalUint('mtu'),
      sandbox: entry.optionalString('sandbox'),
      socketPath: entry.optionalString('socketPath'),
      pciID: entry.optionalString('pciID'),
    }),
  }));
  const ips = reader.objects('ips').map((entry) => {
    const index = entry.optionalUint('interface');
    if (index !== undefined && index >= interfaces.length) {
      entry.refuse('interface', `is ${index}, but there are ${interfaces.length} interfaces`);
    }
    return {
      address: parsePrefix(entry, 'address'),
      ...present<Omit<ResultIp, 'address' | 'version'>>({
        interface: index,
        gateway: entry.optionalString('gateway'),
      }),
    };
  });
  const routes = reader.objects('routes').map((entry) => ({
    dst: parsePrefix(entry, 'dst'),
    ...present<Omit<ResultRoute, 'dst'>>({
      gw: entry.optionalString('gw'),
      mtu: entry.optionalUint('mtu'),
      advmss: entry.optionalUint('advmss'),
      priority: entry.optionalUint('priority'),
      table: entry.optionalUint('table'),
      scope: entry.optionalUint('scope'),
    }),
  }));
  return { interfaces, ips, routes, dns: parseDns(reader.optionalObject('dns')) };
}

function parseDns(dns: Reader | undefined): ResultDns {
  if (dns === undefined) {
    return {};
  }
  const list = (key: string): readonly string[] | undefined => {
    const strings = dns.strings(key);
    return strings.length === 0 ? undefined : strings;
  };
  return present<ResultDns>({
    nameservers: list('nameservers'),
    domain: dns.optionalString('domain'),
    search: list('search'),
    options: list('options'),
  });
}

/**
 * An earlier plugin of the chain already made this interface: the specification has ADD fail then. Told
 * before the agent is asked, so that nothing is touched.
 */
export function refuseTakenInterface(previous: CniResult, ifname: string, netns: string): void {
  if (previous.interfaces.some((entry) => entry.name === ifname && entry.sandbox === netns)) {
    refuse(
      'interface',
      `an earlier plugin of the chain made ${quote(ifname)}: a chained ovpn-cni needs a name of its own, e.g. "interface": "vpn0"`,
    );
  }
}

/** What earlier plugins reported with the attachment after it. */
export function appendAttachment(previous: CniResult, attachment: Attachment): CniResult {
  const sandboxIndex = previous.interfaces.length + 1;
  return {
    interfaces: [
      ...previous.interfaces,
      // The far end lies in the network's namespace, which is the node's and not the pod's. It has no
      // `sandbox`, since consumers (Multus' network-status) take every interface with one for the pod's.
      { name: attachment.hostInterface.name, mac: attachment.hostInterface.mac },
      { name: attachment.ifname, mac: attachment.mac, mtu: attachment.mtu, sandbox: attachment.netns },
    ],
    ips: [
      ...previous.ips,
      ...attachment.addresses.map(({ address, gateway }) => ({ interface: sandboxIndex, address, gateway })),
    ],
    routes: [...previous.routes, ...attachment.routes],
    dns: previous.dns,
  };
}

/** What of a result stands in the sandbox: what CHECK looks for. */
export function interfacesIn(result: CniResult, netns: string): readonly ExpectedInterface[] {
  return result.interfaces.flatMap(({ name, mac, mtu, sandbox }, index) => {
    const addresses = result.ips.flatMap((ip) => (ip.interface === index ? [ip.address] : []));
    return sandbox === netns ? [{ ifname: name, addresses, ...present({ mac, mtu }) }] : [];
  });
}

/** The result as JSON value in the form of that version. */
export function formatResult(result: CniResult, cniVersion: CniVersion): object {
  const isNewest = cniVersion === '1.1.0';
  const needsIpVersion = cniVersion.startsWith('0.');
  return {
    cniVersion,
    interfaces: result.interfaces.map(({ name, mac, mtu, sandbox, socketPath, pciID }) => ({
      name,
      ...present({ mac, sandbox }),
      // 1.1.0 brought these three.
      ...(isNewest ? present({ mtu, socketPath, pciID }) : {}),
    })),
    ips: result.ips.map(({ address, gateway, interface: index }) => ({
      ...(needsIpVersion ? { version: isIPv6(address.slice(0, address.indexOf('/'))) ? '6' : '4' } : {}),
      ...present({ interface: index }),
      address,
      ...present({ gateway }),
    })),
    routes: result.routes.map(({ dst, gw, ...attributes }) => ({
      dst,
      ...present({ gw }),
      // So did the route attributes; before, a route was destination and next hop.
      ...(isNewest ? attributes : {}),
    })),
    dns: result.dns,
  };
}
