import { parseCidr } from '../../api/ip.ts';
import { netmask } from '../../openvpn/negotiate/address.ts';
import type { PushedRoute } from '../../openvpn/negotiate/push.ts';
import type { Offer } from '../../openvpn/session/server-session.ts';
import type { DesiredDialIn, PushedToAll } from './desired-session.ts';

/**
 * What one client is told when it is taken in (openvpn(8), "--push"). Routes and DNS servers of a family that the
 * client has no address of are left out: it could reach them past the tunnel only. DNS goes in both forms: clients older than OpenVPN 2.6 would
 * know only dhcp-option, and one that knows `dns` takes that alone. The DNS of the cluster goes before that of the network.
 */
export function offerTo(client: DesiredDialIn, network: PushedToAll, peerId: number): Offer {
  const { vpnIpv4, vpnIpv6, keepalive, cluster } = client;
  // What is behind the client itself is not to be sent to us.
  const own = new Set(client.routes.map(({ destination }) => destination));
  const told = new Set([...network.routes, ...(cluster?.routes ?? [])]);
  const routes = [...told].filter((destination) => !own.has(destination)).flatMap(pushedRoute);
  const v6 = (route: PushedRoute): boolean => isV6(route.network.address);
  const ofItsFamilies = (servers: readonly string[]): readonly string[] =>
    servers.filter((server) => (isV6(server) ? vpnIpv6 : vpnIpv4) !== undefined);
  // Clients use one set of servers, the first of those that they are told (openvpn(8), "--dns").
  const ofCluster = ofItsFamilies(cluster?.dnsServers ?? []);
  const dnsServers = ofCluster.length > 0 ? ofCluster : ofItsFamilies(network.dnsServers);
  const resolveDomains = ofCluster.length > 0 ? (cluster?.dnsDomains ?? []) : [];
  return {
    peerId,
    topology: 'subnet',
    ...(vpnIpv4 === undefined ? {} : { ifconfig: { address: vpnIpv4, second: netmask(network.lengthIpv4) } }),
    ...(vpnIpv6 === undefined
      ? {}
      : { ifconfigIpv6: { address: vpnIpv6, length: network.lengthIpv6, gateway: network.gatewayIpv6 } }),
    ...(vpnIpv4 === undefined || network.gatewayIpv4 === undefined ? {} : { routeGateway: network.gatewayIpv4 }),
    routes: vpnIpv4 === undefined ? [] : routes.filter((route) => !v6(route)),
    routesIpv6: vpnIpv6 === undefined ? [] : routes.filter(v6),
    pingSeconds: keepalive.interval,
    pingRestartSeconds: keepalive.timeout,
    tunMtu: network.mtu,
    dhcpOptions: [
      ...dnsServers.map((value) => ({ type: isV6(value) ? 'DNS6' : 'DNS', value })),
      ...network.searchDomains.map((value) => ({ type: 'DOMAIN-SEARCH', value })),
    ],
    dnsServers: dnsServers.length === 0 ? [] : [{ priority: 0, addresses: dnsServers, resolveDomains }],
    dnsSearchDomains: network.searchDomains,
  };
}

function isV6(address: string): boolean {
  return address.includes(':');
}

function pushedRoute(destination: string): PushedRoute[] {
  const range = parseCidr(destination);
  if (range === undefined) return [];
  const [address = ''] = range.text.split('/');
  return [{ network: { address, length: range.prefix } }];
}
