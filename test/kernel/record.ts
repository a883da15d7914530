/**
 * Records real netlink messages as fixtures for the unit tests (test/fixtures/netlink/*.json). In the lab:
 *
 *   npm run lab -- --kernel uml --results test/fixtures/netlink -- node test/kernel/record.ts
 *
 * An exchange is a request and the datagrams that answered it, in hexadecimal; a notification is a datagram.
 */
import { writeFileSync, writeSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import {
  AF_NETLINK,
  close,
  MSG_TRUNC,
  recvNow,
  send,
  setsockoptInt,
  SOCK_RAW,
  socket,
} from '../../operator/src/kernel/libc.ts';
import { genericHeader } from '../../operator/src/kernel/netlink/generic.ts';
import { NLM_F_ACK, NLM_F_DUMP, RequestWriter } from '../../operator/src/kernel/netlink/message.ts';
import {
  configureNetlinkSocket,
  NETLINK_GENERIC,
  NETLINK_ROUTE,
  type Request,
} from '../../operator/src/kernel/netlink/socket.ts';
import { inNamespace } from '../../operator/src/kernel/netns.ts';
import { Attr, Command, PeerAttr } from '../../operator/src/kernel/ovpn/uapi.ts';
import { setAddress } from '../../operator/src/kernel/rtnetlink/addresses.ts';
import { newOvpnLink, newVeth, setLink } from '../../operator/src/kernel/rtnetlink/links.ts';
import { setRoute } from '../../operator/src/kernel/rtnetlink/routes.ts';
import { installKeys, keyPair, type Namespace, rawRequest, Scene, tcpPair, tunnel, tunnelPeer } from './support.ts';

interface Exchange {
  readonly about: string;
  readonly request: string;
  readonly replies: readonly string[];
}

function openRaw(namespace: Namespace, protocol: number): number {
  const fd = inNamespace(namespace.path, () => socket(AF_NETLINK, SOCK_RAW, protocol));
  configureNetlinkSocket(fd, 1 << 20);
  return fd;
}

function receiveAll(fd: number): string[] {
  const datagrams: string[] = [];
  const buffer = Buffer.alloc(128 * 1024);
  for (;;) {
    const length = recvNow(fd, buffer, MSG_TRUNC);
    if (length === undefined) return datagrams;
    datagrams.push(buffer.toString('hex', 0, length));
  }
}

function exchange(fd: number, request: Request, dump = false): Exchange {
  const writer = new RequestWriter();
  writer.begin(request.type, (request.flags ?? 0) | (dump ? NLM_F_DUMP : NLM_F_ACK));
  writer.sequence(1);
  request.write(writer);
  writer.end();
  const sent = writer.view().toString('hex');
  send(fd, writer.view(), 0);
  return { about: request.describe(), request: sent, replies: receiveAll(fd) };
}

const scene = new Scene();
const ends = tunnel(scene);
const { a, deviceA, b } = ends;
const { requests } = a.ovpn;
const genl = openRaw(a, NETLINK_GENERIC);
const notified = openRaw(a, NETLINK_GENERIC);
setsockoptInt(notified, 270, 1, a.ovpn.notificationGroup);
const pause = (ms: number): Promise<unknown> => new Promise((resolve) => setTimeout(resolve, ms));

const ovpn: Record<string, Exchange> = {};
const notifications: Record<string, readonly string[]> = {};
const other = scene.udp(a, '::');
const under = a.link('under').index;

// Fixed key material, so that the fixture shows where it goes and holds no real secret.
const direction = (fill: number): ReturnType<typeof keyPair>['here']['encrypt'] => ({
  cipherKey: Buffer.alloc(32, fill),
  nonceTail: Buffer.alloc(8, fill + 1),
});
installKeys(ends);
await b.ping('10.80.0.1', 10);

ovpn['peerNewV6'] = exchange(
  genl,
  requests.peerNew(deviceA, {
    id: 0x123456,
    txId: 0x654321,
    socket: other.fd,
    remote: { address: '2001:db8::2', port: 1194 },
    local: '2001:db8::1',
    vpnIpv6: 'fd80::6',
    keepalive: { interval: 10, timeout: 60 },
  }),
);
ovpn['peerNewScope'] = exchange(
  genl,
  requests.peerNew(deviceA, {
    id: 3,
    socket: other.fd,
    remote: { address: 'fe80::3', port: 1195, scopeId: under },
    vpnIpv4: '10.80.0.33',
    vpnIpv6: 'fd80::33',
  }),
);
ovpn['peerGetV4'] = exchange(genl, requests.peerGet(deviceA, tunnelPeer));
ovpn['peerGetV6'] = exchange(genl, requests.peerGet(deviceA, 0x123456));
ovpn['peerGetScope'] = exchange(genl, requests.peerGet(deviceA, 3));
ovpn['peerGetMissing'] = exchange(genl, requests.peerGet(deviceA, 99));
ovpn['peerDump'] = exchange(genl, requests.peerDump(deviceA), true);
ovpn['peerDumpNoDevice'] = exchange(genl, requests.peerDump(99_999), true);
ovpn['keyNew'] = exchange(
  genl,
  requests.keyNew(deviceA, {
    peerId: 3,
    slot: 'secondary',
    keyId: 5,
    cipher: 'CHACHA20-POLY1305',
    encrypt: direction(0x11),
    decrypt: direction(0x21),
  }),
);
ovpn['keyGet'] = exchange(genl, requests.keyGet(deviceA, 3, 'secondary'));
ovpn['keyGetEmpty'] = exchange(genl, requests.keyGet(deviceA, 3, 'primary'));
ovpn['badSocket'] = exchange(
  genl,
  requests.peerNew(deviceA, {
    id: 50,
    socket: 100_000,
    remote: { address: '192.0.2.9', port: 1 },
    vpnIpv4: '10.80.0.50',
  }),
);
ovpn['missingSocket'] = exchange(
  genl,
  rawRequest(a, Command.PeerNew, (writer) => {
    writer.u32(Attr.Ifindex, deviceA);
    writer.nest(Attr.Peer, () => {
      writer.u32(PeerAttr.Id, 1);
    });
  }),
);
ovpn['unknownAttribute'] = exchange(
  genl,
  rawRequest(a, Command.PeerGet, (writer) => {
    writer.u32(Attr.Ifindex, deviceA);
    writer.nest(Attr.Peer, () => {
      writer.u32(PeerAttr.Id, 1);
      writer.u32(99, 1);
    });
  }),
);
ovpn['resolve'] = exchange(genl, {
  type: 16,
  describe: () => 'resolve ovpn',
  write: (writer) => {
    writer.raw(genericHeader(3));
    writer.string(2, 'ovpn');
  },
});

receiveAll(notified);
// Float, over IPv4 and IPv6: the same peer from another port.
for (const [name, underlay] of [
  ['floatV4', 4],
  ['floatV6', 6],
] as const) {
  const floating = tunnel(scene, underlay);
  const group = openRaw(floating.a, NETLINK_GENERIC);
  setsockoptInt(group, 270, 1, floating.a.ovpn.notificationGroup);
  const moved = scene.udp(floating.b, underlay === 4 ? '192.0.2.2' : '2001:db8::2');
  const server = underlay === 4 ? '192.0.2.1' : '2001:db8::1';
  floating.b.ovpn.send(
    floating.b.ovpn.requests.peerNew(floating.deviceB, {
      id: tunnelPeer,
      socket: moved.fd,
      remote: { address: server, port: floating.socketA.port },
    }),
  );
  installKeys(floating);
  await floating.b.ping('10.80.0.1', 2);
  notifications[name] = receiveAll(group);
  close(group);
}
a.ovpn.send(requests.peerDel(deviceA, 3));
notifications['userspace'] = receiveAll(notified);
a.ovpn.send(requests.peerSet(deviceA, { id: 0x123456, keepalive: { interval: 1, timeout: 1 } }));
await pause(4_000);
notifications['expired'] = receiveAll(notified);
scene.closeFd(ends.socketA.fd);
await pause(200);
notifications['transportDisconnect'] = receiveAll(notified);
const doomed = scene.udp(a);
const second = a.device('p2p', [], 'doomed');
a.ovpn.send(requests.peerNew(second, { id: 8, socket: doomed.fd, remote: { address: '192.0.2.9', port: 1 } }));
a.deleteDevice(second);
notifications['teardown'] = receiveAll(notified);
const tcp = tcpPair(scene, a);
a.ovpn.send(requests.peerNew(deviceA, { id: 9, socket: tcp.server, vpnIpv4: '10.80.0.9' }));
writeSync(tcp.client, Buffer.from([0, 2, 0x48, 0]));
await pause(200);
notifications['transportError'] = receiveAll(notified);

const rtnl: Record<string, Exchange> = {};
const route = openRaw(b, NETLINK_ROUTE);
rtnl['newMp'] = exchange(route, newOvpnLink({ name: 'rec-mp', mode: 'mp', index: 4711, mtu: 1400 }));
rtnl['newP2p'] = exchange(route, newOvpnLink({ name: 'rec-p2p', mode: 'p2p' }));
rtnl['newVeth'] = exchange(
  route,
  newVeth({ name: 'rec-veth', mtu: 1400, mac: '02:00:00:00:00:01', peer: { name: 'rec-peer', namespaceFd: 100_000 } }),
);
rtnl['setLink'] = exchange(route, setLink(4711, { up: true, alias: 'recorded' }));
rtnl['setAddressV4'] = exchange(route, setAddress(4711, '10.81.0.1/24'));
rtnl['setAddressV6'] = exchange(route, setAddress(4711, 'fd81::1/64'));
rtnl['setRouteV4'] = exchange(
  route,
  setRoute({ destination: '10.82.0.0/16', type: 'unicast', gateway: '10.81.0.2', index: 4711, metric: 50, mtu: 1300 }),
);
rtnl['setRouteV6'] = exchange(
  route,
  setRoute({ destination: 'fd82::/64', type: 'unicast', gateway: 'fd81::2', index: 4711, metric: 1024 }),
);
rtnl['setUnreachable'] = exchange(route, setRoute({ destination: '10.83.0.0/16', type: 'unreachable', metric: 4000 }));
const dumpOf = (type: number, about: string, header: Buffer): Request => ({
  type,
  describe: () => about,
  write: (writer) => {
    writer.raw(header);
  },
});
rtnl['links'] = exchange(route, dumpOf(18, 'all links', Buffer.alloc(16)), true);
rtnl['addresses'] = exchange(route, dumpOf(22, 'all addresses', Buffer.alloc(8)), true);
rtnl['routesV4'] = exchange(
  route,
  dumpOf(26, 'all IPv4 routes', Buffer.concat([Buffer.from([2]), Buffer.alloc(11)])),
  true,
);
rtnl['routesV6'] = exchange(
  route,
  dumpOf(26, 'all IPv6 routes', Buffer.concat([Buffer.from([10]), Buffer.alloc(11)])),
  true,
);
rtnl['missingLink'] = exchange(route, setLink(99_999, { up: true }));

const folder = process.env['LAB_RESULTS'] ?? '.';
const kernel = release();
const ids = { deviceA, under, family: a.ovpn.familyId, portA: ends.socketA.port, portB: ends.socketB.port };
for (const [name, recorded] of Object.entries({ ovpn, notifications, rtnl })) {
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify({ kernel, ids, recorded }, undefined, 2)}\n`);
}
await scene.close();
