import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseSetupArgs, setupHelp } from './args.ts';
import { cacheFolder, exists } from './cache.ts';
import { report } from './errors.ts';
import { withLock } from './lock.ts';
import { screenProgress } from './progress.ts';
import type { Progress } from './progress.ts';
import { hasQemu, setUpQemu } from './qemu-setup.ts';
import { setUpTools, toolsFolder } from './tools.ts';
import { hasUml, setUpUml } from './uml-build.ts';

/** Whether everything a kind needs is in the cache. */
export async function isSetUp(kind: 'uml' | 'qemu', cache: string): Promise<boolean> {
  return (await exists(toolsFolder(cache))) && (kind === 'uml' ? hasUml(cache) : hasQemu(cache));
}

/** Prepares what the kinds need and the cache lacks; any number of processes may do so at once. */
export async function setUp(kinds: readonly ('uml' | 'qemu')[], cache: string, progress: Progress): Promise<void> {
  const missing: ('uml' | 'qemu')[] = [];
  for (const kind of kinds) if (!(await isSetUp(kind, cache))) missing.push(kind);
  if (missing.length === 0) return;
  await withLock(cache, progress, async () => {
    // Under the lock nobody else is at work: what lies here was left by a run that was cut off.
    const temporaries = join(cache, 'tmp');
    if (await exists(temporaries))
      for (const name of await readdir(temporaries))
        await rm(join(temporaries, name), { recursive: true, force: true, maxRetries: 5 });
    await setUpTools(cache, progress);
    if (missing.includes('qemu')) await setUpQemu(cache, progress);
    if (missing.includes('uml')) await setUpUml(cache, progress);
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
  await setUp(choice === 'all' ? ['qemu', 'uml'] : [choice], cache, progress);
  progress.step(`ready: ${choice === 'all' ? 'uml and qemu' : choice} (cache: ${cache})`);
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    report(error);
    process.exitCode = 1;
  }
}
