import { isDeepStrictEqual } from 'node:util';
import { frame, FrameReader } from '../../../operator/src/openvpn/wire/frame.ts';
import { formatPacket, maxControlPacketBytes, parsePacket } from '../../../operator/src/openvpn/wire/packet.ts';
import { parseEarlyNegotiation } from '../../../operator/src/openvpn/wrap/early-negotiation.ts';
import { ReliableKey } from '../../../operator/src/openvpn/reliable/reliable-key.ts';
import { errors, parsed, require, type Target } from '../target.ts';
import { InputReader } from './reader.ts';
import { recordedPackets } from './recorded.ts';

const { PacketError } = errors;

export const packet: Target = {
  name: 'packet',
  input: 'a control packet without wrapping',
  run: (input) => {
    const read = parsed(() => parsePacket(input), PacketError);
    if (read === undefined) {
      return;
    }
    const again = formatPacket(read);
    require(isDeepStrictEqual(parsePacket(again), read), 'a packet reads differently after formatting');
    // All but what follows the acknowledgements of an ACK_V1.
    require(again.equals(input.subarray(0, again.length)), 'a packet is formatted differently than it came');
    require(read.opcode === 'ack-v1' || again.length === input.length, 'a packet lost bytes');
  },
  seeds: () => recordedPackets('none'),
};

/** Byte 0 says how the rest is cut into chunks. */
export const frames: Target = {
  name: 'frames',
  input: 'size of chunks, then a TCP stream of frames',
  maxBytes: 20_000,
  run: (input) => {
    const reader = new FrameReader();
    feedFrames(reader, input);
  },
  hold: (inputs) => {
    const readers = inputs.slice(0, 100).map((input) => {
      const reader = new FrameReader();
      feedFrames(reader, input);
      return reader;
    });
    return readers;
  },
  maxHeldBytes: 100 * (maxControlPacketBytes + 2048),
  seeds: () => {
    const packets = Object.values(recordedPackets('none'));
    const stream = Buffer.concat(packets.map(frame));
    return {
      'whole-frames': Buffer.concat([Buffer.of(0), stream]),
      'byte-by-byte': Buffer.concat([Buffer.of(1), stream]),
      'by-seven': Buffer.concat([Buffer.of(7), stream]),
    };
  },
};

function feedFrames(reader: FrameReader, input: Buffer): void {
  const chunkBytes = input[0] === 0 || input[0] === undefined ? input.length : input[0];
  const stream = input.subarray(1);
  let consumed = 0;
  let framed = 0;
  while (consumed < stream.length) {
    const { wanted } = reader;
    require(wanted >= 1 && wanted <= maxControlPacketBytes, `wants ${wanted} bytes`);
    const chunk = stream.subarray(consumed, consumed + chunkBytes);
    const taken = parsed(() => reader.take(chunk), PacketError);
    if (taken === undefined) {
      return;
    }
    require(taken.consumed > 0 && taken.consumed <= chunk.length, `took ${taken.consumed} bytes of ${chunk.length}`);
    consumed += taken.consumed;
    if (taken.packet !== undefined) {
      framed += taken.packet.length + 2;
      require(framed === consumed, 'took bytes of a next frame');
      require(reader.atBoundary, 'is not at a boundary after a packet');
      const start = consumed - taken.packet.length;
      require(taken.packet.equals(stream.subarray(start, consumed)), 'made another packet of the bytes');
    }
  }
}

export const earlyNegotiation: Target = {
  name: 'early-negotiation',
  input: "the payload of a server's hard reset",
  run: (input) => void parsed(() => parseEarlyNegotiation(input), PacketError),
  seeds: () => ({
    resend: Buffer.from('000100020001', 'hex'),
    'unknown-then-resend': Buffer.from('00070003616263000100020001', 'hex'),
  }),
};

/** A sequence of packets by their fields: first message id, then opcode, acknowledgements and message id of each. */
export const reliability: Target = {
  name: 'reliability',
  input: 'message ids and acknowledgements of a sequence of packets',
  run: (input) => {
    const script = new InputReader(input);
    const key = new ReliableKey({ firstMessageId: script.below(2) === 0 ? 0 : 1 });
    let now = 0;
    let taken = 0;
    while (!script.done) {
      const acks = Array.from({ length: script.below(9) }, () => messageId(script));
      const isAck = script.below(4) === 0;
      const packet = { acks, payload: Buffer.alloc(0) };
      key.receive(
        isAck
          ? { ...packet, opcode: 'ack-v1', messageId: undefined }
          : { ...packet, opcode: 'control-v1', messageId: messageId(script) },
        now,
      );
      require(key.waiting <= 12, `keeps ${key.waiting} messages`);
      while (script.below(3) === 0 && key.take() !== undefined) {
        taken += 1;
        require(taken <= input.length, 'gave out more messages than came');
      }
      if (script.below(2) === 0 && key.room > 0) {
        key.send({ opcode: 'control-v1', payload: Buffer.alloc(0) }, now);
      }
      now += script.byte() * 50;
      const out = key.flush(now);
      require(out.length <= 6 + 2, `sends ${out.length} packets at once`);
      require(out.every((packet) => packet.acks.length <= 8), 'acknowledges too much at once');
      require(key.nextFlushAt() === undefined || key.unacknowledged > 0, 'wants to flush without a reason');
    }
  },
  seeds: () => {
    // Acknowledgements, a message, nothing taken, one sent, and some time.
    const message = (id: number, takes: 0 | 1): Buffer =>
      Buffer.concat([Buffer.of(1, id, 1, id, 1 - takes), Buffer.of(...(takes === 1 ? [1] : [])), Buffer.of(0, 10)]);
    const ids = Array.from({ length: 32 }, (_, id) => id);
    const sequence = (order: readonly number[], takes: 0 | 1): Buffer =>
      Buffer.concat([Buffer.of(0), ...order.map((id) => message(id, takes))]);
    return {
      'in-order': sequence(ids, 1),
      'in-order-and-nothing-taken': sequence(ids, 0),
      'from-the-end': sequence(ids.toReversed(), 0),
    };
  },
};

function messageId(script: InputReader): number {
  const small = script.byte();
  return small < 250 ? small % 32 : script.uint32();
}
