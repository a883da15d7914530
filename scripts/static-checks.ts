import { checkLicences } from '../image/licences.ts';
import { show } from './tasks.ts';

/** The checks that read the code and do not run it. */
export const staticChecks: readonly { readonly name: string; readonly run: () => Promise<number> }[] = [
  { name: 'types (tsc)', run: () => show('tsc', ['-p', '.']) },
  { name: 'lint (eslint)', run: () => show('eslint', ['.', '--max-warnings', '0']) },
  { name: 'format (prettier)', run: () => show('prettier', ['--check', '--log-level', 'warn', '.']) },
  { name: 'licences', run: checkLicences },
];
