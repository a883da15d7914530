/**
 * The server side of the control channel alone (operator/src/openvpn/endpoint): no resources, no reports, and
 * every client is taken in without a word to the kernel. What the agent costs beyond this is its own.
 *
 * node endpoint.ts SETUP (JSON of EndpointSetup)
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { DatagramSocket } from '../../../operator/src/kernel/datagram-socket.ts';
import { ReadinessPoller } from '../../../operator/src/kernel/poller.ts';
import { openUdpSocket } from '../../../operator/src/kernel/transport-socket.ts';
import { OpenvpnServer } from '../../../operator/src/openvpn/endpoint/server.ts';
import type { ServerOwner } from '../../../operator/src/openvpn/endpoint/server-settings.ts';
import { systemScheduler } from '../../../operator/src/openvpn/session/scheduler.ts';
import { parseStaticKey } from '../../../operator/src/openvpn/static-key.ts';
import { tlsServer } from '../../../operator/src/openvpn/tls/tls-endpoint.ts';
import type { EndpointSetup } from '../suites/handshake-servers.ts';

const { pki, tlsCrypt, address, port, repliesPerSecond } = JSON.parse(process.argv[2] ?? '') as EndpointSetup;
const read = (file: string): string => readFileSync(file, 'utf8');

const all = { burst: 1e6, perSecond: 1e6 };
let nextPeerId = 0;
const owner: ServerOwner = {
  authenticated: (client) => {
    const peerId = nextPeerId++;
    client.accept({
      peerId,
      topology: 'subnet',
      routeGateway: '10.96.0.1',
      ifconfig: { address: `10.96.${(peerId >> 8) & 255}.${peerId & 255}`, second: '255.255.0.0' },
      pingSeconds: 600,
      pingRestartSeconds: 3600,
      tunMtu: 1500,
    });
  },
  established: (client) => client.confirm(),
  rekeyed: () => undefined,
  rekeying: () => undefined,
  keyConfirmed: () => undefined,
  rekeyFailed: () => undefined,
  displaced: () => undefined,
  ended: () => undefined,
  failed: (_path, _listener, reason) => void process.stderr.write(`${reason}\n`),
  recheck: () => undefined,
};
const server = new OpenvpnServer(
  {
    wrap: tlsCrypt ? { kind: 'tls-crypt', key: parseStaticKey(read(pki.tlsCryptKey), {}) } : { kind: 'none' },
    tls: tlsServer({ ca: read(pki.ca), cert: read(pki.serverCert), key: read(pki.serverKey), minVersion: 'TLSv1.3' }),
    ciphers: ['AES-256-GCM'],
    tunMtu: 1500,
    // All clients are on one machine.
    limits: { halfOpen: 10_000, halfOpenPerSource: 10_000, repliesPerSecond, begins: all, beginsPerSource: all },
  },
  owner,
  { scheduler: systemScheduler, random: randomBytes, clock: () => Date.now() },
);
const fd = openUdpSocket({ address, port });
const socket: DatagramSocket = new DatagramSocket(fd, new ReadinessPoller(), (packet, path) =>
  endpoint.receive(packet, path),
);
const endpoint = server.openDatagram('udp', (packet, path) => void socket.send(packet, path));
process.on('SIGTERM', () => process.exit(0));
process.stdout.write('Serving\n');
