import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { SystemError } from '../libc.ts';
import { NetlinkError, parseOutcome } from './error.ts';
import { type Message, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR, parseMessages } from './message.ts';

interface Exchange {
  readonly replies: readonly string[];
}
const load = (name: string): Record<string, Exchange> =>
  (
    JSON.parse(readFileSync(new URL(`../../../../test/fixtures/netlink/${name}.json`, import.meta.url), 'utf8')) as {
      recorded: Record<string, Exchange>;
    }
  ).recorded;
const recorded = { ...load('ovpn'), ...load('rtnl') };
const messages = (name: string): Message[] =>
  recorded[name]!.replies.flatMap((hex) => parseMessages(Buffer.from(hex, 'hex')));

describe('recorded outcomes', () => {
  test.each([
    ['peerNewV6', 0, {}],
    ['peerGetMissing', 2, {}],
    ['keyGetEmpty', 2, {}],
    ['badSocket', 88, { text: 'ovpn: cannot lookup peer socket (fd=100000): -9' }],
    ['missingSocket', 22, { missing: 6 }],
    ['unknownAttribute', 22, { text: 'Unknown attribute type', offset: 40 }],
    ['missingLink', 19, {}],
  ])('%s', (name, errno, ack) => {
    const message = messages(name).at(-1)!;
    expect(message.type).toBe(NLMSG_ERROR);
    const outcome = parseOutcome(message);
    expect(outcome.errno === errno).toBe(true);
    expect(outcome.ack).toMatchObject(ack);
  });

  test('a dump of a missing device fails in its DONE', () => {
    const message = messages('peerDumpNoDevice').at(-1)!;
    expect(message.type).toBe(NLMSG_DONE);
    expect(parseOutcome(message).errno).toBe(19);
  });

  test('a dump that went well ends with 0', () => {
    expect(parseOutcome(messages('peerDump').at(-1)!).errno === 0).toBe(true);
  });
});

describe('parseOutcome', () => {
  const message = (type: number, flags: number, payload: Buffer): Message => ({
    type,
    flags,
    sequence: 1,
    port: 0,
    payload,
  });

  test('finds the extended acknowledgement behind a request that was echoed whole', () => {
    const payload = Buffer.alloc(4 + 24);
    payload.writeInt32LE(-22, 0);
    // The request had 22 bytes, padded to 24.
    payload.writeUInt32LE(22, 4);
    const text = Buffer.from('0a00010068656c6c6f00', 'hex');
    expect(parseOutcome(message(NLMSG_ERROR, NLM_F_ACK_TLVS, Buffer.concat([payload, text])))).toStrictEqual({
      errno: 22,
      ack: { text: 'hello' },
    });
  });

  test('reads the errno though the rest is garbled or cut', () => {
    const payload = Buffer.alloc(24);
    payload.writeInt32LE(-1, 0);
    const garbled = Buffer.concat([payload, Buffer.from('ffff0100', 'hex')]);
    expect(parseOutcome(message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, garbled)).errno).toBe(1);
    expect(parseOutcome(message(NLMSG_ERROR, NLM_F_ACK_TLVS, payload.subarray(0, 4))).errno).toBe(1);
    expect(parseOutcome(message(NLMSG_DONE, 0, Buffer.alloc(0))).errno).toBe(0);
  });

  test('is total', () => {
    fc.assert(
      fc.property(fc.nat(0xffff), fc.nat(0xffff), fc.uint8Array({ maxLength: 120 }), (type, flags, bytes) => {
        expect(typeof parseOutcome(message(type, flags, Buffer.from(bytes))).errno).toBe('number');
      }),
      { numRuns: 2000 },
    );
  });
});

describe('errors', () => {
  test('carry the name, the kernel text and the operation', () => {
    const error = new NetlinkError('ovpn PEER_NEW 1', 88, { text: 'socket: -16', offset: 40, missing: 6 });
    expect(error.message).toBe('ovpn PEER_NEW 1: ENOTSOCK (kernel: socket: -16)');
    expect(error).toMatchObject({ code: 'ENOTSOCK', errno: 88, offset: 40, missing: 6 });
    expect(new NetlinkError('x', 11).code).toBe('EAGAIN');
    expect(new NetlinkError('x', 95).code).toBe('EOPNOTSUPP');
    expect(new NetlinkError('x', 4242).code).toBe('E4242');
    expect(new SystemError('bind', 98, 'UDP 0.0.0.0:1194').message).toBe('bind UDP 0.0.0.0:1194: EADDRINUSE');
  });
});
