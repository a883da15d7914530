/**
 * The files of the image, staged in three folders that become its three layers. What changes least comes first: a new
 * version of the operator is one small layer to fetch.
 */
import {
  chmod,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { buildCni } from '../cni-plugin/build.ts';
import { needToolchain } from '../cni-plugin/toolchain.ts';
import { bundle, externals, programs } from '../scripts/bundle.ts';
import { projectRoot } from '../scripts/tasks.ts';
import { must } from '../test/lab/run.ts';
import { unpackDeb } from '../test/lab/tools.ts';
import type { DebianFile, DebianPackage } from './debian.ts';
import { linkedNames } from './licences.ts';
import { noticesOf } from './notices.ts';
import { lockedPackages, neededBy, nodeArch, packageOfFile, type NpmPackage } from './npm.ts';
import type { Architecture } from './oci.ts';
import { walk } from './tar.ts';

/** The layers, from the first. */
export const parts = ['base', 'node', 'operator'] as const;
export type Part = (typeof parts)[number];

/** What an image consists of, for its bill of materials. */
export interface Contents {
  readonly debian: readonly DebianPackage[];
  readonly npm: readonly NpmPackage[];
  /** What is linked into the CNI binary. */
  readonly linked: readonly Linked[];
}

/** A Debian package of which parts are linked into a file of ours. */
export interface Linked {
  readonly name: string;
  readonly version: string;
}

export interface Staging {
  readonly folder: string;
  readonly architecture: Architecture;
  readonly version: string;
  readonly debian: readonly DebianFile[];
  /** Where npm has installed for this architecture. */
  readonly npm: string;
}

/** Where everything of ours is in the image, as charts and `install-cni` expect it. */
const home = 'usr/local/lib/ovpn-operator';
const doc = 'usr/share/doc';

const multiarch = { amd64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' } as const;
const loader = { amd64: 'lib64/ld-linux-x86-64.so.2', arm64: 'lib/ld-linux-aarch64.so.1' } as const;
/** What Node.js is linked with (`readelf -d`). That nothing is missing, the tests of the image check. */
const libraries = [
  ...['libc.so.6', 'libm.so.6', 'libdl.so.2', 'libpthread.so.0', 'libresolv.so.2', 'librt.so.1'],
  ...['libatomic.so.1', 'libgcc_s.so.1', 'libstdc++.so.6'],
];

/** Stages the files of one image. */
export async function stage(staging: Staging): Promise<Contents> {
  const { folder } = staging;
  for (const part of parts) await mkdir(join(folder, part), { recursive: true });
  await stageBase(staging, join(folder, 'base'));
  const node = await stageNode(staging, join(folder, 'node'));
  const own = await stageOperator(staging, join(folder, 'operator'));
  const contents = { debian: staging.debian, npm: [node, ...own.npm], linked: own.linked };
  await write(join(folder, 'operator'), `${doc}/ovpn-operator/THIRD-PARTY.md`, noticesOf(staging.version, contents));
  for (const part of parts) await setPermissions(join(folder, part));
  return contents;
}

/** Libraries, CAs, and the few files that the C library and people look for. */
async function stageBase({ architecture, debian }: Staging, root: string): Promise<void> {
  const unpacked = await mkdtemp(join(root, '..', 'debs-'));
  try {
    for (const { file, name } of debian) {
      await unpackDeb(file, unpacked);
      // Where scanners look for packages in images that have no dpkg.
      const { stdout } = await must('dpkg-deb', ['-f', file]);
      await write(root, `var/lib/dpkg/status.d/${name}`, stdout);
    }
    const take = (path: string): Promise<void> => copyWithTarget(join(unpacked, 'usr'), join(root, 'usr'), path);
    await take(loader[architecture]);
    for (const library of libraries) await take(`lib/${multiarch[architecture]}/${library}`);
    await take('lib/os-release');
    // What copyright files refer to.
    await cp(join(unpacked, 'usr/share/common-licenses'), join(root, 'usr/share/common-licenses'), verbatim);
    for (const { name } of debian) await take(`share/doc/${name}/copyright`);
    await writeCertificates(join(unpacked, 'usr/share/ca-certificates'), root);
  } finally {
    await rm(unpacked, { recursive: true, force: true });
  }
  for (const name of ['lib', 'lib64']) await symlink(`usr/${name}`, join(root, name));
  await mkdir(join(root, 'usr/lib64'), { recursive: true });
  await symlink('../usr/lib/os-release', join(root, 'etc/os-release'));
  await write(
    root,
    'etc/passwd',
    'root:x:0:0:root:/root:/usr/sbin/nologin\nnonroot:x:65532:65532:nonroot:/nonexistent:/usr/sbin/nologin\n',
  );
  await write(root, 'etc/group', 'root:x:0:\nnonroot:x:65532:\n');
  await write(root, 'etc/nsswitch.conf', 'passwd: files\ngroup: files\nhosts: files dns\n');
  for (const path of ['tmp', 'run', 'root']) await mkdir(join(root, path));
  // Runtimes name the namespaces of pods by /var/run/netns (FHS 3.0, 5.13).
  await symlink('../run', join(root, 'var/run'));
}

/** What update-ca-certificates(8) would make: all CAs one after another. */
async function writeCertificates(folder: string, root: string): Promise<void> {
  let bundled = '';
  for await (const path of walk(folder)) {
    if (path.endsWith('.crt')) bundled += `${(await readFile(join(folder, path), 'utf8')).trimEnd()}\n`;
  }
  await write(root, 'etc/ssl/certs/ca-certificates.crt', bundled);
}

async function stageNode({ architecture, npm }: Staging, root: string): Promise<NpmPackage> {
  const path = `node_modules/node-linux-${nodeArch[architecture]}`;
  await mkdir(join(root, 'usr/local/bin'), { recursive: true });
  await cp(join(npm, path, 'bin/node'), join(root, 'usr/local/bin/node'));
  const [node] = await lockedPackages([path]);
  if (node === undefined) throw new Error(`package-lock.json has no ${path}`);
  await copyLicences(join(npm, path), join(root, doc, 'node'), node.license);
  return node;
}

async function stageOperator(
  { architecture, version, npm }: Staging,
  root: string,
): Promise<Pick<Contents, 'npm' | 'linked'>> {
  const bundled = await stagePrograms(root);
  await write(root, `${home}/package.json`, `${JSON.stringify({ name: 'ovpn-operator', version, type: 'module' })}\n`);

  const shipped: string[] = [];
  for (const path of await neededBy(npm, externals)) {
    if (await copyRunnable(join(npm, path), join(root, home, path))) shipped.push(path);
  }
  const packages = await lockedPackages([...new Set([...bundled, ...shipped])]);
  for (const { path, name, license } of packages)
    await copyLicences(join(npm, path), join(root, doc, 'npm', name), license);

  const arch = nodeArch[architecture];
  await buildCni({ outFile: join(root, home, 'ovpn-cni'), arch });
  const linked: Linked[] = [];
  for (const name of linkedNames) {
    const docs = join((await needToolchain(arch)).sysroot, doc, name);
    await mkdir(join(root, doc, name), { recursive: true });
    await cp(join(docs, 'copyright'), join(root, doc, name, 'copyright'));
    linked.push({ name, version: await versionIn(join(docs, 'changelog.Debian.gz')) });
  }
  await cp(join(projectRoot, 'LICENSE'), join(root, doc, 'ovpn-operator/LICENSE'));
  return { npm: packages, linked };
}

/** The version of a package by its changelog, whose first line is `source (version) suite; …`. */
async function versionIn(changelog: string): Promise<string> {
  const text = gunzipSync(await readFile(changelog)).toString('utf8');
  const version = /^\S+ \(([^)]+)\)/.exec(text)?.[1];
  if (version === undefined) throw new Error(`${changelog} does not begin with a version`);
  return version;
}

/** The bundles with their links on PATH; resolves with the places of the npm packages that are in them. */
async function stagePrograms(root: string): Promise<string[]> {
  const packages = new Set<string>();
  await mkdir(join(root, 'usr/local/bin'), { recursive: true });
  for (const program of programs) {
    const folder = join(root, home, program);
    for (const source of await bundle(program, folder, false)) {
      const path = packageOfFile(source);
      if (path !== undefined) packages.add(path);
    }
    const file = `ovpn-${program}.js`;
    const text = await readFile(join(folder, file), 'utf8');
    // There is neither a shell nor env(1). The agent is on the host's network: a debugger, which Node.js opens there on
    // SIGUSR1, would give its keys and rights to every process of the node that reaches 127.0.0.1.
    await writeFile(join(folder, file), text.replace(/^#!.*/, '#!/usr/local/bin/node --disable-sigusr1'));
    await chmod(join(folder, file), 0o755);
    await symlink(`../lib/ovpn-operator/${program}/${file}`, join(root, `usr/local/bin/ovpn-${program}`));
  }
  return [...packages];
}

/**
 * Copies what of an npm package Node.js can load, without what is for another C library. Says whether there was any:
 * packages of types alone have nothing.
 */
async function copyRunnable(from: string, to: string): Promise<boolean> {
  const files: string[] = [];
  for await (const path of walk(from)) {
    if (/^node_modules\/|\/node_modules\/|^musl_|^(tests?|docs?|examples?|benchmarks?)\//.test(path)) continue;
    if (/\.([cm]?js|json|node)$/.test(path) && (await lstat(join(from, path))).isFile()) files.push(path);
  }
  if (!files.some((path) => /\.([cm]?js|node)$/.test(path))) return false;
  for (const path of files) {
    await mkdir(dirname(join(to, path)), { recursive: true });
    await cp(join(from, path), join(to, path));
    // They are loaded; nobody starts them.
    await chmod(join(to, path), 0o644);
  }
  return true;
}

/** A package's licence files; of one that has none, what it says of itself. */
async function copyLicences(from: string, to: string, license: string): Promise<void> {
  const names = (await readdir(from)).filter((name) => /^(licen[cs]e|copying|notice)/i.test(name));
  for (const name of names) await cp(join(from, name), join(to, name), { recursive: true });
  if (names.length > 0) return;
  await write(
    to,
    'LICENSE',
    `SPDX-License-Identifier: ${license}\n\nThe package has no licence file; its package.json says this.\n`,
  );
}

const verbatim = { recursive: true, verbatimSymlinks: true } as const;

/** Copies a file; of a symbolic link, itself and what it points to. */
async function copyWithTarget(from: string, to: string, path: string): Promise<void> {
  await mkdir(dirname(join(to, path)), { recursive: true });
  const source = join(from, path);
  if (!(await lstat(source)).isSymbolicLink()) {
    await cp(source, join(to, path));
    return;
  }
  const target = await readlink(source);
  await symlink(target, join(to, path));
  await copyWithTarget(from, to, join(dirname(path), target));
}

async function write(root: string, path: string, content: string): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeFile(join(root, path), content);
}

/** Whatever umask the builder has: everybody may read, nobody but root may write. */
async function setPermissions(root: string): Promise<void> {
  await chmod(root, 0o755);
  for await (const path of walk(root)) {
    const at = join(root, path);
    const stats = await lstat(at);
    if (stats.isSymbolicLink()) continue;
    const mode = stats.isDirectory() || (stats.mode & 0o100) !== 0 ? 0o755 : 0o644;
    await chmod(at, path === 'tmp' ? 0o1777 : mode);
  }
}
