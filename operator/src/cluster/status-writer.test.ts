import { describe, expect, test } from '@jest/globals';
import { noMeter } from '../telemetry/metrics.ts';
import { apiVersion, type VpnPeer } from '../api/types.ts';
import { parseResource } from '../api/parse.ts';
import type { ApiCall, ApiClient } from './api-client.ts';
import { StatusWriter } from './status-writer.ts';
import { FakeClock } from './testing/clock.ts';
import { recordingLog } from './testing/log.ts';

/** How many peers a node is built for. */
const many = 10_000;
const second = 1_000;

/** A peer, as the API server has it: with this status. */
function peer(name: string, status: object = {}): VpnPeer {
  const manifest = {
    apiVersion,
    kind: 'VpnPeer',
    metadata: { namespace: 'clients', name, uid: `uid-${name}` },
    spec: { networkRef: { name: 'corp' }, identity: { commonName: name } },
    status,
  };
  const result = parseResource(manifest, 'test');
  if (!result.ok || result.resource.kind !== 'VpnPeer') throw new Error(JSON.stringify(result));
  return result.resource;
}

const time = '2026-01-01T00:00:00Z';
const connected = (is: boolean): object => ({
  type: 'Connected',
  status: is ? 'True' : 'False',
  reason: is ? 'Connected' : 'WaitingForClient',
  message: '',
  lastTransitionTime: time,
});
const statusOf = (rxBytes: number, is = true): object => ({
  node: 'n1',
  conditions: [connected(is)],
  traffic: { rxBytes, txBytes: 0, rxPackets: 0, txPackets: 0 },
});

function world() {
  const clock = new FakeClock();
  const writes: { readonly at: number; readonly name: string; readonly text: string }[] = [];
  const json = ({ path, body }: ApiCall): Promise<unknown> => {
    const name = /vpnpeers\/(.*)\/status/.exec(path)?.[1] ?? '';
    writes.push({ at: clock.now(), name, text: body?.text ?? '' });
    return Promise.resolve({});
  };
  const writer = new StatusWriter({
    client: { json } as unknown as ApiClient,
    clock,
    random: () => 0,
    log: recordingLog().log,
    meter: noMeter,
    fieldManager: 'ovpn-agent/n1',
  });
  /** Time passes, and answers come at once. */
  const pass = async (ms: number): Promise<void> => {
    for (let left = ms; left > 0; left -= 20) {
      for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
      clock.advance(20);
    }
  };
  return { clock, writes, writer, pass };
}

describe('the status of ten thousand peers', () => {
  const peers = Array.from({ length: many }, (_, number) => peer(`p${number}`));

  test('counters that change all the time cost five writes per second, and news goes before them', async () => {
    const { writes, writer, pass, clock } = world();
    for (const one of peers) writer.publish(one, statusOf(0));
    await pass(210 * second);
    // All of them are told once, at the rate of news.
    expect(new Set(writes.map(({ name }) => name)).size).toBe(many);
    await pass(10 * second);
    writes.length = 0;
    // Twice as long as the agent takes from one look at the counters to the next.
    for (const round of [1, 2]) {
      for (const one of peers) writer.publish(one, statusOf(round));
      await pass(60 * second);
    }
    expect(writes.length).toBeGreaterThan(5 * 119);
    expect(writes.length).toBeLessThanOrEqual(20 + 5 * 120);
    const last = peers[many - 1]!;
    writer.publish(last, statusOf(3, false));
    const at = clock.now();
    await pass(second);
    const told = writes.find(({ name, text }) => name === last.metadata.name && text.includes('WaitingForClient'));
    expect(told?.at ?? Infinity).toBeLessThanOrEqual(at + 40);
    await writer.stop();
  }, 60_000);

  test('an agent that starts anew writes what it finds said already at the rate of counters', async () => {
    const { writes, writer, pass } = world();
    const allocation = { number: 5, addresses: ['10.8.0.5'] };
    const allocated = { ...connected(true), type: 'Allocated', reason: 'Allocated' };
    for (const { metadata } of peers) {
      const said = { ...statusOf(7), allocation, conditions: [allocated, connected(true)] };
      writer.publish(peer(metadata.name, said), statusOf(9));
    }
    await pass(20 * second);
    expect(writes.length).toBeLessThanOrEqual(20 + 5 * 20 + 1);
    writes.length = 0;
    // What is not said any more has to go at once.
    writer.publish(peer('late', { ...statusOf(7), lastError: 'it failed' }), statusOf(9));
    await pass(100);
    expect(writes.map(({ name }) => name)).toContain('late');
    await writer.stop();
  }, 60_000);
});
