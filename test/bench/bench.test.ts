import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from '@jest/globals';
import { benchHelp, defaultClients, defaultNodes, defaultPeers, parseBenchArgs } from './args.ts';
import { peerNumber } from './peers.ts';
import { buildReference } from './reference.ts';
import { median, parseRows, type Row, row, significant, suiteNames } from './suite.ts';
import { formatFigure, formatTable } from './table.ts';

const parse = (...words: readonly string[]): ReturnType<typeof parseBenchArgs> => parseBenchArgs(words, '/home/me');

describe('the command line', () => {
  test('without arguments runs all suites with the default peers on whatever kernel there is', () => {
    expect(parse()).toStrictEqual({
      suites: [...suiteNames],
      peers: defaultPeers,
      clients: defaultClients,
      nodes: defaultNodes,
      kernel: 'auto',
      json: undefined,
      record: false,
    });
  });

  test('takes suites in any order, each once, and runs them in theirs', () => {
    expect(parse('cni', 'netlink', 'cni')).toMatchObject({ suites: ['netlink', 'cni'] });
  });

  test('takes options with a space or an equals sign', () => {
    const expected = { json: '/home/me/out.json', peers: [10, 500], clients: [20, 50], kernel: 'qemu' };
    expect(parse('--json', 'out.json', '--peers', '500,10,10', '--clients', '50,20', '--kernel', 'qemu')).toMatchObject(
      expected,
    );
    expect(parse('mesh', '--nodes', '50,10')).toMatchObject({ suites: ['mesh'], nodes: [10, 50] });
    expect(parse('--record', 'netlink')).toMatchObject({ record: true, suites: ['netlink'] });
    expect(parse('--json=out.json', '--peers=500,10', '--clients=20,50', '--kernel=qemu')).toMatchObject(expected);
    expect(parse('--json', '/tmp/a=b.json')).toMatchObject({ json: '/tmp/a=b.json' });
  });

  test('knows --help and --list', () => {
    expect(parse('netlink', '--help')).toBe('help');
    expect(parse('--list')).toBe('list');
    for (const name of ['--json', '--peers', '--clients', '--kernel', '--record', '--list'])
      expect(benchHelp).toContain(name);
  });

  test.each([
    [
      ['nettlink'],
      "there is no suite 'nettlink'; there are: netlink, reconcile, cni, control-channel, datapath, footprint, apply, kube, mesh",
    ],
    [['--fast'], 'there is no option --fast'],
    [['--json'], '--json needs a value'],
    [['--json='], '--json needs a value'],
    [['--peers', '0'], "--peers '0' is not a list of whole numbers from 1 to 60000"],
    [['--peers', '10,'], "--peers '10,'"],
    [['--peers', '1e3'], "--peers '1e3'"],
    [['--peers', '60001'], "--peers '60001'"],
    [['--clients', '10001'], "--clients '10001' is not a list of whole numbers from 1 to 10000"],
    [['--nodes', '501'], "--nodes '501' is not a list of whole numbers from 1 to 500"],
    [['--kernel', 'fast'], "--kernel 'fast' is not one of auto, uml, qemu, host"],
  ])('refuses %j and says what is right', (words, message) => {
    expect(() => parse(...words)).toThrow(message);
    expect(() => parse(...words)).toThrow('npm run bench -- --help');
  });
});

describe('figures', () => {
  test('the median is the middle one, or between the two in the middle', () => {
    expect(median([3, 100, 1])).toBe(3);
    expect(median([10, 2, 4, 1])).toBe(3);
    expect(median([7])).toBe(7);
    expect(() => median([])).toThrow(RangeError);
  });

  test('a series is left as it was', () => {
    const series = [3, 1, 2];
    median(series);
    expect(series).toStrictEqual([3, 1, 2]);
  });

  test('four digits count', () => {
    expect(significant(1.23456)).toBe(1.235);
    expect(significant(123456)).toBe(123500);
  });
});

