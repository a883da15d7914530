import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  forEachAttribute,
  MalformedMessage,
  NLM_F_ACK,
  parseMessages,
  readPort,
  readS32,
  readString,
  readU16,
  readU32,
  readU8,
  readUint,
  RequestWriter,
} from './message.ts';

/** An attribute tree: a leaf holds bytes, a nest more attributes. */
interface Node {
  readonly type: number;
  readonly value: Uint8Array | readonly Node[];
}
const node = fc.letrec<{ node: Node; leaf: Node; nest: Node }>((tie) => ({
  node: fc.oneof({ maxDepth: 4, withCrossShrink: true }, tie('leaf'), tie('nest')),
  leaf: fc.record(
    { type: fc.integer({ min: 0, max: 0x3fff }), value: fc.uint8Array({ maxLength: 40 }) },
    { noNullPrototype: true },
  ),
  nest: fc.record(
    { type: fc.integer({ min: 0, max: 0x3fff }), value: fc.array(tie('node'), { maxLength: 5 }) },
    { noNullPrototype: true },
  ),
})).node;

function write(writer: RequestWriter, { type, value }: Node): void {
  if (value instanceof Uint8Array) writer.bytes(type, value);
  else {
    writer.nest(type, () => {
      for (const child of value) write(writer, child);
    });
  }
}

/** Reads a tree back, knowing its shape. */
function read(data: Buffer, shape: readonly Node[]): Node[] {
  const nodes: Node[] = [];
  forEachAttribute(data, (type, value) => {
    const like = shape[nodes.length]?.value;
    nodes.push({
      type,
      value: like instanceof Uint8Array || like === undefined ? new Uint8Array(value) : read(value, like),
    });
  });
  return nodes;
}

/** Runs a parser that may refuse its input, but only in the agreed way. */
function total(parse: () => unknown): void {
  try {
    parse();
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
  }
}

describe('RequestWriter', () => {
  test('writes what the readers read, for any tree of attributes and any number of messages', () => {
    fc.assert(
      fc.property(fc.array(fc.array(node, { maxLength: 6 }), { maxLength: 5 }), (messages) => {
        // Small, so that it grows in the middle.
        const writer = new RequestWriter(32);
        messages.forEach((attributes, i) => {
          writer.begin(100 + i, NLM_F_ACK);
          writer.sequence(i + 7);
          for (const attribute of attributes) write(writer, attribute);
          writer.end();
        });
        expect(writer.length % 4).toBe(0);
        const parsed = parseMessages(writer.view());
        expect(parsed.map(({ type, flags, sequence, port }) => [type, flags, sequence, port])).toStrictEqual(
          messages.map((_, i) => [100 + i, 5, i + 7, 0]),
        );
        expect(parsed.map(({ payload }, i) => read(payload, messages[i]!))).toStrictEqual(messages);
      }),
    );
  });

  test('marks nests, pads values, and does not count padding in lengths', () => {
    const writer = new RequestWriter();
    writer.begin(0x17, 0);
    writer.raw(Buffer.from([3, 1, 0, 0]));
    writer.nest(2, () => {
      writer.u32(1, 0x01020304);
      writer.port(5, 1194);
      writer.u8(7, 255);
    });
    writer.string(9, 'abc');
    writer.end();
    expect(writer.view().toString('hex')).toBe(
      '38000000' + '1700' + '0100' + '00000000' + '00000000' + '03010000' +
        '1c000280' + '08000100' + '04030201' + '06000500' + '04aa0000' + '05000700' + 'ff000000' +
        '08000900' + '61626300',
    ); // prettier-ignore
  });

  test('reset wipes what was written, also in a buffer outgrown by it', () => {
    const secret = Buffer.alloc(48, 0xa5);
    const writer = new RequestWriter(128);
    const wiped: Buffer[] = [];
    writer.begin(1, 0);
    writer.bytes(1, secret);
    wiped.push(writer.view());
    // Grows: the first buffer must not keep the copy.
    writer.bytes(1, Buffer.alloc(500, 0xa5));
    expect(wiped[0]!.includes(0xa5)).toBe(false);
    wiped.push(writer.view());
    writer.reset();
    expect(writer.length).toBe(0);
    for (const buffer of wiped) expect(buffer.every((byte) => byte === 0)).toBe(true);
    // Used again, it starts from nothing.
    writer.begin(2, 0);
    writer.end();
    expect(parseMessages(writer.view())).toMatchObject([{ type: 2, payload: Buffer.alloc(0) }]);
  });

  test('refuses a nest that its length field cannot hold', () => {
    const writer = new RequestWriter();
    expect(() => {
      writer.nest(1, () => {
        for (let i = 0; i < 9; i++) writer.bytes(2, Buffer.alloc(8000));
      });
    }).toThrow(RangeError);
  });

  test('refuses an attribute that its length field cannot hold', () => {
    expect(() => {
      new RequestWriter().bytes(1, Buffer.alloc(0x10000));
    }).toThrow('out of range');
  });
});

describe('readers', () => {
  test('are total: any bytes are read or refused as malformed', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const data = Buffer.from(bytes);
        total(() => parseMessages(data));
        total(() => {
          forEachAttribute(data, (_type, value) => {
            for (const one of [readU8, readU16, readU32, readS32, readPort, readUint, readString])
              total(() => one(value));
          });
        });
      }),
      { numRuns: 2000 },
    );
  });

  test('refuse a message that is shorter than its header or longer than the datagram', () => {
    const header = (length: number): Buffer => {
      const data = Buffer.alloc(20);
      data.writeUInt32LE(length);
      return data;
    };
    for (const length of [0, 15, 21, 0xffffffff]) expect(() => parseMessages(header(length))).toThrow(MalformedMessage);
    expect(parseMessages(header(20))).toHaveLength(1);
    // A header that is cut off is padding.
    expect(parseMessages(header(16))).toHaveLength(1);
  });

  test('refuse an attribute that is shorter than its header or longer than what is left', () => {
    const visit = (hex: string): number[] => {
      const types: number[] = [];
      forEachAttribute(Buffer.from(hex, 'hex'), (type) => types.push(type));
      return types;
    };
    for (const hex of ['00000100', '03000100', '09000100aabbccdd', 'ffff0100']) {
      expect(() => visit(hex)).toThrow(MalformedMessage);
    }
    expect(visit('')).toStrictEqual([]);
    expect(visit('04000100')).toStrictEqual([1]);
    // The last attribute may come without its padding.
    expect(visit('05000100aa000000' + '05000200bb')).toStrictEqual([1, 2]);
    // Flags of the type are not part of it: nested, and network byte order as on the ports of peers.
    expect(visit('04000280' + '04000540')).toStrictEqual([2, 5]);
  });

  test('read numbers of their width only', () => {
    expect(readUint(Buffer.from('ffffffff', 'hex'))).toBe(4294967295n);
    expect(readUint(Buffer.from('ffffffff01000000', 'hex'))).toBe(8589934591n);
    expect(readS32(Buffer.from('ffffffff', 'hex'))).toBe(-1);
    expect(readPort(Buffer.from('04aa', 'hex'))).toBe(1194);
    expect(readString(Buffer.from('abc\0def'))).toBe('abc');
    expect(readString(Buffer.from('abc'))).toBe('abc');
    for (const one of [readU8, readU16, readU32, readUint, readPort]) {
      expect(() => one(Buffer.alloc(3))).toThrow(MalformedMessage);
    }
  });
});
