import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { NetlinkError } from '../netlink/error.ts';
import { forEachAttribute, MalformedMessage, type Message, readString, RequestWriter } from '../netlink/message.ts';
import type { NetlinkSocket, Request } from '../netlink/socket.ts';
import {
  atLeast,
  atMost,
  connectionIs,
  drop,
  equals,
  type Expression,
  goTo,
  inputName,
  isIn,
  masked,
  masquerade,
  networkBytes,
  packetFamily,
  routeSegmentSize,
  setAnnouncedSegmentSize,
  transportBytes,
  transportProtocol,
  wayBack,
} from './expressions.ts';
import { changeSets, dumpElements, type FilterTable, replaceTable, tableStands } from './table.ts';

/** Numbers are those of include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h (Linux 7.3). */
const NFT_MSG_NEWRULE = 0xa06;
const genericHeader = 4;

const table: FilterTable = {
  name: 't',
  chains: [
    {
      name: 'a',
      base: { type: 'filter', hook: 'prerouting', priority: -300 },
      rules: [{ comment: 'one', expressions: [inputName, drop] }],
    },
    {
      name: 'b',
      base: { type: 'filter', hook: 'forward', priority: -150 },
      rules: [
        { comment: 'two', expressions: [wayBack] },
        { comment: 'drei ä', expressions: [] },
      ],
    },
  ],
};

const bytesOf = (write: (writer: RequestWriter) => void): Buffer => {
  const writer = new RequestWriter(16);
  write(writer);
  return Buffer.from(writer.view());
};
const attributesOf = (bytes: Buffer): [number, Buffer][] => {
  const found: [number, Buffer][] = [];
  forEachAttribute(bytes, (type, value) => found.push([type, Buffer.from(value)]));
  return found;
};

/** A kernel that keeps the rules that it is told, as the messages that it would answer a dump with. */
function kernel(): { socket: NetlinkSocket; sent: Request[]; rules: Message[] } {
  const sent: Request[] = [];
  const rules: Message[] = [];
  const transact = (requests: readonly Request[]): void => {
    sent.push(...requests);
    rules.splice(0);
    for (const { type, write } of requests) {
      if (type === NFT_MSG_NEWRULE) rules.push({ type, flags: 2, sequence: 1, port: 1, payload: bytesOf(write) });
    }
  };
  const dump = <T>(_request: Request, parse: (message: Message) => T | undefined): T[] =>
    rules.map(parse).filter((rule) => rule !== undefined);
  return { socket: { transact, dump } as unknown as NetlinkSocket, sent, rules };
}

