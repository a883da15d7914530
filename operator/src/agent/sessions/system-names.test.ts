import { describe, expect, test } from '@jest/globals';
import { answerOf, askSystem } from './system-names.ts';

describe('the answer about a name', () => {
  const timesToLive = new Map([
    ['192.0.2.1', 60],
    ['2001:db8::1', 20],
  ]);

  test('is good for as long as the first of its addresses that ends', () => {
    const addresses = ['2001:db8::1', '192.0.2.1'];
    expect(answerOf(addresses, timesToLive)).toEqual({ addresses, ttlSeconds: 20 });
    expect(answerOf(['192.0.2.1'], timesToLive)).toEqual({ addresses: ['192.0.2.1'], ttlSeconds: 60 });
  });

  test('is good for once when the name servers know nothing of one of its addresses, as with a file of hosts', () => {
    const addresses = ['192.0.2.1', '192.0.2.2'];
    expect(answerOf(addresses, timesToLive)).toEqual({ addresses, ttlSeconds: undefined });
    expect(answerOf([], timesToLive)).toEqual({ addresses: [], ttlSeconds: undefined });
  });

  test("is that of this host's resolver", async () => {
    const { addresses } = await askSystem('localhost');
    expect(addresses.filter((address) => address !== '127.0.0.1' && address !== '::1')).toEqual([]);
    expect(addresses.length).toBeGreaterThan(0);
  });
});
