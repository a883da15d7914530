import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { attempt } from './run.ts';
import { bound, slowness, slownessOf } from './slowness.ts';

test('nothing is slower unless the lab says so', () => {
  expect(slownessOf(undefined)).toBe(1);
  expect(slownessOf('4')).toBe(4);
  expect(bound(100)).toBe(100 * slowness);
});

test.each(['', '0', '0.5', 'NaN', 'much', '1000'])('%j is refused', (value) => {
  expect(() => slownessOf(value)).toThrow(`LAB_SLOWNESS is '${value}'`);
});

/** All of these wait longer than they may: a hook that runs twice, a test with a time-out of its own, one without. */
const waiting = `
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
beforeEach(() => wait(300), 100);
test('own', () => wait(300), 100);
test('common', () => wait(600));
`;

test.each([
  ['1', 2],
  ['20', 0],
])('jest waits %s times as long, and %s tests fail', async (factor, failed) => {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-slowness-'));
  try {
    writeFileSync(join(folder, 'waiting.test.js'), waiting);
    const testEnvironment = join(import.meta.dirname, 'patient-environment.cjs');
    const config = join(folder, 'jest.config.json');
    writeFileSync(config, JSON.stringify({ testEnvironment, transform: {} }));
    const jest = createRequire(import.meta.url).resolve('jest/bin/jest');
    const args = [jest, '--config', config, '--testTimeout=200', '--json', '--runInBand'];
    const { stdout } = await attempt(process.execPath, args, { env: { LAB_SLOWNESS: factor, NODE_OPTIONS: '' } });
    expect(JSON.parse(stdout)).toMatchObject({ numTotalTests: 2, numFailedTests: failed });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
