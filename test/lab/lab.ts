import { labHelp, parseLabArgs } from './args.ts';
import type { KernelKind, LabOptions } from './args.ts';
import { cacheFolder } from './cache.ts';
import { LabError, report } from './errors.ts';
import { runOnHost, whyNotHost } from './host.ts';
import { screenProgress } from './progress.ts';
import { runInQemu } from './qemu.ts';
import { isSetUp, setUp } from './setup.ts';
import { runInUml } from './uml.ts';
import { umlBuildTime } from './uml-build.ts';

/** Decides the kernel, and prepares it if the options allow that. */
async function chooseKernel(options: LabOptions, cache: string): Promise<KernelKind> {
  const { kernel } = options;
  const automatic = kernel === 'auto' || kernel === 'fast';
  if (kernel === 'host' || (automatic && (await whyNotHost()) === undefined)) return 'host';
  const progress = screenProgress('lab');
  if (kernel === 'uml' || automatic) {
    if (await isSetUp({ kind: 'uml' }, cache)) return 'uml';
    if (kernel !== 'fast' && !options.noBuild) {
      progress.step(`no user-mode Linux in ${cache} yet: preparing it, once (${umlBuildTime})`);
      progress.detail('to run without compiling: lab --kernel fast');
      await setUp([{ kind: 'uml' }], cache, progress);
      return 'uml';
    }
    if (kernel === 'uml') {
      throw new LabError(
        `user-mode Linux is not built in ${cache}, and --no-build forbids building it`,
        `Run: npm run lab:setup (${umlBuildTime}), or use --kernel qemu.`,
      );
    }
  }
  const stock = { kind: 'qemu', series: options.series } as const;
  if (!(await isSetUp(stock, cache))) {
    progress.step(`preparing QEMU with Linux ${options.series} in ${cache}, once (about a minute)`);
    if (automatic) progress.detail('jobs start and run faster on user-mode Linux: npm run lab:setup builds it');
    await setUp([stock], cache, progress);
  }
  return 'qemu';
}

async function main(): Promise<number> {
  const options = parseLabArgs(process.argv.slice(2), process.cwd());
  if (options === 'help') {
    process.stdout.write(labHelp);
    return 0;
  }
  const cache = cacheFolder();
  const kind = await chooseKernel(options, cache);
  switch (kind) {
    case 'host':
      return runOnHost(options);
    case 'uml':
      return runInUml(cache, options);
    case 'qemu':
      return runInQemu(cache, options);
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  report(error);
  process.exitCode = 125;
}
