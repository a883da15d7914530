/** `npm run release`: everything that a release consists of, in dist/release. docs/releasing.md */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { copyFile, cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { createGzip } from 'node:zlib';
import type { Built } from '../../image/build.ts';
import type { DebianPackage } from '../../image/debian.ts';
import { debianPurl, type Sbom } from '../../image/sbom.ts';
import { tarOf } from '../../image/tar.ts';
import { LabError, report, UsageError } from '../../test/lab/errors.ts';
import { screenProgress, type Progress } from '../../test/lab/progress.ts';
import { must, run } from '../../test/lab/run.ts';
import { buildKubectlPlugin } from '../kubectl-plugin.ts';
import { projectRoot } from '../tasks.ts';
import { sectionOf } from './changelog.ts';
import { obstacles } from './obstacles.ts';
import { npmMaterials, provenanceOf, type Resource, sumsOf } from './provenance.ts';
import { type Files, versionedFiles, withVersion } from './versions.ts';

const usage = `usage: npm run release -- VERSION [OPTION…]

Makes the release of a version (1.2.3, 1.2.3-rc.1) of a clean main in dist/release. Commits the version in the files
that name it, where they do not yet; pushes nothing, and sets no tag.

  --dry-run          say what would be done, and what stands against it
  --out FOLDER       elsewhere
  --source URL       where the sources are (default: https://ovpn-operator.io/source)
  --builder URI      who builds, for the statement of provenance (default: https://ovpn-operator.io/builders/by-hand)
  --help
`;

const cwd = projectRoot;
const architectures = ['amd64', 'arm64'] as const;
const inImage = 'operator/usr/local/lib/ovpn-operator/ovpn-cni';

interface Options {
  readonly version: string;
  readonly out: string;
  readonly source: string;
  readonly builder: string;
}

async function git(...args: string[]): Promise<string> {
  return (await must('git', args, { cwd })).stdout.trimEnd();
}

/** What stands against it. */
async function obstaclesHere(version: string): Promise<string[]> {
  const tag = await run('git', ['rev-parse', '--quiet', '--verify', `refs/tags/v${version}`], { cwd });
  return obstacles({
    version,
    branch: await git('branch', '--show-current'),
    status: await git('status', '--porcelain'),
    tagged: tag.code === 0,
    changelog: await readFile(join(projectRoot, 'CHANGELOG.md'), 'utf8'),
  });
}

/** The files that name another version, as they have to be. */
async function filesToChange(version: string): Promise<[string, string][]> {
  const read = async (path: string): Promise<[string, string]> => [
    path,
    await readFile(join(projectRoot, path), 'utf8'),
  ];
  const files = Object.fromEntries(await Promise.all(versionedFiles.map(read))) as Files;
  const wanted = withVersion(files, version);
  return versionedFiles.filter((path) => files[path] !== wanted[path]).map((path) => [path, wanted[path]]);
}

/** The names of the files, SHA256SUMS and the statement aside. */
function namesOf(version: string): string[] {
  return [
    `ovpn-operator-${version}.oci.tar`,
    `ovpn-operator-${version}.tgz`,
    'crds.yaml',
    ...architectures.flatMap((each) => [`ovpn-cni-linux-${each}`, `sbom-${each}.spdx.json`]),
    'kubectl-ovpn',
    'THIRD-PARTY.md',
    'RELEASE-NOTES.md',
  ];
}

/** Builds the image in a process of its own: in this one, the version before is loaded. */
async function buildImage({ out, source }: Options): Promise<{ image: Built; rootfs: string }> {
  const folder = join(out, 'image');
  const args = ['image/build.ts', '--out', folder, '--source', source, '-o', 'json'];
  const onLine = (line: string): void => {
    if (line.startsWith('image: ')) process.stderr.write(`${line}\n`);
  };
  const { stdout } = await must(process.execPath, args, { cwd, onLine });
  return { image: JSON.parse(stdout) as Built, rootfs: join(folder, 'rootfs') };
}

/** The chart as Helm packs it, but the same bytes every time. */
async function packChart(out: string, file: string): Promise<void> {
  const folder = join(out, 'chart');
  await cp(join(projectRoot, 'charts/ovpn-operator'), join(folder, 'ovpn-operator'), { recursive: true });
  await pipeline(tarOf(folder), createGzip(), createWriteStream(file));
  await rm(folder, { recursive: true });
}

async function joinCrds(file: string): Promise<void> {
  const folder = join(projectRoot, 'crds');
  const names = (await readdir(folder)).filter((name) => name.endsWith('.yaml')).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(folder, name), 'utf8')));
  await writeFile(file, texts.map((text) => text.replace(/^---\n/, '')).join('---\n'));
}

async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

/** What the image takes from Debian, and what the CNI plugin is linked with. */
async function debianMaterials(sboms: readonly string[]): Promise<Resource[]> {
  const text = await readFile(join(projectRoot, 'image/debian-packages.json'), 'utf8');
  const fixed = Object.values(JSON.parse(text) as Record<string, DebianPackage[]>).flat();
  const found = new Map<string, Resource>();
  for (const { name, version, architecture, sha256 } of fixed) {
    const uri = debianPurl(name, version, architecture);
    found.set(uri, { uri, digest: { sha256 } });
  }
  for (const sbom of sboms) {
    const { packages } = JSON.parse(await readFile(sbom, 'utf8')) as Sbom;
    for (const { SPDXID, externalRefs } of packages) {
      const uri = externalRefs?.[0]?.referenceLocator;
      if (SPDXID.startsWith('SPDXRef-Linked-') && uri !== undefined) found.set(uri, { uri });
    }
  }
  return [...found.values()];
}

