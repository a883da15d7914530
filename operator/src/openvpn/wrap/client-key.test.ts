import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { OvpnError } from '../../errors.ts';
import { PacketError } from '../wire/packet.ts';
import {
  issueClientKey,
  maxMetadataBytes,
  splitWrappedKey,
  unwrapClientKey,
  wrapClientKey,
  type ClientKeyMetadata,
} from './client-key.ts';
import { formatClientKey, formatServerKey, parseClientKey, parseServerKey } from './key-file.ts';
import { clientKeyFile, clientKeyWithMetadataFile, serverKeyFile } from './recorded.fixture.ts';
import { packetErrorOf } from './packets.fixture.ts';

const serverKey = parseServerKey(serverKeyFile, {});

describe("keys that OpenVPN's --genkey made", () => {
  test('the client key unwraps to itself, with its time of issue', () => {
    const { key, wrapped } = parseClientKey(clientKeyFile, {});
    const unwrapped = unwrapClientKey(serverKey, wrapped);
    expect(unwrapped.key).toEqual(key);
    expect(unwrapped.metadata).toEqual({ kind: 'timestamp', seconds: Date.UTC(2026, 10, 22, 22, 7, 7) / 1000 });
  });

  test('and with the metadata it was given', () => {
    const { wrapped } = parseClientKey(clientKeyWithMetadataFile, {});
    expect(unwrapClientKey(serverKey, wrapped).metadata).toEqual({ kind: 'user', data: Buffer.from('hello peer') });
  });

  test('we wrap it to the same bytes', () => {
    for (const file of [clientKeyFile, clientKeyWithMetadataFile]) {
      const { key, wrapped } = parseClientKey(file, {});
      expect(wrapClientKey(serverKey, key, unwrapClientKey(serverKey, wrapped).metadata)).toEqual(wrapped);
    }
  });

  test('we write the same files', () => {
    expect(formatServerKey(serverKey)).toBe(serverKeyFile);
    expect(formatClientKey(parseClientKey(clientKeyFile, {}))).toBe(clientKeyFile);
  });
});

describe('client keys', () => {
  const data = fc.uint8Array({ maxLength: maxMetadataBytes - 1 }).map((bytes) => Buffer.from(bytes));
  const metadata: fc.Arbitrary<ClientKeyMetadata | undefined> = fc.oneof(
    fc.constant(undefined),
    fc.record({ kind: fc.constant('user' as const), data }),
    fc.record({ kind: fc.constant('timestamp' as const), seconds: fc.integer() }),
    fc.record({ kind: fc.constant('unknown' as const), type: fc.integer({ min: 2, max: 255 }), data }),
  );

  test('unwrap to what was wrapped', () => {
    fc.assert(
      fc.property(metadata, (said) => {
        const { key, wrapped } = issueClientKey(serverKey, said);
        expect(wrapped.length).toBeLessThanOrEqual(1024);
        expect(unwrapClientKey(serverKey, wrapped)).toEqual({ key, metadata: said });
        expect(parseClientKey(formatClientKey({ key, wrapped }), {})).toEqual({ key, wrapped });
      }),
      { numRuns: 50 },
    );
  });

  test('have no more metadata than fits', () => {
    const most = { kind: 'user', data: Buffer.alloc(maxMetadataBytes - 1) } as const;
    expect(issueClientKey(serverKey, most).wrapped.length).toBe(1024);
    const tooMuch = { kind: 'user', data: Buffer.alloc(maxMetadataBytes) } as const;
    expect(() => issueClientKey(serverKey, tooMuch)).toThrow(RangeError);
  });

  test('are refused with any bit flipped', () => {
    const { wrapped } = parseClientKey(clientKeyFile, {});
    for (let bit = 0; bit < wrapped.length * 8; bit++) {
      const flipped = Buffer.from(wrapped);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      expect(packetErrorOf(() => unwrapClientKey(serverKey, flipped)).reason).toBe('client-key');
    }
  });

  test("are refused under another server's key", () => {
    const { wrapped } = parseClientKey(clientKeyFile, {});
    expect(packetErrorOf(() => unwrapClientKey(Buffer.alloc(128, 1), wrapped)).reason).toBe('client-key');
  });

  test('a time of a wrong length is no time', () => {
    const { wrapped } = issueClientKey(serverKey, { kind: 'unknown', type: 1, data: Buffer.alloc(7) });
    expect(unwrapClientKey(serverKey, wrapped).metadata).toEqual({ kind: 'unknown', type: 1, data: Buffer.alloc(7) });
  });

  test('any bytes split into two parts, or a PacketError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 1200 }), fc.integer({ min: 0, max: 1300 }), (bytes, length) => {
        const input = Buffer.concat([bytes, Buffer.of(length >> 8, length & 0xff)]);
        try {
          const { packet, wrapped } = splitWrappedKey(input);
          expect(Buffer.concat([packet, wrapped])).toEqual(input);
          expect(packet.length).toBeGreaterThan(0);
          expect(wrapped.length).toBe(length);
        } catch (error) {
          expect(error).toBeInstanceOf(PacketError);
        }
      }),
    );
  });
});

describe('key files', () => {
  const where = { object: 'Secret x', field: 'tls-crypt-v2.key' };

  test('may have text around the block and other line ends', () => {
    const text = `# a comment\r\n${serverKeyFile.replaceAll('\n', '\r\n')}trailer`;
    expect(parseServerKey(text, where)).toEqual(serverKey);
  });

  test.each([
    ['nothing', '', 'block'],
    ['a client key', clientKeyFile, 'block'],
    ['no end', serverKeyFile.split('-----END')[0]!, 'block'],
    ['not base64', serverKeyFile.replace('C4ub', 'C4u!'), 'base64'],
    ['a short key', serverKeyFile.replace(/C4ub[^\n]*\n/, ''), 'bytes of key'],
  ])('a server key file with %s is refused', (_what, text, problem) => {
    expectKeyError(() => parseServerKey(text, where), problem, 'tls-crypt-v2-server FILE');
  });

  test.each([
    ['a server key', serverKeyFile, 'block'],
    ['half of it', clientKeyFile.replace(/gMVd[^\n]*\n/, ''), 'length'],
    ['the bare key', clientKeyFile.replace(/(\n[^\n]{64}){8}\n[^\n]*\n-/, '\n-'), 'length'],
  ])('a client key file with %s is refused', (_what, text, problem) => {
    expectKeyError(() => parseClientKey(text, where), problem, 'tls-crypt-v2-client FILE');
  });

  function expectKeyError(action: () => unknown, problem: string, remedy: string): void {
    let thrown: unknown;
    try {
      action();
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(OvpnError);
    const { name, message } = thrown as OvpnError;
    expect(name).toBe('KeyMaterialInvalid');
    expect(message).toContain('Secret x: tls-crypt-v2.key: ');
    expect(message).toContain(problem);
    expect(message).toContain(remedy);
    expect(message).not.toContain('C4ub');
  }
});