describe('rows', () => {
  const made = row('netlink', 'PEER_NEW, 10 peers', 'µs/peer', {
    ours: [4, 2, 3],
    peer: [1, 2, 3],
    peerName: 'C program',
  });

  test('compare medians; below 1 is better for us', () => {
    expect(made).toStrictEqual({
      suite: 'netlink',
      name: 'PEER_NEW, 10 peers',
      unit: 'µs/peer',
      ours: 3,
      peer: 2,
      peerName: 'C program',
      ratio: 1.5,
    });
  });

  test('need a figure of the peer', () => {
    expect(() => row('cni', 'ADD', 'ms', { ours: [1], peer: [0], peerName: 'nobody' })).toThrow(
      "the peer's figure is 0",
    );
    expect(() => row('cni', 'ADD', 'ms', { ours: [1], peer: [], peerName: 'nobody' })).toThrow(RangeError);
  });

  test('come back from JSON as they were, with exactly their fields', () => {
    expect(parseRows(JSON.stringify([made]))).toStrictEqual([made]);
    const less = Object.fromEntries(Object.entries(made).filter(([name]) => name !== 'ratio'));
    for (const bad of [less, { ...made, more: 1 }, { ...made, ours: '3' }, { ...made, ratio: null }, null, 'row']) {
      expect(() => parseRows(JSON.stringify([bad]))).toThrow('not a row');
    }
    expect(() => parseRows('{}')).toThrow('not a list');
  });
});

describe('the table', () => {
  const one: Row = {
    suite: 'netlink',
    name: 'KEY_NEW',
    unit: 'µs/key',
    ours: 20,
    peer: 16,
    peerName: 'C program',
    ratio: 1.25,
  };
  const other: Row = {
    suite: 'cni',
    name: 'ADD, p50',
    unit: 'ms',
    ours: 1234.5,
    peer: 5.678,
    peerName: 'ip',
    ratio: 217.4,
  };

  test('aligns its columns, figures to the right, with a rate beside costs per item', () => {
    expect(formatTable([one, other])).toBe(
      [
        'suite    name       ours  peer  unit     ratio  ours/s  peer name',
        'netlink  KEY_NEW    20.0  16.0  µs/key    1.25  50,000  C program',
        'cni      ADD, p50  1,235  5.68  ms      217.40          ip',
        '',
      ].join('\n'),
    );
  });

  test('has a head when there is nothing else', () => {
    expect(formatTable([])).toMatch(/^suite .*peer name\n$/);
  });

  test.each([
    [0.1234, '0.12'],
    [9.876, '9.88'],
    [45.67, '45.7'],
    [12345678, '12,345,678'],
  ])('shows %d as %s', (value, text) => {
    expect(formatFigure(value)).toBe(text);
  });
});

describe('the programs', () => {
  test('peers have addresses of their own up to the greatest number', () => {
    expect(peerNumber(1)).toMatchObject({ remote: { address: '198.18.0.1', port: 1025 }, vpnIpv4: '10.80.0.1' });
    expect(peerNumber(60_000)).toMatchObject({
      remote: { address: '198.18.234.96', port: 1024 },
      vpnIpv4: '10.80.234.96',
    });
  });

  test('without a C compiler the error says what to install', async () => {
    const cache = mkdtempSync(join(tmpdir(), 'bench-test-'));
    await expect(buildReference(cache, 'no-such-compiler')).rejects.toThrow(
      /no C compiler 'no-such-compiler'.*\n.*gcc/,
    );
    await expect(buildReference(cache, 'false')).rejects.toThrow('cannot compile');
    rmSync(cache, { recursive: true });
  });

  test('an unknown suite ends with exit code 2 before anything is built', async () => {
    const bench = promisify(execFile)(process.execPath, [join(import.meta.dirname, 'bench.ts'), 'nope'], {
      env: { PATH: '' },
    });
    await expect(bench).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringContaining(
        'netlink, reconcile, cni, control-channel, datapath, footprint, apply, kube, mesh',
      ),
    });
  });
});
