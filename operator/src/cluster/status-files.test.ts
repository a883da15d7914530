import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { parseResource } from '../api/parse.ts';
import type { Resource } from '../api/types.ts';
import { noMeter } from '../telemetry/metrics.ts';
import { StatusFiles } from './status-files.ts';
import { FakeClock } from './testing/clock.ts';
import { recordingLog } from './testing/log.ts';
import { peerManifest } from './testing/objects.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'status-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function peer(name: string): Resource {
  const result = parseResource(peerManifest(name), 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource;
}

function files(): StatusFiles {
  return new StatusFiles({
    folder,
    clock: new FakeClock(),
    random: () => 0,
    log: recordingLog().log,
    meter: noMeter,
  });
}

/** Operations on files that this process has under way. */
const underWay = (): number => process.getActiveResourcesInfo().filter((name) => name === 'FSReqPromise').length;

describe('status files', () => {
  test('are written a few at a time, however many there are, and stop() waits for all', async () => {
    const statuses = files();
    const peers = Array.from({ length: 500 }, (_, i) => peer(`p${i}`));
    for (const one of peers) statuses.publish(one, { node: 'n1' });
    let most = underWay();
    const stopped = statuses.stop();
    let done = false;
    void stopped.then(() => (done = true));
    while (!done) {
      await setImmediate();
      most = Math.max(most, underWay());
    }
    expect(readdirSync(folder)).toHaveLength(peers.length);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(16);
  });

  test('hold what was wanted last, though it was wanted while others were written', async () => {
    const statuses = files();
    const peers = Array.from({ length: 50 }, (_, i) => peer(`p${i}`));
    for (const round of [1, 2, 3]) for (const one of peers) statuses.publish(one, { round });
    statuses.forget({ kind: 'VpnPeer', namespace: 'team-a', name: 'p0' });
    await statuses.idle();
    const names = readdirSync(folder);
    expect(names).toHaveLength(peers.length - 1);
    for (const name of names) {
      expect(JSON.parse(readFileSync(join(folder, name), 'utf8'))).toMatchObject({ status: { round: 3 } });
    }
  });
});
