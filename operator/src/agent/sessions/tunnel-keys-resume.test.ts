import { describe, expect, test } from '@jest/globals';
import { recordingLog } from '../../cluster/testing/log.ts';
import { firstSessionId, type SessionKey } from './live-peers.ts';
import { FakeLiveKernel, FakeScheduler, freshKeys, livePeers, refOfPeer } from './sessions.fixture.ts';
import { TunnelKeys } from './tunnel-keys.ts';

const key = (keyId: number): SessionKey => ({ keyId, cipher: 'AES-256-GCM', keys: freshKeys() });
const id = firstSessionId;

/** A peer as an earlier process left it, by the ids in its slots; the session's newest key is the second. */
function resumed(
  primary: number | undefined,
  secondary: number | undefined,
  newest: number,
  unconfirmed = false,
  sinceHandshakeMs = 0,
) {
  const kernel = new FakeLiveKernel();
  const clock = new FakeScheduler();
  const live = livePeers(() => kernel);
  const refusals: string[] = [];
  const settings = { id, socket: 5, remote: { address: '198.51.100.10', port: 1194 }, vpnIpv4: '10.80.0.10' };
  const peer = live.create({ ref: refOfPeer('alice'), ifindex: 7, settings, routes: [] }, key(primary ?? 0));
  if (secondary !== undefined) live.addKey(peer, key(secondary));
  if (primary === undefined) kernel.ovpnBatch([kernel.requests.keyDel(7, id, 'primary')]);
  const keys = new TunnelKeys({
    ...{ live, peer, scheduler: clock, log: recordingLog().log, transitionMs: () => 30_000 },
    refused: (reason) => refusals.push(reason),
  });
  const found = live.look(7, id);
  expect(found?.peer.id).toBe(id);
  keys.resume(found!.keys, { keyId: newest, unconfirmed }, sinceHandshakeMs);
  return { kernel, clock, keys, refusals, slots: () => kernel.slots(7, id) };
}

describe('the keys of a peer that an earlier process made', () => {
  test('one key alone stays as it is', () => {
    const { clock, slots, kernel } = resumed(0, undefined, 0);
    kernel.takeCalls();
    clock.advance(1_000_000);
    expect(slots()).toBe('0/-');
    expect(kernel.takeCalls()).toEqual([]);
  });

  test.each([
    ['just now', 0, 2_000],
    ['half a second ago', 500, 1_500],
    ['long ago', 3_600_000, 0],
    ['in times to come, by a clock that was set', -3_600_000, 2_000],
  ])('a key that does not send yet, and came %s, does so two seconds after it came', (_when, since, wait) => {
    const { clock, slots } = resumed(3, 4, 4, false, since);
    expect(slots()).toBe('3/4');
    if (wait > 0) clock.advance(wait - 1);
    if (wait > 0) expect(slots()).toBe('3/4');
    clock.advance(wait > 0 ? 1 : 0);
    expect(slots()).toBe('4/3');
    clock.advance(89_999 - wait);
    expect(slots()).toBe('4/3');
    clock.advance(1);
    expect(slots()).toBe('4/-');
  });

  test('a key that the other end may not have is not sent with, whatever time passes', () => {
    const { clock, slots, keys } = resumed(3, 4, 4, true);
    clock.advance(1_000_000);
    keys.rekeying();
    expect(slots()).toBe('3/4');
    // It took part in the next renegotiation, which OpenVPN does not before it has the key.
    keys.add(key(5));
    keys.confirmed();
    expect(slots()).toBe('4/5');
    clock.advance(2_000_000);
    expect(slots()).toBe('5/-');
  });

  test('an old key goes when nobody sends with it any more', () => {
    const { clock, slots } = resumed(4, 3, 4);
    clock.advance(89_999);
    expect(slots()).toBe('4/3');
    clock.advance(1);
    expect(slots()).toBe('4/-');
  });

  test('the next renegotiation goes on from there', () => {
    const { clock, slots, keys, refusals } = resumed(3, 4, 4);
    keys.rekeying();
    expect(slots()).toBe('4/3');
    keys.add(key(5));
    keys.confirmed();
    expect(slots()).toBe('4/5');
    clock.advance(30_000);
    expect(slots()).toBe('5/4');
    expect(refusals).toEqual([]);
  });

  test('a peer that has lost its sending key sends with the one that waits, or with the next', () => {
    const waiting = resumed(undefined, 4, 4);
    expect(waiting.slots()).toBe('4/-');
    const without = resumed(undefined, undefined, 3);
    without.keys.add(key(4));
    expect(without.slots()).toBe('4/-');
  });
});
