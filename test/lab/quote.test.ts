import { execFileSync } from 'node:child_process';
import { expect, test } from '@jest/globals';
import { jobScript, keptFolders } from './job.ts';
import { shellCommand, shellQuote } from './quote.ts';

const words = ['plain', '', 'a b', "it's", '"double"', '$HOME `id` \\', 'line\nbreak', '*', '~', '-n', 'é', "''", '\t'];

test('the shell hands quoted words on byte for byte', () => {
  const script = `for word in ${shellCommand(words)}; do printf '%s\\0' "$word"; done`;
  expect(execFileSync('/bin/sh', ['-c', script], { encoding: 'utf8' }).split('\0').slice(0, -1)).toEqual(words);
});

test('what no shell can hold is refused', () => {
  expect(() => shellQuote('a\0b')).toThrow(RangeError);
});

test('a job gets its folder, its arguments and only its own environment', () => {
  const env = { PATH: '/usr/bin:/bin', ODD: "it's $HOME" };
  const script = jobScript(env, '/', ['sh', '-c', 'pwd; echo "$ODD"; echo "${LEAK:-none}"; echo "$1"', 'sh', ' x ']);
  const output = execFileSync('/bin/sh', ['-c', script], { encoding: 'utf8', env: { LEAK: 'yes', PATH: '/bin' } });
  expect(output).toBe("/\nit's $HOME\nnone\n x \n");
});

test('folders that a fresh /tmp or /run would hide are kept, each once', () => {
  expect(keptFolders('/tmp/a', '/tmp/a/b', '/tmp/a', '/run/x', '/tmpfoo/y')).toEqual(
    expect.arrayContaining(['/tmp/a', '/run/x']),
  );
  expect(keptFolders('/tmp/a', '/tmp/a/b', '/tmpfoo/y')).not.toEqual(
    expect.arrayContaining([expect.stringMatching(/^\/tmp\/a\/|^\/tmpfoo/)]),
  );
});
