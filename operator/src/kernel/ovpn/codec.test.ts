import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { MalformedMessage, parseMessages, RequestWriter } from '../netlink/message.ts';
import type { Request } from '../netlink/socket.ts';
import { parseKey, parseNotification, parsePeer } from './codec.ts';
import { OvpnRequests } from './family.ts';
import { cipherName, cipherNumber, deleteReasonName, slotName, slotNumber } from './uapi.ts';

interface Exchange {
  readonly request: string;
  readonly replies: readonly string[];
}
const fixture = <T>(
  name: string,
): { readonly ids: Readonly<Record<string, number>>; readonly recorded: Readonly<Record<string, T>> } =>
  JSON.parse(readFileSync(new URL(`../../../../test/fixtures/netlink/${name}.json`, import.meta.url), 'utf8')) as never;
const { ids, recorded } = fixture<Exchange>('ovpn');
const notifications = fixture<readonly string[]>('notifications').recorded;

/** Attributes of the first reply of a recorded exchange. */
const attributes = (name: string): Buffer =>
  parseMessages(Buffer.from(recorded[name]!.replies[0]!, 'hex'))[0]!.payload.subarray(4);
const notification = (name: string): ReturnType<typeof parseNotification> =>
  parseNotification(parseMessages(Buffer.from(notifications[name]![0]!, 'hex'))[0]!.payload);

const device = ids['deviceA']!;
const under = ids['under']!;
const requests = new OvpnRequests({ id: ids['family']!, groups: new Map() });

function bytes(request: Request, flags: number): string {
  const writer = new RequestWriter();
  writer.begin(request.type, flags);
  writer.sequence(1);
  request.write(writer);
  writer.end();
  return writer.view().toString('hex');
}

/** A message of the family with one nest, written by hand. */
function message(command: number, nestType: number, fill: (writer: RequestWriter) => void, ifindex = 7): Buffer {
  const writer = new RequestWriter();
  writer.raw(Buffer.from([command, 1, 0, 0]));
  writer.u32(1, ifindex);
  writer.nest(nestType, () => {
    fill(writer);
  });
  return Buffer.from(writer.view());
}

describe('requests have the bytes that a kernel took', () => {
  // Descriptor numbers of the recording: the socket attribute is what the kernel was told then.
  const socketOf = (name: string): number => {
    const hex = recorded[name]!.request;
    const at = hex.indexOf('08000600');
    return Buffer.from(hex.slice(at + 8, at + 16), 'hex').readUInt32LE();
  };
  const direction = (fill: number): { cipherKey: Buffer; nonceTail: Buffer } => ({
    cipherKey: Buffer.alloc(32, fill),
    nonceTail: Buffer.alloc(8, fill + 1),
  });

  test.each<[string, Request, number?]>([
    [
      'peerNewV6',
      requests.peerNew(device, {
        id: 0x123456,
        txId: 0x654321,
        socket: socketOf('peerNewV6'),
        remote: { address: '2001:db8::2', port: 1194 },
        local: '2001:db8::1',
        vpnIpv6: 'fd80::6',
        keepalive: { interval: 10, timeout: 60 },
      }),
    ],
    [
      'peerNewScope',
      requests.peerNew(device, {
        id: 3,
        socket: socketOf('peerNewScope'),
        remote: { address: 'fe80::3', port: 1195, scopeId: under },
        vpnIpv4: '10.80.0.33',
        vpnIpv6: 'fd80::33',
      }),
    ],
    ['peerGetV4', requests.peerGet(device, 7)],
    ['peerDump', requests.peerDump(device), 0x301],
    ['keyGet', requests.keyGet(device, 3, 'secondary')],
    [
      'keyNew',
      requests.keyNew(device, {
        peerId: 3,
        slot: 'secondary',
        keyId: 5,
        cipher: 'CHACHA20-POLY1305',
        encrypt: direction(0x11),
        decrypt: direction(0x21),
      }),
    ],
  ])('%s', (name, request, flags = 5) => {
    expect(bytes(request, flags)).toBe(recorded[name]!.request);
  });
});

