import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseSetupArgs, type Preparable, setupHelp } from './args.ts';
import { cacheFolder, exists } from './cache.ts';
import { report } from './errors.ts';
import { withLock } from './lock.ts';
import { screenProgress } from './progress.ts';
import type { Progress } from './progress.ts';
import { hasQemu, setUpQemu } from './qemu-setup.ts';
import { setUpTools, toolsFolder } from './tools.ts';
import { hasUml, setUpUml } from './uml-build.ts';

/** Whether everything that a kernel needs is in the cache. */
export async function isSetUp(kernel: Preparable, cache: string): Promise<boolean> {
  return (await exists(toolsFolder(cache))) && (kernel.kind === 'uml' ? hasUml(cache) : hasQemu(cache, kernel.series));
}

/** Prepares what the kernels need and the cache lacks; any number of processes may do so at once. */
export async function setUp(kernels: readonly Preparable[], cache: string, progress: Progress): Promise<void> {
  const missing: Preparable[] = [];
  for (const kernel of kernels) if (!(await isSetUp(kernel, cache))) missing.push(kernel);
  if (missing.length === 0) return;
  await withLock(cache, progress, async () => {
    // Under the lock nobody else is at work: what lies here was left by a run that was cut off.
    const temporaries = join(cache, 'tmp');
    if (await exists(temporaries))
      for (const name of await readdir(temporaries))
        await rm(join(temporaries, name), { recursive: true, force: true, maxRetries: 5 });
    await setUpTools(cache, progress);
    for (const kernel of missing) {
      if (kernel.kind === 'uml') await setUpUml(cache, progress);
      else await setUpQemu(cache, kernel.series, progress);
    }
  });
}

async function main(): Promise<void> {
  const choice = parseSetupArgs(process.argv.slice(2));
  if (choice === 'help') {
    process.stdout.write(setupHelp);
    return;
  }
  const progress = screenProgress('lab setup');
  const cache = cacheFolder();
  await setUp(choice, cache, progress);
  const names = choice.map((kernel) => (kernel.kind === 'uml' ? kernel.kind : `${kernel.kind}:${kernel.series}`));
  progress.step(`ready: ${names.join(', ')} (cache: ${cache})`);
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    report(error);
    process.exitCode = 1;
  }
}