async function make(options: Options, progress: Progress): Promise<string> {
  const { version, source, builder } = options;
  const changes = await filesToChange(version);
  for (const [path, text] of changes) await writeFile(join(projectRoot, path), text);
  if (changes.length > 0) {
    progress.step(`committing version ${version}`);
    await git('commit', '--quiet', '--message', `Release ${version}`, '--', ...changes.map(([path]) => path));
  }
  // Whoever finds the folder finds a whole release in it.
  const out = `${options.out}.part`;
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  const at = (name: string): string => join(out, name);

  const { image, rootfs } = await buildImage({ ...options, out });
  progress.step('collecting the files');
  await rename(image.archive, at(basename(image.archive)));
  for (const { architecture, sbom } of image.images) {
    await rename(sbom, at(basename(sbom)));
    await copyFile(join(rootfs, architecture, inImage), at(`ovpn-cni-linux-${architecture}`));
  }
  // Of both architectures, because they differ in the name of one package.
  const lists = image.images.map(({ architecture }) =>
    readFile(join(rootfs, architecture, 'operator/usr/share/doc/ovpn-operator/THIRD-PARTY.md'), 'utf8'),
  );
  await writeFile(at('THIRD-PARTY.md'), (await Promise.all(lists)).join('\n'));
  await packChart(out, at(`ovpn-operator-${version}.tgz`));
  await joinCrds(at('crds.yaml'));
  await buildKubectlPlugin(at('kubectl-ovpn'));
  const notes = sectionOf(await readFile(join(projectRoot, 'CHANGELOG.md'), 'utf8'), version) ?? '';
  await writeFile(at('RELEASE-NOTES.md'), `# ovpn-operator ${version}\n\n${notes}\n\nImage: ${image.digest}\n`);
  await rm(join(out, 'image'), { recursive: true });

  const files: { name: string; sha256: string }[] = [];
  for (const name of namesOf(version).sort()) files.push({ name, sha256: await sha256Of(at(name)) });
  const provenance = provenanceOf({
    ...{ version, builder, source, files },
    commit: await git('rev-parse', 'HEAD'),
    image: { name: image.reference, digest: image.digest },
    materials: [
      ...npmMaterials(await readFile(join(projectRoot, 'package-lock.json'), 'utf8')),
      ...(await debianMaterials(image.images.map(({ sbom }) => at(basename(sbom))))),
    ],
  });
  await writeFile(at('provenance.json'), `${JSON.stringify(provenance, undefined, 2)}\n`);
  files.push({ name: 'provenance.json', sha256: await sha256Of(at('provenance.json')) });
  await writeFile(at('SHA256SUMS'), sumsOf(files));
  if ((await git('status', '--porcelain')) !== '')
    throw new LabError('the build has changed files of the project', 'See: git status. Nothing was released.');
  await rm(options.out, { recursive: true, force: true });
  await rename(out, options.out);
  return [
    `${relative(process.cwd(), options.out)}: ${files.length + 1} files`,
    `${image.reference}@${image.digest}`,
    '',
    'Nothing is pushed yet. docs/releasing.md has the next steps; they begin with:',
    `  git tag --sign v${version} --message 'ovpn-operator ${version}'`,
    '',
  ].join('\n');
}

async function plan({ version, out }: Options): Promise<string> {
  const changes = (await filesToChange(version)).map(([path]) => path);
  return [
    changes.length === 0
      ? `All files name ${version}: nothing to commit.`
      : `Would set ${version} and commit: ${changes.join(', ')}`,
    `Would write to ${relative(process.cwd(), out)}:`,
    ...[...namesOf(version).sort(), 'provenance.json', 'SHA256SUMS'].map((name) => `  ${name}`),
    `Would leave to you: git tag --sign v${version} --message 'ovpn-operator ${version}'`,
    '',
  ].join('\n');
}

function parse() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        'dry-run': { type: 'boolean', default: false },
        out: { type: 'string', default: join(projectRoot, 'dist/release') },
        source: { type: 'string', default: 'https://ovpn-operator.io/source' },
        builder: { type: 'string', default: 'https://ovpn-operator.io/builders/by-hand' },
        help: { type: 'boolean', default: false },
      },
    });
    const [version, ...rest] = positionals;
    if (!values.help && (version === undefined || rest.length > 0)) throw new Error('one version is to be said');
    return { ...values, version: version ?? '' };
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error), 'npm run release --');
  }
}

try {
  const { version, source, builder, ...values } = parse();
  if (values.help) process.stdout.write(usage);
  else {
    const options = { version, source, builder, out: resolve(values.out) };
    const found = await obstaclesHere(version);
    if (values['dry-run'] && !found.some((each) => each.includes('is no version')))
      process.stdout.write(await plan(options));
    if (found.length > 0) throw new LabError(`${version} cannot be released:\n- ${found.join('\n- ')}`, '');
    if (!values['dry-run']) process.stdout.write(await make(options, screenProgress('release')));
  }
} catch (error) {
  report(error);
  process.exitCode = 1;
}
