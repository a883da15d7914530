import { expect, test } from '@jest/globals';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockState } from './state-lock.ts';

const folder = (): string => join(mkdtempSync(join(tmpdir(), 'state-lock-')), 'state');

test('one at a time has the state folder', () => {
  const path = folder();
  const release = lockState(path);
  expect(() => lockState(path)).toThrow(expect.objectContaining({ name: 'StateUnusable', where: { object: path } }));
  release();
  lockState(path)();
});

test('a folder that cannot be made is named', () => {
  const path = folder();
  writeFileSync(path, '');
  expect(() => lockState(path)).toThrow(expect.objectContaining({ name: 'StateUnusable', where: { object: path } }));
});
