import { cp, mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { PrivateApt } from './apt.ts';
import { cacheKey, exists, publish } from './cache.ts';
import { needPrograms } from './host-programs.ts';
import { notUnpacked, previousOpenvpn, tools, unpackPrograms } from './packages.ts';
import type { Progress } from './progress.ts';
import { must } from './run.ts';

/** Changes when the way the tools are unpacked changes. */
const layout = '1';
/** Parts of packages that no program in the lab reads. */
const dropped = [
  'usr/share/doc',
  'usr/share/man',
  'usr/share/locale',
  'usr/share/info',
  'usr/share/lintian',
  'usr/share/bug',
];

/** The folder of unpacked newer programs and libraries that is laid over the host's root in the guests. */
export function toolsFolder(cache: string): string {
  const inputs = { layout, arch: process.arch, tools: tools.join(' '), previous: previousOpenvpn.package };
  return join(cache, `tools-${cacheKey({ ...inputs, not: [...notUnpacked].join(' ') })}`);
}

/** Makes the tools folder if it is not there. */
export async function setUpTools(cache: string, progress: Progress): Promise<void> {
  const target = toolsFolder(cache);
  if (await exists(target)) return;
  await needPrograms(unpackPrograms, 'fetching the guest tools', progress);
  const apt = new PrivateApt(cache, progress);
  await apt.prepare();
  progress.step(`fetching the guest tools (${tools.map((name) => name.split('/')[0]).join(', ')})`);
  await publish(target, async (folder) => {
    const debs = await apt.downloadWithNeeds(tools, join(folder, 'debs'));
    for (const deb of debs) {
      if (!notUnpacked.has(packageOf(deb))) await unpackDeb(deb, folder);
    }
    await mkdir(join(folder, 'previous'));
    const [openvpn = ''] = await apt.download([previousOpenvpn.package], join(folder, 'previous'));
    await unpackDeb(openvpn, join(folder, 'previous'));
    await cp(join(folder, 'previous/usr/sbin/openvpn'), join(folder, previousOpenvpn.installAs));
    await writeFile(join(folder, 'usr/share/ovpn-lab-tools'), debs.map((deb) => `${basename(deb)}\n`).join(''));
    // Only /usr: the host's /etc and /var stay as they are, and so do its /bin, /lib and /sbin links.
    for (const entry of await readdir(folder)) {
      if (entry !== 'usr') await rm(join(folder, entry), { recursive: true, force: true });
    }
    for (const path of dropped) await rm(join(folder, path), { recursive: true, force: true });
  });
}

/** The package name in the file name of a deb. */
export function packageOf(file: string): string {
  return basename(file).split('_')[0] ?? '';
}

/** Unpacks a deb so that its /bin, /lib and /sbin land in /usr, as on every merged system. */
export async function unpackDeb(deb: string, folder: string): Promise<void> {
  for (const name of ['bin', 'lib', 'lib64', 'sbin']) {
    await mkdir(join(folder, 'usr', name), { recursive: true });
    if (!(await exists(join(folder, name)))) await symlink(`usr/${name}`, join(folder, name));
  }
  await must('dpkg-deb', ['-x', deb, folder]);
}
