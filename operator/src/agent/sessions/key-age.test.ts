import { describe, expect, test } from '@jest/globals';
import type { ClientKeyMetadata } from '../../openvpn/wrap/client-key.ts';
import { withKeyAge } from './key-age.ts';

const now = 1_800_000_000;
const day = 86_400;

describe('a client key of tls-crypt-v2', () => {
  const wrap = withKeyAge({ kind: 'tls-crypt-v2-server', serverKey: Buffer.alloc(128) }, 30, () => now * 1000);

  test.each<[string, ClientKeyMetadata | undefined, boolean]>([
    ['issued now', { kind: 'timestamp', seconds: now }, true],
    ['as old as it may be', { kind: 'timestamp', seconds: now - 30 * day }, true],
    ['a second older', { kind: 'timestamp', seconds: now - 30 * day - 1 }, false],
    ['of a clock that is ahead', { kind: 'timestamp', seconds: now + day }, true],
    ['that says something else', { kind: 'user', data: Buffer.from('alice') }, false],
    ['that says something unknown', { kind: 'unknown', type: 9, data: Buffer.alloc(8) }, false],
    ['that says nothing', undefined, false],
  ])('%s', (_, metadata, accepted) => {
    expect(wrap.kind === 'tls-crypt-v2-server' && wrap.acceptMetadata?.(metadata)).toBe(accepted);
  });

  test('is the only one that has an age', () => {
    const other = { kind: 'tls-crypt', key: Buffer.alloc(256) } as const;
    expect(withKeyAge(other, 30, () => 0)).toBe(other);
  });
});