describe('PEER_GET replies', () => {
  test('of a peer on IPv4 with traffic', () => {
    const peer = parsePeer(attributes('peerGetV4'));
    expect(peer).toMatchObject({
      id: 7,
      txId: 7,
      remote: { address: '192.0.2.2', port: ids['portB'] },
      localPort: ids['portA'],
      vpnIpv4: '10.80.0.2',
      vpnIpv6: 'fd80::2',
      socketNetnsid: undefined,
      keepalive: { interval: 0, timeout: 0 },
    });
    expect(peer.vpn.rxPackets).toBe(10n);
    expect(peer.vpn.rxBytes).toBe(840n);
    expect(peer.link.rxBytes).toBe(840n + 10n * 24n);
  });

  test('of a peer on IPv6, and with a scope id', () => {
    expect(parsePeer(attributes('peerGetV6'))).toMatchObject({
      id: 0x123456,
      txId: 0x654321,
      remote: { address: '2001:db8::2', port: 1194 },
      local: '2001:db8::1',
      vpnIpv4: undefined,
      vpnIpv6: 'fd80::6',
      keepalive: { interval: 10, timeout: 60 },
    });
    expect(parsePeer(attributes('peerGetScope'))).toMatchObject({
      remote: { address: 'fe80::3', port: 1195, scopeId: under },
      vpnIpv4: '10.80.0.33',
    });
  });

  test('of a dump', () => {
    const peers = recorded['peerDump']!.replies.flatMap((hex) => parseMessages(Buffer.from(hex, 'hex')))
      .filter(({ type }) => type === ids['family'])
      .map(({ payload }) => parsePeer(payload.subarray(4)).id);
    expect(peers.sort((a, b) => a - b)).toStrictEqual([3, 7, 0x123456]);
  });

  test('with counters of eight bytes, a foreign socket, and of a kernel without TX_ID', () => {
    const wide = Buffer.alloc(8);
    wide.writeBigUInt64LE(0x1_0000_0001n);
    const peer = parsePeer(
      message(3, 2, (writer) => {
        writer.u32(1, 9);
        writer.u32(7, 0xffffffff);
        for (let type = 16; type <= 23; type++) {
          if (type % 2 === 0) writer.bytes(type, wide);
          else writer.u32(type, type);
        }
      }).subarray(4),
    );
    expect(peer).toMatchObject({ id: 9, txId: 9, socketNetnsid: -1, remote: undefined });
    expect(peer.vpn).toStrictEqual({
      rxBytes: 0x1_0000_0001n,
      txBytes: 17n,
      rxPackets: 0x1_0000_0001n,
      txPackets: 19n,
    });
    expect(peer.link).toStrictEqual({
      rxBytes: 0x1_0000_0001n,
      txBytes: 21n,
      rxPackets: 0x1_0000_0001n,
      txPackets: 23n,
    });
  });

  test('without a nest or an id are malformed', () => {
    expect(() => parsePeer(Buffer.alloc(0))).toThrow(MalformedMessage);
    expect(() => parsePeer(message(3, 2, () => undefined).subarray(4))).toThrow(MalformedMessage);
  });
});

describe('KEY_GET replies', () => {
  test('tell slot, id and cipher', () => {
    const key = { peerId: 3, slot: 'secondary', keyId: 5, cipher: 'CHACHA20-POLY1305' };
    expect(parseKey(attributes('keyGet'))).toStrictEqual(key);
  });
});

