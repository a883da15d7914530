import { describe, expect, test } from '@jest/globals';
import { type DataPacket, dataPackets, nonceUse } from './wire.ts';

const data = (keyId: number, packetId: number): Buffer => {
  const packet = Buffer.alloc(40);
  packet.writeUInt8((9 << 3) | keyId, 0);
  packet.writeUInt32BE(packetId, 4);
  return packet;
};

/** An Ethernet frame of IPv4 from 10.0.0.1 to 10.0.0.2. */
function ipv4(protocol: 6 | 17, payload: Buffer): Buffer {
  const header = Buffer.alloc(14 + 20);
  header.writeUInt16BE(0x0800, 12);
  header.writeUInt8(0x45, 14);
  header.writeUInt16BE(20 + payload.length, 16);
  header.writeUInt8(protocol, 14 + 9);
  header.set([10, 0, 0, 1], 14 + 12);
  header.set([10, 0, 0, 2], 14 + 16);
  // Ethernet pads short frames.
  return Buffer.concat([header, payload, Buffer.alloc(6)]);
}

const udp = (body: Buffer): Buffer => {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(40_000, 0);
  header.writeUInt16BE(1194, 2);
  return ipv4(17, Buffer.concat([header, body]));
};

const tcp = (sequence: number, body: Buffer, flags = 0x18): Buffer => {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(40_000, 0);
  header.writeUInt16BE(1194, 2);
  header.writeUInt32BE(sequence >>> 0, 4);
  header.writeUInt8(5 << 4, 12);
  header.writeUInt8(flags, 13);
  return ipv4(6, Buffer.concat([header, body]));
};

const framed = (packet: Buffer): Buffer => {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(packet.length);
  return Buffer.concat([length, packet]);
};

const idsOf = (frames: readonly Buffer[]): number[] => [...dataPackets(frames, 1194)].map(({ packetId }) => packetId);

describe('data packets on the wire', () => {
  test('over UDP, among control packets and packets of others', () => {
    const control = Buffer.alloc(40, 4 << 3);
    expect(idsOf([udp(data(1, 7)), udp(control), udp(data(1, 8))])).toEqual([7, 8]);
    expect([...dataPackets([udp(data(3, 7))], 1195)]).toEqual([]);
  });

  test('over TCP, cut anywhere, sent again, and out of order; sequence numbers pass 2³²', () => {
    const stream = Buffer.concat([1, 2, 3, 4, 5].map((id) => framed(data(2, id))));
    const first = 0xffff_fff0;
    const piece = (from: number, to: number): Buffer => tcp(first + 1 + from, stream.subarray(from, to));
    const frames = [tcp(first, Buffer.alloc(0), 2), piece(0, 5), piece(60, 130), piece(5, 61), piece(3, 70)];
    expect(idsOf([...frames, piece(130, stream.length)])).toEqual([1, 2, 3, 4, 5]);
  });
});

describe('the use of nonces', () => {
  const use = (packets: readonly (readonly [number, number])[]) =>
    nonceUse(packets.map(([keyId, packetId]): DataPacket => ({ flow: 'f', keyId, packetId }))).get('f');

  test('key after key, late packets of the one before, and key ids that come round again', () => {
    const keys = [0, 1, 2, 3, 4, 5, 6, 7, 1, 2];
    const packets = keys.flatMap((keyId) => [1, 2, 3].map((id) => [keyId, id] as const));
    const late = packets.flatMap((packet, n) =>
      n % 3 === 0 && n > 0 ? [packet, [keys[n / 3 - 1]!, 4] as const] : [packet],
    );
    expect(use(late)).toEqual({ keys: keys.length, packets: late.length, repeated: [] });
  });

  test('a key that begins anew is seen, also after the next one has begun', () => {
    const twice = [
      [1, 1],
      [1, 2],
      [1, 1],
    ] as const;
    expect(use(twice)?.repeated).toEqual([{ keyId: 1, packetId: 1 }]);
    const later = [...twice.slice(0, 2), [2, 1], [1, 2], [1, 3]] as const;
    expect(use(later)?.repeated).toEqual([{ keyId: 1, packetId: 2 }]);
  });
});
