import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { PrivateApt } from './apt.ts';
import { cacheKey, exists, needSpace, publish } from './cache.ts';
import { LabError } from './errors.ts';
import { needPrograms } from './host-programs.ts';
import { missingOptions, parseConfig } from './kconfig.ts';
import { umlPrograms, umlSource, unpackPrograms } from './packages.ts';
import type { Progress } from './progress.ts';
import { lastLines, must, run } from './run.ts';

const fragmentFile = join(import.meta.dirname, 'kernel', 'uml.config');
/** Lines `make` prints for one whole build, for the progress display only. */
const knownLines = 1880;
/** Source tree and objects together, with a reserve. */
const buildBytes = 4 * 2 ** 30;

/** What a person should expect of the compile. */
export const umlBuildTime = 'about 11 CPU minutes, so 6 minutes on 2 cores';

/** The folder of the cached user-mode Linux kernel. */
export async function umlFolder(cache: string): Promise<string> {
  // The options count, not the comments between them.
  const options = JSON.stringify([...parseConfig(await readFile(fragmentFile, 'utf8'))].sort());
  return join(cache, `uml-${cacheKey({ source: umlSource.package, options, arch: process.arch })}`);
}

/** Whether the user-mode Linux kernel is built. */
export async function hasUml(cache: string): Promise<boolean> {
  return exists(join(await umlFolder(cache), 'linux'));
}

/** Builds the user-mode Linux kernel if it is not in the cache. */
export async function setUpUml(cache: string, progress: Progress): Promise<void> {
  if (await hasUml(cache)) return;
  if (process.arch !== 'x64') {
    throw new LabError(
      `user-mode Linux does not exist for this machine's architecture (${process.arch})`,
      'Run on x86-64, or on a machine whose own kernel has ovpn (--kernel host).',
    );
  }
  await needPrograms([...unpackPrograms, ...umlPrograms], 'building user-mode Linux', progress);
  await mkdir(cache, { recursive: true });
  await needSpace(cache, buildBytes, 'building user-mode Linux');
  await publish(await umlFolder(cache), async (folder) => {
    await build(cache, folder, progress);
  });
}

async function build(cache: string, folder: string, progress: Progress): Promise<void> {
  const apt = new PrivateApt(cache, progress);
  await apt.prepare();
  const work = join(folder, 'build');
  const out = join(work, 'out');
  await mkdir(out, { recursive: true });

  progress.step(`downloading the kernel source (${umlSource.package}, about 170 MB)`);
  const [deb = ''] = await apt.download([`${umlSource.package}/${umlSource.suite}`], work);
  progress.step('unpacking the kernel source');
  await must('dpkg-deb', ['-x', deb, work]);
  // The documentation is a tenth of the tree and no part of a build; its top holds Makefiles that are.
  const tarball = join(work, 'usr/src', `${umlSource.package}.tar.xz`);
  await must('tar', ['-xf', tarball, '-C', work, '--exclude=*/Documentation/*/*']);

  progress.step('configuring');
  const source = join(work, umlSource.package);
  const make = ['-C', source, 'ARCH=um', `O=${out}`];
  await must('make', [...make, 'defconfig']);
  const fragment = await readFile(fragmentFile, 'utf8');
  const config = join(out, '.config');
  await writeFile(config, `${await readFile(config, 'utf8')}\n${fragment}`);
  await must('make', [...make, 'olddefconfig']);
  const missing = missingOptions(fragment, await readFile(config, 'utf8'));
  if (missing.length > 0) {
    throw new LabError(
      `this kernel source does not take all of ${fragmentFile}:\n  ${missing.join('\n  ')}`,
      'Each needs another option on, or has a new name: see its "depends on" in the Kconfig files of the source.',
    );
  }

  const jobs = availableParallelism();
  progress.step(`compiling user-mode Linux on ${jobs} CPUs (${umlBuildTime})`);
  await compile([...make, `-j${jobs}`, 'linux'], cache, progress);
  await must('strip', ['-o', join(folder, 'linux'), join(out, 'linux')]);
  await copyFile(config, join(folder, 'config'));
  await writeFile(join(folder, 'source'), `${deb.split('/').pop() ?? ''}\n`);
  await rm(work, { recursive: true, force: true });
}

async function compile(args: readonly string[], cache: string, progress: Progress): Promise<void> {
  let lines = 0;
  const timer = setInterval(() => {
    progress.detail(`${lines} of about ${knownLines} files compiled`);
  }, 10_000);
  try {
    const onLine = (line: string): void => {
      if (/^ {2}(AR|AS|CC|HOSTCC|HOSTLD|LD) /.test(line)) lines += 1;
    };
    const done = await run('make', args, { onLine });
    if (done.code === 0) return;
    const log = join(cache, 'uml-build.log');
    await writeFile(log, `${done.stdout}\n${done.stderr}`);
    throw new LabError(
      `the kernel did not compile (make ended with code ${done.code}):\n${lastLines(done.stderr, 15)}`,
      `The whole log: ${log}`,
    );
  } finally {
    clearInterval(timer);
  }
}