describe('notifications', () => {
  test.each([
    ['userspace', { kind: 'peer-deleted', ifindex: device, peerId: 3, reason: 'userspace' }],
    ['expired', { kind: 'peer-deleted', ifindex: device, peerId: 0x123456, reason: 'expired' }],
    ['transportDisconnect', { kind: 'peer-deleted', ifindex: device, peerId: 7, reason: 'transport-disconnect' }],
    ['transportError', { kind: 'peer-deleted', ifindex: device, peerId: 9, reason: 'transport-error' }],
    ['teardown', { kind: 'peer-deleted', peerId: 8, reason: 'teardown' }],
    ['floatV4', { kind: 'peer-floated', peerId: 7, remote: { address: '192.0.2.2' } }],
    ['floatV6', { kind: 'peer-floated', peerId: 7, remote: { address: '2001:db8::2' } }],
  ])('%s', (name, expected) => {
    expect(notification(name)).toMatchObject(expected);
  });

  test('the port of a float is in network byte order', () => {
    const told = notification('floatV4')!;
    expect(told.kind === 'peer-floated' && told.remote.port).toBeGreaterThan(1023);
    const scoped = parseNotification(
      message(11, 2, (writer) => {
        writer.u32(1, 5);
        writer.bytes(3, Buffer.from('fe800000000000000000000000000001', 'hex'));
        writer.u32(4, 12);
        writer.port(5 | 0x4000, 1194);
      }),
    );
    expect(scoped).toStrictEqual({
      kind: 'peer-floated',
      ifindex: 7,
      peerId: 5,
      remote: { address: 'fe80::1', port: 1194, scopeId: 12 },
    });
  });

  test('an exhausted key has an id of two bytes, or of four as the specification says', () => {
    for (const width of [2, 4]) {
      const keyId = Buffer.alloc(width);
      keyId.writeUInt8(6);
      const told = parseNotification(
        message(9, 3, (writer) => {
          writer.u32(1, 5);
          writer.bytes(3, keyId);
        }),
      );
      expect(told).toStrictEqual({ kind: 'key-exhausted', ifindex: 7, peerId: 5, keyId: 6 });
    }
  });

  test('a reason of a later kernel is unknown, and so is a later command', () => {
    const told = parseNotification(
      message(5, 2, (writer) => {
        writer.u32(15, 77);
        writer.u32(1, 5);
      }),
    );
    expect(told).toMatchObject({ kind: 'peer-deleted', reason: 'unknown' });
    expect(parseNotification(Buffer.from([99, 1, 0, 0]))).toBeUndefined();
  });

  test.each([
    ['no header', Buffer.alloc(3)],
    ['no interface', Buffer.from([5, 1, 0, 0])],
    ['no id', message(5, 2, (writer) => writer.u32(15, 1))],
    ['a float without an address', message(11, 2, (writer) => writer.u32(1, 5))],
    ['an exhausted key without a peer', message(9, 3, () => undefined)],
  ])('%s is malformed', (_name, payload) => {
    expect(() => parseNotification(payload)).toThrow(MalformedMessage);
  });
});

describe('parsers are total', () => {
  const refuses = (parse: () => unknown): void => {
    try {
      parse();
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
    }
  };

  test('on any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (data) => {
        for (const parse of [parsePeer, parseKey, parseNotification]) refuses(() => parse(Buffer.from(data)));
      }),
      { numRuns: 2000 },
    );
  });

  test('on recorded messages with bytes changed or cut', () => {
    const samples = [attributes('peerGetV4'), attributes('peerGetScope'), attributes('keyGet')];
    for (const name of Object.keys(notifications)) {
      samples.push(parseMessages(Buffer.from(notifications[name]![0]!, 'hex'))[0]!.payload);
    }
    fc.assert(
      fc.property(
        fc.constantFrom(...samples),
        fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 4 }),
        fc.nat(400),
        (sample, changes, cut) => {
          const data = Buffer.from(sample.subarray(0, Math.max(1, cut % (sample.length + 1))));
          for (const [at, value] of changes) data[at % data.length] = value;
          for (const parse of [parsePeer, parseKey, parseNotification]) refuses(() => parse(data));
        },
      ),
      { numRuns: 3000 },
    );
  });
});

describe('numbers of the driver', () => {
  test('there and back', () => {
    for (const slot of ['primary', 'secondary'] as const) expect(slotName(slotNumber(slot))).toBe(slot);
    for (const cipher of ['none', 'AES-GCM', 'CHACHA20-POLY1305'] as const) {
      expect(cipherName(cipherNumber(cipher))).toBe(cipher);
    }
    expect([0, 1, 2, 3, 4, 5].map(deleteReasonName)).toStrictEqual([
      'teardown',
      'userspace',
      'expired',
      'transport-error',
      'transport-disconnect',
      'unknown',
    ]);
  });
});