describe('an expression', () => {
  // [attribute, bytes of its value]; nests are written out with their inner header: length, type.
  test.each<[string, Expression | undefined, string, [number, string][]]>([
    [
      'the name of the interface',
      inputName,
      'meta',
      [
        [1, '00000001'],
        [2, '00000006'],
      ],
    ],
    [
      'the transport protocol',
      transportProtocol,
      'meta',
      [
        [1, '00000001'],
        [2, '00000010'],
      ],
    ],
    [
      'equality',
      equals(Buffer.from('pod')),
      'cmp',
      [
        [1, '00000001'],
        [2, '00000000'],
        [3, '07000100706f6400'],
      ],
    ],
    [
      'the way back',
      wayBack,
      'fib',
      [
        [1, '00000001'],
        [2, '00000001'],
        [3, '00000009'],
      ],
    ],
    [
      'bytes of the transport header',
      transportBytes(13, 1),
      'payload',
      [
        [1, '00000001'],
        [2, '00000002'],
        [3, '0000000d'],
        [4, '00000001'],
      ],
    ],
    [
      'a mask',
      masked(Buffer.from([6])),
      'bitwise',
      [
        [1, '00000001'],
        [2, '00000001'],
        [3, '00000001'],
        [4, '0500010006000000'],
        [5, '0500010000000000'],
      ],
    ],
    [
      'the segment size of the route',
      routeSegmentSize[0],
      'rt',
      [
        [1, '00000001'],
        [2, '00000003'],
      ],
    ],
    [
      'to network byte order',
      routeSegmentSize[1],
      'byteorder',
      [
        [1, '00000001'],
        [2, '00000001'],
        [3, '00000001'],
        [4, '00000002'],
        [5, '00000002'],
      ],
    ],
    [
      'writing the announced segment size',
      setAnnouncedSegmentSize,
      'exthdr',
      [
        [2, '02'],
        [3, '00000002'],
        [4, '00000002'],
        [6, '00000001'],
        [7, '00000001'],
      ],
    ],
    [
      'the family',
      packetFamily,
      'meta',
      [
        [1, '00000001'],
        [2, '0000000f'],
      ],
    ],
    [
      'bytes of the IP header',
      networkBytes(16, 4),
      'payload',
      [
        [1, '00000001'],
        [2, '00000001'],
        [3, '00000010'],
        [4, '00000004'],
      ],
    ],
    [
      'at least',
      atLeast(Buffer.from([0, 80])),
      'cmp',
      [
        [1, '00000001'],
        [2, '00000005'],
        [3, '0600010000500000'],
      ],
    ],
    [
      'at most',
      atMost(Buffer.from([0, 80])),
      'cmp',
      [
        [1, '00000001'],
        [2, '00000003'],
        [3, '0600010000500000'],
      ],
    ],
    [
      'a set',
      isIn('s'),
      'lookup',
      [
        [1, '7300'],
        [2, '00000001'],
      ],
    ],
    [
      'the states of connections: established and related',
      connectionIs('established', 'related')[1],
      'bitwise',
      [
        [1, '00000001'],
        [2, '00000001'],
        [3, '00000004'],
        [4, '0800010006000000'],
        [5, '0800010000000000'],
      ],
    ],
    [
      'another chain',
      goTo('c'),
      'immediate',
      [
        [1, '00000000'],
        // NFT_GOTO is -4.
        [2, '1400028008000100fffffffc0600020063000000'],
      ],
    ],
    ['the address of the interface as source', masquerade, 'masq', []],
    [
      'an end',
      drop,
      'immediate',
      [
        [1, '00000000'],
        [2, '0c0002800800010000000000'],
      ],
    ],
  ])('for %s is as the kernel has it', (_what, expression, name, attributes) => {
    if (expression === undefined) throw new Error('there is no such expression');
    expect(expression.name).toBe(name);
    const written = attributesOf(bytesOf(expression.write));
    expect(written.map(([type, value]) => [type, value.toString('hex')])).toEqual(attributes);
  });
});

describe('replacing a table', () => {
  test('is one transaction: begun, made if there is none, deleted, made anew with all its rules, ended', () => {
    const { socket, sent } = kernel();
    replaceTable(socket, table);
    const NLM_F = { excl: 0x200, create: 0x400, append: 0x800 };
    expect(sent.map(({ type, flags = 0 }) => [type, flags])).toEqual([
      [0x10, 0], // NFNL_MSG_BATCH_BEGIN
      [0xa00, NLM_F.create], // NFT_MSG_NEWTABLE
      [0xa02, 0], // NFT_MSG_DELTABLE
      [0xa00, NLM_F.create | NLM_F.excl],
      [0xa03, NLM_F.create], // NFT_MSG_NEWCHAIN
      [0xa03, NLM_F.create],
      [NFT_MSG_NEWRULE, NLM_F.create | NLM_F.append],
      [NFT_MSG_NEWRULE, NLM_F.create | NLM_F.append],
      [NFT_MSG_NEWRULE, NLM_F.create | NLM_F.append],
      [0x11, 0], // NFNL_MSG_BATCH_END
    ]);
    const bodies = sent.map(({ write }) => bytesOf(write));
    // struct nfgenmsg: family inet; at the edges the subsystem in network byte order.
    expect(bodies.map((body) => body.subarray(0, genericHeader).toString('hex'))).toEqual([
      '0000000a',
      ...Array.from({ length: 8 }, () => '01000000'),
      '0000000a',
    ]);
    const chain = attributesOf((bodies[5] ?? Buffer.alloc(0)).subarray(genericHeader));
    expect(chain.map(([type, value]) => [type, type === 4 ? value.toString('hex') : readString(value)])).toEqual([
      [1, 't'],
      [3, 'b'],
      [7, 'filter'],
      // NF_INET_FORWARD, priority -150.
      [4, '0800010000000002' + '08000200ffffff6a'],
    ]);
  });

  test('every request says what it was for, should the kernel refuse it', () => {
    const { socket, sent } = kernel();
    replaceTable(socket, table);
    expect(sent.map((request) => request.describe())).toContain('make rule "two" of chain b');
    expect(sent.every((request) => request.describe() !== '')).toBe(true);
  });
});

