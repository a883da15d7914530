import { afterEach, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { type Installation, Ledger, type LedgerEntry } from './ledger.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

function ledgerPath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'ledger-'));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'state', 'spent-keys.jsonl');
}

let time = 1_000;
function open(path: string): Ledger {
  const ledger = Ledger.open(path, () => time);
  cleanups.push(() => ledger.close());
  return ledger;
}

const installation = (fingerprint: string, peerId = 7, keyId = 1): Installation => ({
  fingerprint,
  network: 'corp',
  peerId,
  keyId,
  key: 'VpnKey team-a/office',
  generation: keyId,
});

const fingerprints = ['a', 'b', 'c', 'd', 'e'];
const peerIds = [7, 8];
const keyIds = [1, 2];

/** Everything that can be asked of a ledger. */
function view(ledger: Ledger): unknown {
  return {
    entries: fingerprints.map((fingerprint) => ledger.entry(fingerprint)),
    last: peerIds.flatMap((peerId) => keyIds.map((keyId) => ledger.lastAt('corp', peerId, keyId))),
  };
}

type Act =
  | { readonly act: 'reserve' | 'confirm'; readonly of: readonly Installation[] }
  | { readonly act: 'switched' | 'release'; readonly fingerprint: string }
  | { readonly act: 'reopen' };

const someInstallation = fc
  .tuple(fc.constantFrom(...fingerprints), fc.constantFrom(...peerIds), fc.constantFrom(...keyIds))
  .map((parts) => installation(...parts));
const acts: fc.Arbitrary<Act[]> = fc.array(
  fc.oneof<fc.Arbitrary<Act>[]>(
    fc.record({ act: fc.constantFrom('reserve', 'confirm'), of: fc.array(someInstallation, { maxLength: 3 }) }),
    fc.record({ act: fc.constantFrom('switched', 'release'), fingerprint: fc.constantFrom(...fingerprints) }),
    fc.constant({ act: 'reopen' }),
  ),
  { maxLength: 14 },
);

function perform(ledger: Ledger, act: Exclude<Act, { act: 'reopen' }>): void {
  if ('of' in act) ledger[act.act](act.of);
  else ledger[act.act](act.fingerprint);
}

