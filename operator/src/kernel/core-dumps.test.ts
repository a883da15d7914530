import { expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

test('a process that refuses core dumps is not dumpable, and was before', () => {
  const libc = join(import.meta.dirname, 'libc.ts');
  // PR_GET_DUMPABLE is 3. In a process of its own: there is no way back that others would not see.
  const script = `
    import koffi from 'koffi';
    import { refuseCoreDumps } from '${libc}';
    const prctl = koffi.load(null).func('int prctl(int option, long a, long b, long c, long d)');
    const before = prctl(3, 0, 0, 0, 0);
    refuseCoreDumps();
    console.log(before, prctl(3, 0, 0, 0, 0));`;
  const options = { cwd: import.meta.dirname, encoding: 'utf8', stdio: 'pipe' } as const;
  const said = execFileSync(process.execPath, ['--input-type=module', '--eval', script], options);
  expect(said.trim()).toBe('1 0');
});