describe('sets', () => {
  const NFT_MSG_NEWSETELEM = 0xa0c;
  const addresses = fc.uniqueArray(fc.ipV4(), { maxLength: 2500 });

  /** A kernel that answers a dump of a set with what was sent for it. */
  const remembering = (sent: Request[]): NetlinkSocket =>
    ({
      dump: <T>(_request: Request, parse: (message: Message) => T | undefined): T[] =>
        sent
          .filter(({ type }) => type === NFT_MSG_NEWSETELEM)
          .map(({ type, write }) => parse({ type, flags: 2, sequence: 1, port: 1, payload: bytesOf(write) }))
          .filter((one) => one !== undefined),
    }) as unknown as NetlinkSocket;

  test('are made with what they hold before the rules that look into them, and read back', () => {
    fc.assert(
      fc.property(addresses, (elements) => {
        const { socket, sent } = kernel();
        const withSet: FilterTable = { ...table, sets: [{ name: 's', family: 4 }] };
        replaceTable(socket, withSet, new Map([['s', elements]]));
        const types = sent.map(({ type }) => type);
        const makes = types.indexOf(0xa09); // NFT_MSG_NEWSET
        expect(makes).toBeGreaterThan(0);
        expect(types.lastIndexOf(NFT_MSG_NEWSETELEM)).toBeLessThan(types.indexOf(NFT_MSG_NEWRULE));
        expect(types.filter((type) => type === NFT_MSG_NEWSETELEM)).toHaveLength(Math.ceil(elements.length / 1000));
        expect(dumpElements(remembering(sent), 't', 's')).toEqual(elements);
      }),
      { numRuns: 20 },
    );
  });

  test('change in one transaction, and not at all where nothing changes', () => {
    const { socket, sent } = kernel();
    changeSets(socket, 't', [{ set: 's', add: ['10.0.0.1'], remove: ['10.0.0.2'] }]);
    // NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM between the edges.
    expect(sent.map(({ type }) => type)).toEqual([0x10, NFT_MSG_NEWSETELEM, 0xa0e, 0x11]);
    changeSets(socket, 't', [{ set: 's', add: [], remove: [] }]);
    changeSets(socket, 't', []);
    expect(sent).toHaveLength(4);
  });
});

describe('a table stands', () => {
  const texts = fc.string({ minLength: 1, maxLength: 60, unit: 'grapheme' }).filter((text) => !text.includes('\0'));
  const name = fc.stringMatching(/^[a-z]{1,12}$/);
  const chains = fc
    .uniqueArray(fc.record({ name, comments: fc.uniqueArray(texts, { maxLength: 4 }) }), {
      selector: (each) => each.name,
    })
    .map((all) =>
      all.map((each) => ({
        ...({ name: each.name, base: { type: 'filter', hook: 'forward', priority: 0 } } as const),
        rules: each.comments.map((comment) => ({ comment, expressions: [drop] })),
      })),
    );

  test('once it was written, whatever its chains and comments; not when a rule is gone, added or another', () => {
    fc.assert(
      fc.property(chains, fc.nat(), (all, pick) => {
        const { socket, rules } = kernel();
        const wanted = { name: 't', chains: all };
        replaceTable(socket, wanted);
        expect(tableStands(socket, wanted)).toBe(true);
        const at = rules[pick % Math.max(rules.length, 1)];
        if (at === undefined) return;
        rules.push(at);
        expect(tableStands(socket, wanted)).toBe(false);
        rules.pop();
        rules.splice(rules.indexOf(at), 1);
        expect(tableStands(socket, wanted)).toBe(false);
      }),
    );
  });

  test('not where the kernel knows no such table; another refusal is one', () => {
    const refusing = (errno: number): NetlinkSocket =>
      ({
        dump: () => {
          throw new NetlinkError('list the rules of table t', errno);
        },
      }) as unknown as NetlinkSocket;
    expect(tableStands(refusing(2), table)).toBe(false);
    expect(() => tableStands(refusing(1), table)).toThrow(NetlinkError);
  });

  test('whatever bytes come: an answer, or a malformed message', () => {
    const { socket, rules } = kernel();
    replaceTable(socket, table);
    const [whole] = rules;
    if (whole === undefined) throw new Error('no rule was written');
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.nat(whole.payload.length), fc.boolean(), (bytes, cut, mixed) => {
        const payload = mixed ? Buffer.concat([whole.payload.subarray(0, cut), bytes]) : Buffer.from(bytes);
        rules.splice(0, rules.length, { ...whole, payload });
        try {
          expect(typeof tableStands(socket, table)).toBe('boolean');
        } catch (error) {
          expect(error).toBeInstanceOf(MalformedMessage);
        }
      }),
    );
  });
});
