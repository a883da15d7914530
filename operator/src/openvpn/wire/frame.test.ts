import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { packetErrorOf } from '../wrap/packets.fixture.ts';
import { frame, FrameReader } from './frame.ts';

const packets = fc.array(
  fc.uint8Array({ minLength: 1, maxLength: 50 }).map((bytes) => Buffer.from(bytes)),
  { minLength: 1, maxLength: 8 },
);

describe('frames on TCP', () => {
  test('any cutting of the stream gives the same packets', () => {
    fc.assert(
      fc.property(packets, fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (sent, cuts) => {
        const stream = Buffer.concat(sent.map(frame));
        const reader = new FrameReader(50);
        const received: Buffer[] = [];
        let offset = 0;
        for (let turn = 0; offset < stream.length; turn++) {
          let chunk = stream.subarray(offset, offset + cuts[turn % cuts.length]!);
          offset += chunk.length;
          while (chunk.length > 0) {
            const { consumed, packet } = reader.take(chunk);
            expect(consumed).toBeGreaterThan(0);
            chunk = chunk.subarray(consumed);
            if (packet !== undefined) {
              received.push(packet);
              expect(reader.atBoundary).toBe(true);
            }
          }
        }
        expect(received).toEqual(sent);
        expect(reader.atBoundary).toBe(true);
      }),
    );
  });

  test('reading what is wanted stops at every boundary', () => {
    fc.assert(
      fc.property(packets, (sent) => {
        const stream = Buffer.concat(sent.map(frame));
        const reader = new FrameReader(50);
        let offset = 0;
        for (const expected of sent) {
          let packet: Buffer | undefined;
          while (packet === undefined) {
            const wanted = reader.wanted;
            const taken = reader.take(stream.subarray(offset, offset + wanted));
            expect(taken.consumed).toBe(wanted);
            offset += wanted;
            packet = taken.packet;
          }
          expect(packet).toEqual(expected);
          expect(reader.atBoundary).toBe(true);
          expect(reader.wanted).toBe(2);
        }
        expect(offset).toBe(stream.length);
      }),
    );
  });

  test('leaves the bytes after a frame to the caller', () => {
    const reader = new FrameReader();
    const chunk = Buffer.from('0003aabbcc0001ddff', 'hex');
    expect(reader.take(chunk)).toEqual({ consumed: 5, packet: Buffer.from('aabbcc', 'hex') });
    expect(reader.atBoundary).toBe(true);
    expect(reader.take(chunk.subarray(5))).toEqual({ consumed: 3, packet: Buffer.from('dd', 'hex') });
    expect(reader.take(chunk.subarray(8))).toEqual({ consumed: 1, packet: undefined });
    expect(reader.atBoundary).toBe(false);
    expect(reader.wanted).toBe(1);
    expect(reader.take(Buffer.alloc(0))).toEqual({ consumed: 0, packet: undefined });
  });

  test.each([
    ['0000', 'malformed'],
    ['0033', 'too-long'],
    ['ffff', 'too-long'],
  ])('a frame of length %s is refused as %s before memory is taken', (hex, reason) => {
    const reader = new FrameReader(50);
    expect(packetErrorOf(() => reader.take(Buffer.from(hex, 'hex'))).reason).toBe(reason);
  });

  test('holds 1 to 65535 bytes', () => {
    expect(frame(Buffer.alloc(65535)).length).toBe(65537);
    expect(() => frame(Buffer.alloc(0))).toThrow(RangeError);
    expect(() => frame(Buffer.alloc(65536))).toThrow(RangeError);
  });
});
