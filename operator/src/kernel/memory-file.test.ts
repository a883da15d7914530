import { describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { fstatSync, readdirSync, readlinkSync } from 'node:fs';
import { MemoryFile } from './memory-file.ts';

const bytes = (text: string): Buffer => Buffer.from(text);

describe('a file in memory', () => {
  test('holds what is written, where it is written', () => {
    const file = MemoryFile.create('test');
    expect(file.size).toBe(0);
    expect(file.read()).toEqual(bytes(''));
    file.write(bytes('one two'), 0);
    file.write(bytes('TWO three'), 4);
    expect(file.read().toString()).toBe('one TWO three');
    file.truncate(3);
    expect(file.read().toString()).toBe('one');
    file.close();
    expect(() => file.size).toThrow(/EBADF/);
  });

  test('is in no folder, and not for programs that are started', () => {
    const file = MemoryFile.create('states');
    expect(readlinkSync(`/proc/self/fd/${file.fd}`)).toBe('/memfd:states (deleted)');
    expect(fstatSync(file.fd).nlink).toBe(0);
    const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
    expect(stdout).not.toContain('memfd:states');
    expect(readdirSync('/proc/self/fd')).toContain(String(file.fd));
    file.close();
  });

  test('takes more than one call can carry', () => {
    const file = MemoryFile.create('test');
    const many = Buffer.alloc(5_000_000, 'abcdefg');
    file.write(many, 1);
    expect(file.size).toBe(many.length + 1);
    expect(file.read().subarray(1).equals(many)).toBe(true);
    file.close();
  });
});
