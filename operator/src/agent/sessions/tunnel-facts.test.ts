import { describe, expect, test } from '@jest/globals';
import { refOfPeer } from './sessions.fixture.ts';
import { Tunnels } from './tunnel-facts.ts';

function tunnels() {
  const changed: string[] = [];
  const clock = { now: 1000 };
  return {
    facts: new Tunnels(
      () => clock.now,
      ({ name }) => changed.push(name),
    ),
    clock,
    changed,
  };
}
const alice = refOfPeer('alice');
const tunnel = {
  endpoint: '198.51.100.10:1194',
  addresses: ['10.80.0.10'],
  cipher: 'AES-256-GCM',
  tlsVersion: 'TLSv1.3',
};

describe('what is known of a tunnel', () => {
  test('from waiting to connected and back, every change told', () => {
    const { facts, clock, changed } = tunnels();
    facts.idle(alice, 'WaitingForClient', 'no client yet');
    expect(facts.get(alice)).toMatchObject({ state: 'WaitingForClient', since: 1000, message: 'no client yet' });
    clock.now = 2000;
    facts.connecting(alice, '198.51.100.10:1194');
    expect(facts.get(alice)).toMatchObject({ state: 'Connecting', since: 2000, endpoint: '198.51.100.10:1194' });
    clock.now = 3000;
    facts.connected(alice, tunnel);
    expect(facts.get(alice)).toMatchObject({ ...tunnel, state: 'Connected', since: 3000, lastHandshake: 3000 });
    clock.now = 4000;
    facts.disconnected(alice, 'the client left');
    expect(facts.get(alice)).toMatchObject({
      state: 'Disconnected',
      since: 4000,
      message: 'the client left',
      addresses: [],
      cipher: undefined,
      lastHandshake: 3000,
    });
    expect(changed).toEqual(['alice', 'alice', 'alice', 'alice']);
  });

  test('a second handshake leaves a tunnel what it is', () => {
    const { facts, changed } = tunnels();
    facts.connected(alice, tunnel);
    facts.connecting(alice, '203.0.113.1:5');
    expect(facts.get(alice)).toMatchObject({ state: 'Connected', endpoint: '198.51.100.10:1194' });
    expect(changed).toHaveLength(1);
  });

  test('one try after the other is one time of connecting', () => {
    const { facts, clock } = tunnels();
    facts.connecting(alice, 'a');
    clock.now = 9000;
    facts.connecting(alice, 'b');
    expect(facts.get(alice)).toMatchObject({ since: 1000, endpoint: 'b' });
  });

  test('the last error stays when the tunnel comes and goes', () => {
    const { facts } = tunnels();
    facts.idle(alice, 'Connecting', '');
    facts.failed(alice, 'refused');
    facts.connecting(alice, 'a');
    facts.connected(alice, tunnel);
    facts.disconnected(alice, 'lost');
    expect(facts.get(alice)?.lastError).toBe('refused');
  });

  test('nothing is said of a peer that is not there, and nothing kept of one that went', () => {
    const { facts, changed } = tunnels();
    facts.failed(alice, 'late news');
    facts.update(alice, { endpoint: 'late' });
    expect(facts.get(alice)).toBeUndefined();
    facts.connected(alice, tunnel);
    facts.delete(alice);
    facts.failed(alice, 'late news');
    expect(facts.get(alice)).toBeUndefined();
    expect(changed).toHaveLength(1);
  });
});
