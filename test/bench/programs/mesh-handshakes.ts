/**
 * The handshakes of a mesh that starts: nodes with a listener each, of every two of which one dials the other, as the
 * agent does it (OpenvpnServer, Dialer, sockets of operator/src/kernel), over loopback. No agent and no kernel peers.
 * Some of the nodes are in this process, all of them or a part. The parent says when all listen, and when all are done.
 *
 * node mesh-handshakes.ts SETUP (JSON of HandshakesSetup)
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dials } from '../../../operator/src/agent/mesh/plan-mesh.ts';
import { introduction } from '../../../operator/src/agent/sessions/neighbour.ts';
import { kernelConnector } from '../../../operator/src/agent/sessions/connector.ts';
import { firstMeshPeerId } from '../../../operator/src/api/vpn-peer.ts';
import { DatagramSocket } from '../../../operator/src/kernel/datagram-socket.ts';
import { ReadinessPoller } from '../../../operator/src/kernel/poller.ts';
import { openUdpSocket } from '../../../operator/src/kernel/transport-socket.ts';
import { Dialer, type DialerOwner } from '../../../operator/src/openvpn/endpoint/dialer.ts';
import { OpenvpnServer } from '../../../operator/src/openvpn/endpoint/server.ts';
import type { ServerOwner } from '../../../operator/src/openvpn/endpoint/server-settings.ts';
import { systemScheduler } from '../../../operator/src/openvpn/session/scheduler.ts';
import { parseStaticKey } from '../../../operator/src/openvpn/static-key.ts';
import { tlsClient, tlsServer } from '../../../operator/src/openvpn/tls/tls-endpoint.ts';
import { clientCert } from '../suites/handshake-pki.ts';
import { type HandshakesAnswer, type HandshakesSetup, meshAddress } from '../suites/mesh-handshakes.ts';

const { pki, nodes, first, count, port } = JSON.parse(process.argv[2] ?? '') as HandshakesSetup;
const read = (file: string): string => readFileSync(file, 'utf8');
const files = { ca: read(pki.ca), cert: read(pki.serverCert), key: read(pki.serverKey) };
const wrap = { kind: 'tls-crypt', key: parseStaticKey(read(pki.tlsCryptKey), {}) } as const;
const minVersion = 'TLSv1.3' as const;
const ciphers = ['AES-256-GCM'] as const;
const tunMtu = 1400;
/** Handshakes under way: one processor has the work of all nodes, and they would all take as long as the last. */
const atOnce = 100;
const all = { burst: 1e6, perSecond: 1e6 };
// As the agent's (network-server.ts), but for those by address: all nodes come from one here.
const limits = { halfOpen: 1024, halfOpenPerSource: 1024, repliesPerSecond: 1000, begins: all, beginsPerSource: all };
const environment = { scheduler: systemScheduler, random: randomBytes, clock: () => Date.now() };
const poller = new ReadinessPoller();
// Nodes are given by their addresses.
const names = { resolve: (host: string) => Promise.resolve([host]) };

const failures: string[] = [];
let [confirmed, established] = [0, 0];
let told: () => void = () => undefined;

function listen(index: number): void {
  let nextPeerId = firstMeshPeerId;
  const owner: ServerOwner = {
    authenticated: (client) => {
      const peerId = nextPeerId++;
      client.accept({
        ...{
          peerId,
          topology: 'subnet',
          routeGateway: '10.96.0.1',
          pingSeconds: 600,
          pingRestartSeconds: 3600,
          tunMtu,
        },
        ifconfig: { address: `10.96.${(peerId >> 8) & 255}.${peerId & 255}`, second: '255.255.0.0' },
      });
    },
    established: (client) => {
      client.confirm();
      confirmed++;
      told();
    },
    rekeyed: () => undefined,
    rekeying: () => undefined,
    keyConfirmed: () => undefined,
    rekeyFailed: () => undefined,
    ended: () => undefined,
    displaced: () => undefined,
    failed: (_path, _listener, reason) => void failures.push(reason),
    recheck: () => undefined,
  };
  const settings = { wrap, tls: tlsServer({ ...files, minVersion }), ciphers, tunMtu, limits };
  const server = new OpenvpnServer(settings, owner, environment);
  const fd = openUdpSocket({ address: meshAddress(index), port });
  const socket: DatagramSocket = new DatagramSocket(fd, poller, (packet, path) => endpoint.receive(packet, path));
  const endpoint = server.openDatagram('udp', (packet, path) => void socket.send(packet, path));
}

const times: number[] = [];
const client = { ca: files.ca, cert: read(clientCert(pki, 0)), key: read(pki.clientKey), minVersion };
// As one node's neighbours, which all share the credentials of the mesh.
const tls = Array.from({ length: nodes }, () => tlsClient(client, { remoteCertTls: 'server' }));

function dial(from: number, to: number): Dialer {
  let began = 0;
  const owner: DialerOwner = {
    connecting: () => (began ||= performance.now()),
    established: (tunnel) => {
      tunnel.handOver(() => true);
      times.push(performance.now() - began);
      established++;
      told();
    },
    rekeying: () => undefined,
    rekeyed: () => undefined,
    keyConfirmed: () => undefined,
    rekeyFailed: () => undefined,
    lost: (reason) => void failures.push(reason),
  };
  const settings = {
    remotes: [{ host: meshAddress(to), port, transport: 'udp' as const }],
    ...{ wrap, ciphers, version: 'bench', maxTunMtu: tunMtu, tunMtu, renegotiateSeconds: 0 },
    tls: tls[from] ?? tlsClient(client, { remoteCertTls: 'server' }),
    peerInfo: () => introduction(`node-${from}`, firstMeshPeerId + to),
  };
  return new Dialer(
    settings,
    owner,
    kernelConnector(poller, names, () => undefined),
    environment,
  );
}

const name = (index: number): string => `node-${index + 1}`;
const everybody = Array.from({ length: nodes }, (_, index) => index);
const own = everybody.slice(first, first + count);
const dialers = own.flatMap((from) =>
  everybody.filter((to) => to !== from && dials(name(from), name(to))).map((to) => dial(from, to)),
);
for (const index of own) listen(index);

async function start(): Promise<void> {
  const before = process.memoryUsage().rss;
  const cpu = process.cpuUsage();
  const begun = performance.now();
  await new Promise<void>((resolve) => {
    let started = 0;
    told = () => {
      while (started < dialers.length && started < established + atOnce) dialers[started++]?.start();
      if (established >= dialers.length && confirmed >= count * (nodes - 1) - dialers.length) resolve();
    };
    told();
  });
  const { user, system } = process.cpuUsage(cpu);
  process.send?.({
    handshakes: dialers.length,
    wallMs: performance.now() - begun,
    cpuMs: (user + system) / 1000,
    rssKiB: (process.memoryUsage().rss - before) / 1024,
    times,
    failures: failures.length,
    failure: failures[0] ?? '',
  } satisfies HandshakesAnswer);
}

process.on('message', () => void start());
process.on('disconnect', () => process.exit(0));
process.send?.('listening');
