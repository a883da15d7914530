import { describe, expect, test } from '@jest/globals';
import { silentLog } from '../telemetry/log.ts';
import type { ApiCall, ApiClient } from './api-client.ts';
import { EventRecorder, type EventNote, type Regarding } from './event-recorder.ts';
import { FakeClock } from './testing/clock.ts';

const late: Regarding = { apiVersion: 'v1', kind: 'VpnPeer', namespace: 'team-a', name: 'late', uid: 'u1' };
const refused: EventNote = { type: 'Warning', reason: 'Conflict', action: 'Allocate', note: 'held by team-a/p0' };

function recorder(): { events: EventRecorder; clock: FakeClock; written: () => unknown[] } {
  const clock = new FakeClock();
  const calls: ApiCall[] = [];
  const json = (call: ApiCall): Promise<unknown> => {
    calls.push(call);
    return Promise.resolve({});
  };
  const client = { json } as unknown as ApiClient;
  const events = new EventRecorder({ client, clock, log: silentLog, controller: 'c', instance: 'i' });
  return { events, clock, written: () => calls.map(({ body }) => JSON.parse(body?.text ?? '') as unknown) };
}

describe('an Event', () => {
  test('says what happened to what, and who says so', () => {
    const { events, written } = recorder();
    events.record(late, refused);
    expect(written()).toEqual([
      {
        apiVersion: 'events.k8s.io/v1',
        kind: 'Event',
        metadata: { namespace: 'team-a', name: expect.stringMatching(/^late\.[0-9a-f]{16}$/) },
        eventTime: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:]+\.\d{6}Z$/),
        reportingController: 'c',
        reportingInstance: 'i',
        regarding: late,
        ...refused,
      },
    ]);
  });

  test('is not said again by a look at a cache that is behind; later, or in other words, it is', () => {
    const { events, clock, written } = recorder();
    events.record(late, refused);
    clock.advance(35);
    events.record(late, refused);
    expect(written()).toHaveLength(1);
    events.record(late, { ...refused, note: 'held by team-a/p1' });
    events.record({ ...late, uid: 'u2' }, refused);
    expect(written()).toHaveLength(3);
    clock.advance(10_000);
    events.record(late, refused);
    expect(written()).toHaveLength(4);
  });

  test('is dropped above five a second', () => {
    const { events, written } = recorder();
    for (let n = 0; n < 200; n++) events.record({ ...late, uid: `u${n}` }, refused);
    expect(written().length).toBeLessThanOrEqual(55);
  });
});
