import { afterEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { recordingLog } from '../cluster/testing/log.ts';
import { type DelRequest, protocolVersion } from './attach-protocol.ts';
import { leftDetaches } from './left-detaches.ts';

const made: string[] = [];
afterEach(() => {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true });
});
const folder = (): string => made[made.push(mkdtempSync(join(tmpdir(), 'detach-'))) - 1]!;

const request: DelRequest = {
  version: protocolVersion,
  op: 'del',
  config: 'cluster',
  containerId: 'abc',
  cniIfname: 'eth0',
};

describe('DELs that were left', () => {
  test('are read as they were written, and stay until they are done', () => {
    const path = folder();
    writeFileSync(join(path, 'a.json'), `${JSON.stringify(request)}\n`);
    // Not whole yet.
    writeFileSync(join(path, 'b.json.tmp'), '{"ver');
    writeFileSync(join(path, '.c.json'), '{"ver');
    const { log, events } = recordingLog();
    const [left, ...others] = leftDetaches(path, log);
    expect([left?.request, others]).toEqual([request, []]);
    expect(leftDetaches(path, log)).toHaveLength(1);
    left?.done();
    left?.done();
    expect(readdirSync(path).sort()).toEqual(['.c.json', 'b.json.tmp']);
    expect(events()).toEqual([]);
  });

  test.each([
    ['nothing', ''],
    ['half', '{"version":'],
    ['another request', JSON.stringify({ version: protocolVersion, op: 'status' })],
    ['another version', JSON.stringify({ ...request, version: 1 })],
  ])('that are %s are told of and removed', (_name, content) => {
    const path = folder();
    writeFileSync(join(path, 'a.json'), content);
    const { log, events } = recordingLog();
    expect(leftDetaches(path, log)).toEqual([]);
    expect(events()).toEqual(['attachment.no-detach']);
    expect(readdirSync(path)).toEqual([]);
  });

  test('are none where there is no folder', () => {
    expect(leftDetaches('/nowhere/detach', recordingLog().log)).toEqual([]);
  });
});
