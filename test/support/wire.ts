import { closeSync, openSync, readSync } from 'node:fs';
import { SequenceTally } from './sequence-tally.ts';

/** What a capture of the underlay shows of OpenVPN's data channel, without any key. */

/** One data packet (P_DATA_V2) on its way. */
export interface DataPacket {
  /** Protocol, from and to, as text. */
  readonly flow: string;
  readonly keyId: number;
  /** From which, and from the key, the nonce is made. */
  readonly packetId: number;
}

const dataV2 = 9;

function dataPacket(flow: string, bytes: Buffer): DataPacket[] {
  const first = bytes[0] ?? 0;
  // op and key id (1), peer id (3), packet id (4)
  return bytes.length >= 8 && first >> 3 === dataV2
    ? [{ flow, keyId: first & 7, packetId: bytes.readUInt32BE(4) }]
    : [];
}

/**
 * The packets of a capture file of an Ethernet device, as tcpdump writes it (pcap(5)).
 *
 * @throws Error when it is none, or has not all of each packet
 */
export function* ethernetFrames(file: string): Generator<Buffer> {
  const fd = openSync(file, 'r');
  const read = (bytes: number): Buffer => {
    const buffer = Buffer.alloc(bytes);
    let got = 0;
    for (let now = -1; got < bytes && now !== 0; got += now) now = readSync(fd, buffer, got, bytes - got, null);
    return buffer.subarray(0, got);
  };
  try {
    const header = read(24);
    if (header.length < 24 || header.readUInt32LE(0) !== 0xa1b2c3d4 || header.readUInt32LE(20) !== 1)
      throw new Error(`${file} is no capture of Ethernet`);
    for (;;) {
      const record = read(16);
      if (record.length < 16) return;
      const length = record.readUInt32LE(8);
      if (length !== record.readUInt32LE(12)) throw new Error(`${file} has not all of a packet`);
      const frame = read(length);
      // The last one, if the capture was killed.
      if (frame.length < length) return;
      yield frame;
    }
  } finally {
    closeSync(fd);
  }
}

/**
 * The data packets to and from one port, over UDP and, put together again, over TCP connections whose beginnings are
 * there.
 */
export function* dataPackets(frames: Iterable<Buffer>, port: number): Generator<DataPacket> {
  const streams = new Map<string, Stream>();
  for (const frame of frames) {
    const packet = ipPacket(frame);
    if (packet === undefined) continue;
    const { protocol, source, destination, payload } = packet;
    const [from, to] = [payload.readUInt16BE(0), payload.readUInt16BE(2)];
    if (from !== port && to !== port) continue;
    const flow = `${protocol} ${source} ${from} > ${destination} ${to}`;
    if (protocol === 'udp') {
      yield* dataPacket(flow, payload.subarray(8));
      continue;
    }
    const sequence = payload.readUInt32BE(4);
    const isSyn = ((payload[13] ?? 0) & 2) !== 0;
    if (isSyn) streams.set(flow, new Stream(sequence + 1));
    const body = payload.subarray(((payload[12] ?? 0) >> 4) * 4);
    for (const message of streams.get(flow)?.take(sequence, body) ?? []) yield* dataPacket(flow, message);
  }
}

interface IpPacket {
  readonly protocol: 'udp' | 'tcp';
  readonly source: string;
  readonly destination: string;
  /** From the transport's header on. */
  readonly payload: Buffer;
}

/** UDP and TCP over IPv4 and, without extension headers, IPv6; whole packets only. */
function ipPacket(frame: Buffer): IpPacket | undefined {
  const ip = frame.subarray(14);
  const protocols = new Map([
    [6, 'tcp'],
    [17, 'udp'],
  ] as const);
  switch (frame.readUInt16BE(12)) {
    case 0x0800: {
      const protocol = protocols.get((ip[9] ?? 0) as 6 | 17);
      // More fragments, or an offset.
      if (protocol === undefined || (ip.readUInt16BE(6) & 0x3fff) !== 0) return undefined;
      const payload = ip.subarray(((ip[0] ?? 0) & 15) * 4, ip.readUInt16BE(2));
      return { protocol, source: ip.toString('hex', 12, 16), destination: ip.toString('hex', 16, 20), payload };
    }
    case 0x86dd: {
      const protocol = protocols.get((ip[6] ?? 0) as 6 | 17);
      if (protocol === undefined) return undefined;
      const payload = ip.subarray(40, 40 + ip.readUInt16BE(4));
      return { protocol, source: ip.toString('hex', 8, 24), destination: ip.toString('hex', 24, 40), payload };
    }
    default:
      return undefined;
  }
}

/** One direction of a TCP connection, cut into OpenVPN's messages: a length of two bytes before each. */
class Stream {
  /** The sequence number after what has been taken. */
  #next: number;
  #rest: Buffer = Buffer.alloc(0);
  readonly #ahead = new Map<number, Buffer>();

  constructor(first: number) {
    this.#next = first >>> 0;
  }

  take(sequence: number, bytes: Buffer): Buffer[] {
    if (bytes.length > 0) this.#ahead.set(sequence, bytes);
    for (let found = true; found;) {
      found = false;
      for (const [at, piece] of this.#ahead) {
        // What of it is there already; negative when something before it is missing.
        const known = (this.#next - at) | 0;
        if (known < 0) continue;
        this.#ahead.delete(at);
        if (known >= piece.length) continue;
        this.#rest = Buffer.concat([this.#rest, piece.subarray(known)]);
        this.#next = (at + piece.length) >>> 0;
        found = true;
      }
    }
    const messages: Buffer[] = [];
    while (this.#rest.length >= 2 && this.#rest.length >= 2 + this.#rest.readUInt16BE(0)) {
      const end = 2 + this.#rest.readUInt16BE(0);
      messages.push(this.#rest.subarray(2, end));
      this.#rest = this.#rest.subarray(end);
    }
    return messages;
  }
}

/** What was sent in one direction between two ends. */
export interface NonceUse {
  /** How many keys there were, one after the other. */
  readonly keys: number;
  readonly packets: number;
  /** Packet ids that came once more under the same key, the first few. */
  readonly repeated: readonly { readonly keyId: number; readonly packetId: number }[];
}

interface KeyOnWire {
  readonly keyId: number;
  readonly ids: SequenceTally;
}

/**
 * Which packet ids each key was used with. There are eight key ids, which come round again, and no more than two keys
 * at a time: an id that is neither of the two latest is a new key's.
 */
export function nonceUse(packets: Iterable<DataPacket>): Map<string, NonceUse> {
  const flows = new Map<string, KeyOnWire[]>();
  const repeated = new Map<string, { keyId: number; packetId: number }[]>();
  for (const { flow, keyId, packetId } of packets) {
    const keys = flows.get(flow) ?? [];
    flows.set(flow, keys);
    let key = keys.slice(-2).find((each) => each.keyId === keyId);
    if (key === undefined) {
      key = { keyId, ids: new SequenceTally() };
      keys.push(key);
    }
    const { duplicates } = key.ids.tally;
    key.ids.take(packetId);
    if (key.ids.tally.duplicates === duplicates) continue;
    repeated.set(flow, [...(repeated.get(flow) ?? []), { keyId, packetId }].slice(0, 20));
  }
  return new Map(
    [...flows].map(([flow, keys]) => [
      flow,
      {
        keys: keys.length,
        packets: keys.reduce((sum, { ids }) => sum + ids.tally.received, 0),
        repeated: repeated.get(flow) ?? [],
      },
    ]),
  );
}
