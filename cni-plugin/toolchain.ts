/**
 * What the CNI binary is compiled with: the machine's gcc, and Debian's QuickJS and C library, unpacked into the
 * lab's cache. Both are Debian's own builds, as archives for static linking; nothing is installed but gcc.
 */
import { join } from 'node:path';
import { PrivateApt } from '../test/lab/apt.ts';
import { cacheFolder, cacheKey, exists, publish } from '../test/lab/cache.ts';
import { needPrograms } from '../test/lab/host-programs.ts';
import { withLock } from '../test/lab/lock.ts';
import { unpackPrograms } from '../test/lab/packages.ts';
import { screenProgress } from '../test/lab/progress.ts';
import { must } from '../test/lab/run.ts';
import { unpackDeb } from '../test/lab/tools.ts';

export type Arch = 'x64' | 'arm64';

export interface Toolchain {
  readonly gcc: string;
  /** The root that headers and libraries of the C library are found in. */
  readonly sysroot: string;
  /** Folders of headers. Cross compilers of Debian do not look into those of its architectures by themselves. */
  readonly includes: readonly string[];
  /** The folder of the start files and archives of the C library. */
  readonly libraries: string;
  /** libquickjs.a */
  readonly quickjs: string;
}

/** One suite, so that QuickJS and the C library it was built with fit. */
const packages = ['libquickjs', 'libc6', 'libc6-dev', 'linux-libc-dev'] as const;
const suite = 'trixie';

const names = {
  x64: { debian: 'amd64', triplet: 'x86_64-linux-gnu', gccPackage: 'gcc-x86-64-linux-gnu' },
  arm64: { debian: 'arm64', triplet: 'aarch64-linux-gnu', gccPackage: 'gcc-aarch64-linux-gnu' },
} as const;

/** Sees to it that the toolchain for an architecture is there. @throws LabError */
export async function needToolchain(arch: Arch): Promise<Toolchain> {
  const { debian, triplet, gccPackage } = names[arch];
  const cache = cacheFolder();
  const sysroot = join(cache, `quickjs-${debian}-${cacheKey({ packages: packages.join(' '), suite, debian })}`);
  const isOwn = arch === process.arch;
  const gcc = isOwn ? 'gcc' : `${triplet}-gcc`;
  const progress = screenProgress('cni');
  await needPrograms([{ program: gcc, package: isOwn ? 'gcc' : gccPackage }], 'building the CNI binary', progress);
  if (!(await exists(sysroot))) {
    await withLock(cache, progress, async () => {
      if (await exists(sysroot)) return;
      await needPrograms(unpackPrograms, 'fetching QuickJS', progress);
      const apt = new PrivateApt(cache, progress, isOwn ? undefined : debian);
      progress.step(`fetching ${packages.join(', ')} of Debian ${suite} for ${debian}`);
      await publish(sysroot, async (folder) => {
        for (const deb of await apt.download(
          packages.map((name) => `${name}/${suite}`),
          folder,
        )) {
          await unpackDeb(deb, folder);
          await must('rm', [deb]);
        }
      });
    });
  }
  return {
    gcc,
    sysroot,
    includes: [join(sysroot, 'usr/include'), join(sysroot, 'usr/include', triplet)],
    libraries: join(sysroot, 'usr/lib', triplet),
    quickjs: join(sysroot, 'usr/lib', triplet, 'quickjs/libquickjs.a'),
  };
}
