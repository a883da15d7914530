import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { lastAddress, contains, parseAddress, parseCidr } from '../api/ip.ts';
import { allocateAddress, gatewayOf } from './pod-addresses.ts';

const nobody = (): boolean => false;

/** All addresses of a block, until it is exhausted. */
function drain(block: string, most = 600): string[] {
  const taken = new Set<string>();
  try {
    while (taken.size < most) taken.add(allocateAddress([block], (address) => taken.has(address), 'corp'));
  } catch (error) {
    expect(error).toMatchObject({ name: 'PoolExhausted' });
  }
  return [...taken];
}

describe('addresses of a pod block', () => {
  test.each<[string, string, string[]]>([
    ['10.81.0.0/29', '10.81.0.1', ['10.81.0.2', '10.81.0.3', '10.81.0.4', '10.81.0.5', '10.81.0.6']],
    ['10.81.0.4/30', '10.81.0.5', ['10.81.0.6']],
    ['10.81.0.4/31', '10.81.0.4', ['10.81.0.5']],
    ['10.81.0.4/32', '10.81.0.4', []],
    ['255.255.255.252/30', '255.255.255.253', ['255.255.255.254']],
    ['fd81::/125', 'fd81::1', ['fd81::2', 'fd81::3', 'fd81::4', 'fd81::5', 'fd81::6', 'fd81::7']],
    ['fd81::4/126', 'fd81::5', ['fd81::6', 'fd81::7']],
    ['fd81::4/127', 'fd81::4', ['fd81::5']],
    ['fd81::4/128', 'fd81::4', []],
  ])('%s has gateway %s and %j', (block, gateway, addresses) => {
    expect(gatewayOf(block)).toBe(gateway);
    expect(drain(block)).toEqual(addresses);
  });

  test.each([
    ['10.81.0.0/24', '10.81.0.1', '10.81.0.2'],
    ['0.0.0.0/0', '0.0.0.1', '0.0.0.2'],
    ['fd81::/64', 'fd81::1', 'fd81::2'],
    ['fd81:0:0:1::/64', 'fd81:0:0:1::1', 'fd81:0:0:1::2'],
    ['::/0', '::1', '::2'],
  ])('%s begins with gateway %s and %s', (block, gateway, first) => {
    expect(gatewayOf(block)).toBe(gateway);
    expect(allocateAddress([block], nobody, 'corp')).toBe(first);
  });

  test('an IPv4 /24 has 253 pods', () => expect(drain('10.81.0.0/24')).toHaveLength(253));

  test.each([
    ['10.81.0.0/30', 1],
    ['10.81.0.0/32', 0],
    ['fd81::/126', 2],
  ])('says which block is exhausted: %s, %d', (block, size) => {
    expect(() => allocateAddress([block], () => true, 'corp')).toThrow(
      expect.objectContaining({
        name: 'PoolExhausted',
        problem: `all ${size} pod addresses of block ${block} are in use`,
        where: { object: 'VpnNetwork corp', field: 'spec.nodes[].podBlocks' },
      }),
    );
  });

  test('are the lowest free ones, canonical, inside, and never the gateway, the network, the broadcast or a taken one', () => {
    const block = fc.oneof(
      fc.tuple(fc.ipV4(), fc.integer({ min: 8, max: 32 })),
      fc.tuple(fc.ipV6(), fc.integer({ min: 16, max: 128 })),
    );
    fc.assert(
      fc.property(block, fc.uniqueArray(fc.nat(40)), ([address, length], holes) => {
        const range = parseCidr(`${address}/${length}`);
        fc.pre(range !== undefined);
        const taken = new Set<string>();
        const order: string[] = [];
        for (let i = 0; i < 40; i++) {
          let given: string;
          try {
            given = allocateAddress([range.text], (candidate) => taken.has(candidate), 'corp');
          } catch (error) {
            expect(error).toMatchObject({ name: 'PoolExhausted' });
            break;
          }
          const parsed = parseAddress(given);
          expect(parsed?.text).toBe(given);
          expect(contains(range, parsed!)).toBe(true);
          expect(taken).not.toContain(given);
          expect(given).not.toBe(gatewayOf(range.text));
          if (range.family === 4 && length < 31) {
            expect(given).not.toBe(range.text.split('/')[0]);
            expect(given).not.toBe(lastAddress(range).text);
          }
          if (range.family === 6 && length < 127) expect(given).not.toBe(range.text.split('/')[0]);
          taken.add(given);
          order.push(given);
        }
        // What becomes free is given again, the lowest first.
        const free = holes.sort((a, b) => a - b).flatMap((i) => order[i] ?? []);
        for (const address of free) taken.delete(address);
        for (const address of free) {
          const again = allocateAddress([range.text], (candidate) => taken.has(candidate), 'corp');
          expect(again).toBe(address);
          taken.add(again);
        }
      }),
      { numRuns: 300 },
    );
  });
});
