import { isDeepStrictEqual } from 'node:util';
import { clearHeaderBytes, type ControlPacket, parseHeader } from '../../../operator/src/openvpn/wire/packet.ts';
import { unwrapClientKey, wrapClientKey } from '../../../operator/src/openvpn/wrap/client-key.ts';
import { Cookies } from '../../../operator/src/openvpn/wrap/cookie.ts';
import type { Envelope } from '../../../operator/src/openvpn/wrap/envelope.ts';
import { noEnvelope } from '../../../operator/src/openvpn/wrap/none.ts';
import { ReplyLimit } from '../../../operator/src/openvpn/wrap/reply-limit.ts';
import { SessionWrapper, type WrapConfig } from '../../../operator/src/openvpn/wrap/session-wrapper.ts';
import { StatelessStart } from '../../../operator/src/openvpn/wrap/stateless-start.ts';
import { sivKey, sivSeal, tlsCryptEnvelope } from '../../../operator/src/openvpn/wrap/tls-crypt.ts';
import { tlsAuthEnvelope } from '../../../operator/src/openvpn/wrap/tls-auth.ts';
import { errors, parsed, require, type Target } from '../target.ts';
import { piece, InputReader } from './reader.ts';
import { clientKey, recordedPackets, serverKey, tlsAuthKey, tlsCryptKey } from './recorded.ts';

const { PacketError } = errors;

/** What a server expects from a client, and how the client seals. */
interface Wrapping {
  readonly name: string;
  readonly recorded: string;
  readonly config: WrapConfig;
  readonly client: Envelope;
  /** Behind packets that carry the client's key. */
  readonly tail?: Buffer;
}

const wrappings: readonly Wrapping[] = [
  { name: 'none', recorded: 'none', config: { kind: 'none' }, client: noEnvelope },
  {
    name: 'tls-auth',
    recorded: 'tls-auth SHA256',
    config: { kind: 'tls-auth', key: tlsAuthKey, digest: 'SHA256', direction: 1 },
    client: tlsAuthEnvelope(tlsAuthKey, 'SHA256', 0),
  },
  {
    name: 'tls-crypt',
    recorded: 'tls-crypt',
    config: { kind: 'tls-crypt', key: tlsCryptKey },
    client: tlsCryptEnvelope(tlsCryptKey, 'client'),
  },
  {
    name: 'tls-crypt-v2',
    recorded: 'tls-crypt-v2',
    config: { kind: 'tls-crypt-v2-server', serverKey },
    client: tlsCryptEnvelope(clientKey.key, 'client'),
    tail: clientKey.wrapped,
  },
];

const time = 1_800_000_000;
const clock = (): number => time * 1000;

/** Packets of a client: pieces, each with a byte in front that says whether its body still has to be sealed. */
function* packetsOf(input: Buffer, { client, tail }: Wrapping): Generator<Buffer> {
  const script = new InputReader(input);
  while (!script.done) {
    const sealed = script.below(2) === 0;
    const bytes = script.piece();
    if (sealed || bytes.length < clearHeaderBytes + 8) {
      yield bytes;
      continue;
    }
    const header = bytes.subarray(0, clearHeaderBytes);
    const id = { id: bytes.readUInt32BE(clearHeaderBytes), time: bytes.readUInt32BE(clearHeaderBytes + 4) };
    const packet = client.seal(header, id, bytes.subarray(clearHeaderBytes + 8));
    const carriesKey = header[0] === 0x50 || header[0] === 0x58;
    yield carriesKey && tail !== undefined ? Buffer.concat([packet, tail]) : packet;
  }
}

/** The same packets as recorded, and opened so that mutations are sealed again. */
function packetSeeds(wrapping: Wrapping): Readonly<Record<string, Buffer>> {
  const seeds: Record<string, Buffer> = {};
  for (const [name, bytes] of Object.entries(recordedPackets(wrapping.recorded))) {
    if (wrapping.recorded === 'tls-crypt' && name.includes('tls-crypt-v2')) {
      continue;
    }
    seeds[name] = Buffer.concat([Buffer.of(0), piece(bytes)]);
  }
  const sid = Buffer.from('c1c2c3c4c5c6c7c8', 'hex');
  const inside = (first: number, id: number, body: string): Buffer => {
    const replay = Buffer.alloc(8);
    replay.writeUInt32BE(id);
    replay.writeUInt32BE(time, 4);
    return Buffer.concat([
      Buffer.of(1),
      piece(Buffer.concat([Buffer.of(first), sid, replay, Buffer.from(body, 'hex')])),
    ]);
  };
  const reset = wrapping.tail === undefined ? 0x38 : 0x50;
  const start = wrapping.tail === undefined ? 0 : 0x0f00_0000;
  seeds['sealed-here-session'] = Buffer.concat([
    inside(reset, start + 1, '0000000000'),
    inside(0x20, start + 2, '010000000051525354555657580000000116030100050102030405'),
    inside(0x28, start + 3, '02000000000000000151525354555657'.padEnd(34, '8')),
    inside(0x19, start + 4, '0000000000'),
  ]);
  seeds['sealed-here-acks'] = inside(0x28, start + 1, `08${'00000001'.repeat(8)}5152535455565758`);
  seeds['sealed-here-wkc'] = inside(0x58, start + 1, '010000000051525354555657580000000116030100050102030405');
  return seeds;
}

