import type { LabOptions } from './args.ts';
import { LabError } from './errors.ts';
export async function hostHasOvpn(): Promise<boolean> {
  return Promise.resolve(false);
}
export async function runOnHost(_options: LabOptions): Promise<number> {
  await Promise.resolve();
  throw new LabError('not yet', '');
}
