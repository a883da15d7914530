/**
 * A flood of first packets of OpenVPN's handshake from many source ports: the start of connections that nobody
 * means to make.
 *
 * node first-packets.ts SETUP (JSON of FloodSetup)
 */
import { randomBytes } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { parseStaticKey } from '../../../operator/src/openvpn/static-key.ts';
import { SessionWrapper, type WrapConfig } from '../../../operator/src/openvpn/wrap/session-wrapper.ts';
import { type FloodAnswer, type FloodSetup, floodAddress } from '../suites/handshake-load.ts';

const setup = JSON.parse(process.argv[2] ?? '') as FloodSetup;
/** Made before the clock starts, and sent over and over: each arrival is a first packet, as servers keep no state of it. */
const distinctPackets = 1000;

const wrap: WrapConfig =
  setup.tlsCryptKey === undefined
    ? { kind: 'none' }
    : { kind: 'tls-crypt', key: parseStaticKey(readFileSync(setup.tlsCryptKey, 'utf8'), {}) };

function firstPacket(): Buffer {
  const wrapper = new SessionWrapper(wrap, { role: 'client', transport: 'udp', clock: () => Date.now() });
  const packet = wrapper.wrap({
    opcode: 'hard-reset-client-v2',
    keyId: 0,
    sessionId: randomBytes(8),
    acks: [],
    peerSessionId: undefined,
    messageId: 0,
    payload: Buffer.alloc(0),
  });
  return setup.kind === 'valid' ? packet : Buffer.concat([packet.subarray(0, 1), randomBytes(packet.length - 1)]);
}

const packets = Array.from({ length: distinctPackets }, firstPacket);
const sockets: Socket[] = [];
for (let i = 0; i < setup.sockets; i++) {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 4096 });
  socket.bind(0, floodAddress(i));
  await once(socket, 'listening');
  socket.connect(setup.server.port, setup.server.address);
  await once(socket, 'connect');
  socket.on('error', () => undefined);
  sockets.push(socket);
}
process.send?.({ sent: 0, seconds: 0 } satisfies FloodAnswer);

let sent = 0;
const start = performance.now();
const elapsed = (): number => (performance.now() - start) / 1000;
const send = (): void => {
  const socket = sockets[sent % sockets.length];
  const packet = packets[sent % packets.length];
  if (socket !== undefined && packet !== undefined) socket.send(packet, () => undefined);
  sent++;
};
while (elapsed() < setup.seconds) {
  const due = setup.rate === 0 ? sent + 32 : Math.floor(elapsed() * setup.rate);
  while (sent < due) send();
  await (setup.rate === 0 ? turn() : sleep(1));
}
process.send?.({ sent, seconds: elapsed() } satisfies FloodAnswer);
// The parent ends this process; until then its sockets take in what is answered.
