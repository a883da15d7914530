import type { LabOptions } from './args.ts';
import { LabError } from './errors.ts';
export async function runInQemu(_cache: string, _options: LabOptions): Promise<number> {
  await Promise.resolve();
  throw new LabError('not yet', '');
}
