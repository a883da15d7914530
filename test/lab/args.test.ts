import { describe, expect, test } from '@jest/globals';
import { parseLabArgs, parseMemory, parseSetupArgs } from './args.ts';
import type { LabOptions } from './args.ts';
import { UsageError } from './errors.ts';

function parse(...words: string[]): LabOptions {
  const options = parseLabArgs(words, '/work');
  if (options === 'help') throw new Error('unexpected help');
  return options;
}

describe('lab arguments', () => {
  test('everything after the first word that is no option belongs to the command', () => {
    expect(parse('--timeout', '5', 'node', '--help', '--', '--kernel')).toMatchObject({
      timeout: 5,
      argv: ['node', '--help', '--', '--kernel'],
    });
  });

  test('-- ends the options, so a command may begin with a dash', () => {
    expect(parse('--', '--odd', 'a b', '')).toMatchObject({ argv: ['--odd', 'a b', ''] });
  });

  test('options take their value as the next word or after =', () => {
    expect(parse('--kernel=qemu', '--env', 'A=1=2', '--env=B=', '--results', 'out', 'true')).toMatchObject({
      kernel: 'qemu',
      env: { A: '1=2', B: '' },
      results: '/work/out',
    });
  });

  test('without options nothing is asked for', () => {
    expect(parse('true')).toEqual({
      kernel: 'auto',
      series: '7.3',
      noBuild: false,
      results: undefined,
      cpus: undefined,
      memory: undefined,
      timeout: undefined,
      env: {},
      argv: ['true'],
    });
  });

  test("which of Debian's kernels QEMU runs comes after a colon", () => {
    expect(parse('--kernel', 'qemu:7.0', 'true')).toMatchObject({ kernel: 'qemu', series: '7.0' });
    expect(parse('--kernel', 'qemu:7.0', '--kernel', 'qemu', 'true')).toMatchObject({ kernel: 'qemu', series: '7.3' });
  });

  test('--help wins before the command', () => {
    expect(parseLabArgs(['--cpus', '2', '--help'], '/')).toBe('help');
  });

  test.each([
    [[], /no command/],
    [['--kernel', 'uml'], /no command/],
    [['--kernel', 'bsd', 'true'], /'bsd' is not one of/],
    [['--kernel', 'qemu:6.1', 'true'], /'qemu:6.1' is not one of .*qemu:7.0, qemu:7.3/],
    [['--kernel', 'uml:7.3', 'true'], /'uml:7.3' is not one of/],
    [['--kernel'], /--kernel needs a value/],
    [['--speed', '3', 'true'], /no option --speed/],
    [['--cpus', '0', 'true'], /--cpus '0'/],
    [['--cpus', '5', 'true'], /1 to 4/],
    [['--timeout', '1.5', 'true'], /--timeout '1.5'/],
    [['--env', '1A=x', 'true'], /NAME=VALUE/],
    [['--memory', '3', 'true'], /512M or 3G/],
    [['--memory', '64M', 'true'], /at least 256M/],
  ])('%j is refused and says why', (words, message) => {
    expect(() => parseLabArgs(words, '/')).toThrow(UsageError);
    expect(() => parseLabArgs(words, '/')).toThrow(message);
  });

  test('sizes are read as MiB', () => {
    expect([parseMemory('512M'), parseMemory('3G'), parseMemory('1g')]).toEqual([512, 3072, 1024]);
  });
});

describe('setup arguments', () => {
  test('names kernels, user-mode Linux if none', () => {
    expect(parseSetupArgs([])).toEqual([{ kind: 'uml' }]);
    expect(parseSetupArgs(['--kernel', 'qemu'])).toEqual([{ kind: 'qemu', series: '7.3' }]);
    expect(parseSetupArgs(['--kernel=qemu:7.0'])).toEqual([{ kind: 'qemu', series: '7.0' }]);
    expect(parseSetupArgs(['--kernel=all'])).toEqual([
      { kind: 'qemu', series: '7.0' },
      { kind: 'qemu', series: '7.3' },
      { kind: 'uml' },
    ]);
    expect(parseSetupArgs(['--help'])).toBe('help');
  });

  test.each([[['qemu']], [['--kernel']], [['--kernel', 'host']], [['--kernel=qemu:']]])('%j is refused', (words) => {
    expect(() => parseSetupArgs(words)).toThrow(UsageError);
  });
});