describe('the ledger', () => {
  test('remembers a key from the reservation on, over restarts', () => {
    const path = ledgerPath();
    const ledger = open(path);
    expect(ledger.entry('a')).toBeUndefined();
    time = 5_000;
    ledger.reserve([installation('a')]);
    expect(open(path).entry('a')).toEqual({
      ...installation('a'),
      state: 'reserved',
      installedAt: 5_000,
      switchedAt: undefined,
    });
    time = 6_000;
    ledger.confirm([installation('a')]);
    time = 7_000;
    ledger.switched('a');
    const entry: LedgerEntry = { ...installation('a'), state: 'installed', installedAt: 6_000, switchedAt: 7_000 };
    expect(ledger.entry('a')).toEqual(entry);
    expect(open(path).entry('a')).toEqual(entry);
    expect(open(path).lastAt('corp', 7, 1)).toEqual(entry);
    expect(open(path).lastAt('other', 7, 1)).toBeUndefined();
    ledger.release('a');
    expect(ledger.entry('a')).toBeUndefined();
    expect(open(path).entry('a')).toBeUndefined();
    expect(open(path).lastAt('corp', 7, 1)).toBeUndefined();
  });

  test('is only for its owner to read', () => {
    const path = ledgerPath();
    open(path).reserve([installation('a')]);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(join(path, '..')).mode & 0o777).toBe(0o700);
  });

  test('knows the key before a released one again', () => {
    const ledger = open(ledgerPath());
    ledger.confirm([installation('a')]);
    ledger.reserve([installation('b')]);
    expect(ledger.lastAt('corp', 7, 1)?.fingerprint).toBe('b');
    ledger.release('b');
    expect(ledger.lastAt('corp', 7, 1)?.fingerprint).toBe('a');
  });

  test('says the same after every restart and compaction', () => {
    fc.assert(
      fc.property(acts, (happenings) => {
        const path = ledgerPath();
        let ledger = open(path);
        for (const act of happenings) {
          time += 10;
          if (act.act === 'reopen') ledger = open(path);
          else perform(ledger, act);
          const expected = view(ledger);
          expect(view(open(path))).toEqual(expected);
          // Half a line at the end makes it write the file anew.
          writeFileSync(`${path}.copy`, `${readFileSync(path, 'utf8')}{"event":`);
          expect(view(open(`${path}.copy`))).toEqual(expected);
          expect(readFileSync(`${path}.copy`, 'utf8')).not.toContain('{"event":{');
          expect(view(open(`${path}.copy`))).toEqual(expected);
        }
        for (const cleanup of cleanups.splice(0).reverse()) cleanup();
      }),
      { numRuns: 40 },
    );
  });

  test('opens after a crash at any byte, and forgets no key whose line was whole', () => {
    const path = ledgerPath();
    const ledger = open(path);
    ledger.reserve([installation('a'), installation('b', 8)]);
    ledger.confirm([installation('a'), installation('b', 8)]);
    ledger.switched('b');
    ledger.reserve([installation('ü')]);
    ledger.release('a');
    const whole = readFileSync(path);
    for (let length = 0; length <= whole.length; length++) {
      const cut = `${path}.${length}`;
      const bytes = whole.subarray(0, length);
      writeFileSync(cut, bytes);
      const reopened = Ledger.open(cut, () => time);
      const lines = bytes.toString('utf8').split('\n').slice(0, -1);
      const released = lines.some((line) => line.includes('"released"'));
      for (const [fingerprint, peerId] of [
        ['a', 7],
        ['b', 8],
        ['ü', 7],
      ] as const) {
        const written = lines.some(
          (line) => line.includes(`"fingerprint":"${fingerprint}"`) && line.includes('"entry"'),
        );
        expect(reopened.entry(fingerprint)?.peerId).toBe(
          written && !(fingerprint === 'a' && released) ? peerId : undefined,
        );
      }
      // What is written next is on a line of its own.
      reopened.reserve([installation('next')]);
      reopened.close();
      const again = Ledger.open(cut, () => time);
      expect(again.entry('next')).toBeDefined();
      again.close();
    }
  });

  test.each<[string, string]>([
    ['text', 'not json'],
    ['an empty line', ''],
    ['another JSON value', '[]'],
    ['null', 'null'],
    ['no time', '{"event":"switched","fingerprint":"a"}'],
    ['a time that is no number', '{"event":"switched","at":"1","fingerprint":"a"}'],
    ['an unknown event', '{"event":"forgotten","at":1,"fingerprint":"a"}'],
    ['no fingerprint', '{"event":"released","at":1}'],
    ['no entry', '{"event":"reserved","at":1}'],
    [
      'an entry with a field too few',
      '{"event":"reserved","at":1,"entry":{"fingerprint":"a","network":"corp","peerId":1,"keyId":1,"key":"k"}}',
    ],
    [
      'an entry with a wrong field',
      JSON.stringify({ event: 'installed', at: 1, entry: { ...installation('a'), peerId: '7' } }),
    ],
  ])('refuses a file with %s in the middle, and names the line', (_name, line) => {
    const path = ledgerPath();
    const ledger = open(path);
    ledger.reserve([installation('a')]);
    appendFileSync(path, `${line}\n`);
    ledger.reserve([installation('b')]);
    const before = readFileSync(path);
    expect(() => open(path)).toThrow(
      expect.objectContaining({
        name: 'LedgerUnusable',
        problem: expect.stringContaining('line 2'),
        where: { object: path },
      }),
    );
    expect(readFileSync(path)).toEqual(before);
  });

  test('rewrites a file that has grown out of proportion, with all that it said', () => {
    const path = ledgerPath();
    const ledger = open(path);
    ledger.confirm([installation('a'), installation('b', 8)]);
    ledger.switched('a');
    const noise = `${JSON.stringify({ event: 'switched', at: 1, fingerprint: 'nobody' })}\n`;
    appendFileSync(path, noise.repeat(10_010));
    const expected = view(ledger);
    const before = statSync(path).size;
    expect(view(open(path))).toEqual(expected);
    expect(statSync(path).size).toBeLessThan(before / 100);
    expect(view(open(path))).toEqual(expected);
  });

  test('does not know what it could not write', () => {
    const ledger = open(ledgerPath());
    ledger.confirm([installation('a')]);
    ledger.close();
    expect(() => ledger.reserve([installation('b')])).toThrow(expect.objectContaining({ name: 'LedgerUnusable' }));
    expect(ledger.entry('b')).toBeUndefined();
    expect(() => ledger.release('a')).toThrow(expect.objectContaining({ name: 'LedgerUnusable' }));
    expect(ledger.entry('a')).toBeDefined();
  });

  test('cannot be opened where a file stands in the way', () => {
    const path = ledgerPath();
    open(path);
    expect(() => open(join(path, 'below', 'ledger'))).toThrow(expect.objectContaining({ name: 'LedgerUnusable' }));
    if (process.getuid?.() === 0) return;
    chmodSync(path, 0o400);
    expect(() => open(path)).toThrow(expect.objectContaining({ name: 'LedgerUnusable' }));
  });

  /** Runs a program under a limit of 4 KiB per file: the disk is full in the middle of a line. */
  function onFullDisk(program: string, path: string): string {
    const file = `${path}.program.mjs`;
    rmSync(join(path, '..'), { recursive: true, force: true });
    open(path);
    writeFileSync(file, program);
    return execFileSync(
      'bash',
      ['-c', 'ulimit -Sf 4 && exec "$0" "$@"', process.execPath, '--no-warnings', file, path],
      {
        encoding: 'utf8',
        cwd: import.meta.dirname,
      },
    );
  }

  const module = (name: string): string => JSON.stringify(new URL(name, import.meta.url).href);

  test('goes on after a full disk, and the half line that it left is not glued to the next one', () => {
    const path = ledgerPath();
    const said = onFullDisk(
      `import { Ledger } from ${module('./ledger.ts')};
       import { statSync } from 'node:fs';
       const path = process.argv[2];
       const one = (fingerprint) => ({ fingerprint, network: 'corp', peerId: 7, keyId: 1, key: 'k'.repeat(200), generation: 1 });
       const ledger = Ledger.open(path, () => 1);
       let i = 0;
       try { for (;;) { ledger.reserve([one('key' + i)]); i++; } } catch (error) { console.log(error.name, i, ledger.entry('key' + i) === undefined); }
       console.log(statSync(path).size);
       // Releasing makes room once the file is written anew.
       for (let gone = 0; gone < i; gone++) { try { ledger.release('key' + gone); } catch (error) { console.log(error.name); } }
       ledger.reserve([one('after')]);
       ledger.close();
       const again = Ledger.open(path, () => 1);
       console.log(again.entry('after') !== undefined, again.entry('key' + i) === undefined);`,
      path,
    );
    const [failure = '', size, ...rest] = said.trim().split('\n');
    expect(failure).toMatch(/^LedgerUnusable \d+ true$/);
    expect(size).toBe('4096');
    expect(rest.at(-1)).toBe('true true');
  });

  test('is never replaced by a part of itself', () => {
    const path = ledgerPath();
    const said = onFullDisk(
      `import { writeDurably } from ${module('./durable-file.ts')};
       import { readFileSync } from 'node:fs';
       const path = process.argv[2];
       writeDurably(path, 'what was there');
       try { writeDurably(path, 'x'.repeat(10000)); console.log('no error'); } catch (error) { console.log(error.code); }
       console.log(readFileSync(path, 'utf8'));`,
      path,
    );
    expect(said).toBe('EFBIG\nwhat was there\n');
  });
});
