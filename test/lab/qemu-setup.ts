import { mkdir, readFile, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { PrivateApt } from './apt.ts';
import { cacheKey, exists, publish } from './cache.ts';
import { LabError } from './errors.ts';
import { needPrograms } from './host-programs.ts';
import { qemuPrograms, type StockKernel, stockKernels, type StockSeries, unpackPrograms } from './packages.ts';
import type { Progress } from './progress.ts';
import { hasProgram, must } from './run.ts';
import { unpackDeb } from './tools.ts';

/** Changes when the way the kernel is unpacked changes. */
const layout = '3';
/** Where programs that are not for everyday use are. */
const virtiofsdPlaces = ['/usr/libexec/virtiofsd', '/usr/lib/qemu/virtiofsd'];

/** The folder of the cached stock kernel: `vmlinuz`, and `root` with its modules. */
export function qemuFolder(cache: string, series: StockSeries): string {
  const kernel: StockKernel = stockKernels[series];
  const from = 'files' in kernel ? kernel.files.map(({ sha256 }) => sha256).join(' ') : kernel.pattern.source;
  return join(cache, `qemu-${series}-${cacheKey({ layout, from, arch: process.arch })}`);
}

/** The program that shares host folders with the guest, if the machine has it. */
export async function findVirtiofsd(): Promise<string | undefined> {
  for (const place of virtiofsdPlaces) if (await exists(place)) return place;
  return undefined;
}

/** Whether QEMU can run that kernel at once. */
export async function hasQemu(cache: string, series: StockSeries): Promise<boolean> {
  return (
    (await exists(qemuFolder(cache, series))) &&
    (await hasProgram('qemu-system-x86_64')) &&
    (await findVirtiofsd()) !== undefined
  );
}

/** Fetches the stock kernel and QEMU if they are not there. */
export async function setUpQemu(cache: string, series: StockSeries, progress: Progress): Promise<void> {
  if (process.arch !== 'x64')
    throw new LabError(
      `the QEMU lab is for x86-64 only, and this is ${process.arch}`,
      'Use --kernel host on a kernel with ovpn.',
    );
  await needPrograms([...unpackPrograms, ...qemuPrograms], 'the QEMU lab', progress);
  if ((await findVirtiofsd()) === undefined)
    await needPrograms([{ program: 'virtiofsd', package: 'virtiofsd' }], 'the QEMU lab', progress);
  if (await exists(qemuFolder(cache, series))) return;
  const apt = new PrivateApt(cache, progress);
  await apt.prepare();
  progress.step(`fetching Debian's stock kernel ${series} (about 50 MB)`);
  await publish(qemuFolder(cache, series), async (folder) => {
    const root = join(folder, 'root');
    await mkdir(root);
    for (const deb of await fetchKernel(apt, stockKernels[series], folder)) {
      await unpackDeb(deb, root);
      await rm(deb);
    }
    const modules = join(root, 'usr/lib/modules');
    const [version = ''] = await readdir(modules);
    await must('depmod', ['-b', root, version], { env: { PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` } });
    // Debian moved it from /boot with 7.2.
    const inBoot = join(root, 'boot', `vmlinuz-${version}`);
    const image = (await exists(inBoot)) ? inBoot : join(modules, version, 'vmlinuz');
    await rename(image, join(folder, 'vmlinuz'));
    // What remains is a layer over the host's root: nothing but the modules may be in it.
    for (const name of await readdir(root)) if (name !== 'usr') await rm(join(root, name), { recursive: true });
    for (const name of await readdir(join(root, 'usr')))
      if (name !== 'lib') await rm(join(root, 'usr', name), { recursive: true });
    // modprobe finds nothing without the dependency list; better to notice now.
    if (!(await readFile(join(modules, version, 'modules.dep'), 'utf8')).includes('ovpn'))
      throw new LabError(
        `the stock kernel ${version} has no ovpn module`,
        'Report this: the package list of test/lab is out of date.',
      );
  });
}

/** Downloads the packages of a stock kernel into a folder; returns the files. */
async function fetchKernel(apt: PrivateApt, kernel: StockKernel, folder: string): Promise<string[]> {
  if ('files' in kernel) return apt.downloadFiles(kernel.files, folder);
  const names = (await apt.search(kernel.pattern)).flatMap((name) => kernel.pattern.exec(name)?.[1] ?? []);
  const release = names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1);
  if (release === undefined) {
    throw new LabError(
      `the Debian mirror has no package ${kernel.pattern.source} (a stock kernel with the ovpn driver)`,
      'Is the mirror complete? Another one: set OVPN_LAB_MIRROR and remove the cache folder.',
    );
  }
  return apt.download(
    kernel.packages(release).map((name) => `${name}/${kernel.suite}`),
    folder,
  );
}