const unwrapTargets: readonly Target[] = wrappings.map((wrapping) => {
  const feed = (inputs: readonly Buffer[]): SessionWrapper[] =>
    (['udp', 'tcp'] as const).map((transport) => {
      const wrapper = new SessionWrapper(wrapping.config, { role: 'server', transport, clock });
      for (const bytes of inputs.flatMap((input) => [...packetsOf(input, wrapping)])) {
        unwrap(wrapper, bytes);
      }
      return wrapper;
    });
  return {
    name: `unwrap-${wrapping.name}`,
    input: 'packets of a client: 0 ‖ length ‖ as it is, or 1 ‖ length ‖ header, replay id and body to be sealed',
    run: (input) => void feed([input]),
    hold: (inputs) => feed(inputs),
    maxHeldBytes: 256 * 1024,
    seeds: () => packetSeeds(wrapping),
  };
});

function unwrap(wrapper: SessionWrapper, bytes: Buffer): ControlPacket | undefined {
  const before = JSON.stringify(wrapper.state);
  const packet = parsed(() => wrapper.unwrap(bytes), PacketError);
  if (packet === undefined) {
    return undefined;
  }
  const header = parseHeader(bytes);
  require(packet.opcode === header.opcode && packet.keyId === header.keyId, 'a packet lost its header');
  require(packet.acks.length <= 8 && (packet.peerSessionId !== undefined) === packet.acks.length > 0, 'has odd acks');
  if (before !== JSON.stringify(wrapper.state)) {
    // It is counted as seen: never again.
    require(parsed(() => wrapper.unwrap(bytes), PacketError) === undefined, 'a packet was taken twice');
  }
  return packet;
}

const statelessTargets: readonly Target[] = wrappings.map((wrapping) => ({
  name: `stateless-${wrapping.name}`,
  input: 'as unwrap-*: packets that come to a UDP server from a source that it does not know',
  run: (input) => {
    receiveAll(newStart(wrapping), [input], wrapping);
  },
  hold: (inputs) => {
    const start = newStart(wrapping);
    receiveAll(start, inputs, wrapping);
    return start;
  },
  maxHeldBytes: 256 * 1024,
  seeds: () => packetSeeds(wrapping),
}));

function newStart({ config }: Wrapping): StatelessStart {
  const cookies = new Cookies(Buffer.alloc(32, 7), clock);
  return new StatelessStart(config, { cookies, clock, limit: new ReplyLimit(clock, { most: 1000 }) });
}

function receiveAll(start: StatelessStart, inputs: readonly Buffer[], wrapping: Wrapping): void {
  const { client } = wrapping;
  const source = { address: '192.0.2.1', port: 40_000 };
  for (const bytes of inputs.flatMap((input) => [...packetsOf(input, wrapping)])) {
    const contact = start.receive(bytes, source);
    if (contact.kind === 'session') {
      throw new Error('a session began without its cookie');
    }
    if (contact.kind !== 'reply') {
      continue;
    }
    // Replies go to addresses that may be forged: never may they be many times what came.
    require(contact.bytes.length <= bytes.length + 64, `answers ${bytes.length} bytes by ${contact.bytes.length}`);
    // The cookie in it begins a session, whatever client asked; from the same place only.
    const cookie = parseHeader(contact.bytes).sessionId;
    const { sessionId } = parseHeader(bytes);
    const first = wrapping.tail === undefined ? 0x20 : 0x58;
    const header = Buffer.concat([Buffer.of(first), sessionId]);
    const body = Buffer.concat([Buffer.from('0100000000', 'hex'), cookie, Buffer.from('00000001', 'hex')]);
    const sealed = client.seal(header, { id: 0x0f00_0002, time }, body);
    const third = wrapping.tail === undefined ? sealed : Buffer.concat([sealed, wrapping.tail]);
    require(start.receive(third, source).kind === 'session', 'a good cookie began no session');
    require(start.receive(third, { ...source, port: 1 }).kind === 'drop', 'a cookie was good from elsewhere');
  }
}

/** Byte 0: 0: as it is; else the rest is key and metadata, to be sealed under the server key. */
export const wrappedClientKey: Target = {
  name: 'client-key',
  input: '0 ‖ wrapped client key, or 1 ‖ key and metadata to be sealed',
  run: (input) => {
    const inside = input.subarray(1);
    const wrapped = input[0] === 1 ? seal(inside) : inside;
    const unwrapped = parsed(() => unwrapClientKey(serverKey, wrapped), PacketError);
    if (unwrapped === undefined) {
      return;
    }
    const { key, metadata } = unwrapped;
    require(key.length === 256, `a client key of ${key.length} bytes`);
    if (metadata?.kind === 'timestamp' && !Number.isSafeInteger(metadata.seconds)) {
      return;
    }
    const again = unwrapClientKey(serverKey, wrapClientKey(serverKey, key, metadata));
    require(isDeepStrictEqual(again, unwrapped), 'a client key reads differently after formatting');
  },
  seeds: () => ({
    issued: Buffer.concat([Buffer.of(0), clientKey.wrapped]),
    'without-metadata': Buffer.concat([Buffer.of(1), clientKey.key]),
    'with-user-metadata': Buffer.concat([Buffer.of(1), clientKey.key, Buffer.from('\0hello peer')]),
    'with-timestamp': Buffer.concat([Buffer.of(1), clientKey.key, Buffer.from('010000000065000000', 'hex')]),
  }),
};

function seal(plain: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE((32 + plain.length + 2) & 0xffff);
  const { tag, secret } = sivSeal(sivKey(serverKey, 0), length, plain);
  return Buffer.concat([tag, secret, length]);
}

export const wrapTargets: readonly Target[] = [...unwrapTargets, ...statelessTargets, wrappedClientKey];
