import { run } from './run.ts';

/** What `ip` says of interfaces. */

interface LinkJson {
  readonly ifname: string;
  readonly ifalias?: string;
  readonly addr_info?: readonly { readonly local: string; readonly scope: string; readonly family: string }[];
}

/** The addresses of an interface that others can send to, IPv4 first. @param namespace a name or a path */
export async function globalAddresses(namespace: string, device: string): Promise<string[]> {
  const links = JSON.parse(
    await run('nsenter', netOption(namespace), 'ip', '-j', 'addr', 'show', 'dev', device),
  ) as LinkJson[];
  const addresses = links.flatMap(({ addr_info: info = [] }) => info).filter(({ scope }) => scope === 'global');
  return addresses.sort((one, other) => one.family.localeCompare(other.family)).map(({ local }) => local);
}

/** The ovpn devices of a namespace, with what is said of them. @param namespace a name or a path */
export async function ovpnDevices(namespace: string): Promise<{ readonly name: string; readonly alias: string }[]> {
  const text = await run('nsenter', netOption(namespace), 'ip', '-j', 'link', 'show', 'type', 'ovpn');
  const links = JSON.parse(text) as Partial<LinkJson>[];
  // With a filter, `ip` leaves an empty object for each link that does not match.
  return links.flatMap(({ ifname: name, ifalias: alias = '' }) => (name === undefined ? [] : [{ name, alias }]));
}

const netOption = (namespace: string): string =>
  `--net=${namespace.startsWith('/') ? namespace : `/run/netns/${namespace}`}`;
