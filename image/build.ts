/** `npm run image`: the image of the operator, without a daemon and without privileges. docs/image.md */
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createWriteStream } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { table } from '../operator/src/cli/table.ts';
import { version } from '../operator/src/version.ts';
import { projectRoot } from '../scripts/tasks.ts';
import { report, UsageError } from '../test/lab/errors.ts';
import { screenProgress, type Progress } from '../test/lab/progress.ts';
import { needDebianPackages, updateDebianPackages } from './debian.ts';
import { addImage, addIndex, type About, type PlatformImage } from './manifest.ts';
import { needNpmPackages } from './npm.ts';
import { Layout, type Architecture, type Layer } from './oci.ts';
import { originOf } from './origin.ts';
import { parts, stage, type Part } from './rootfs.ts';
import { sbomOf } from './sbom.ts';
import { tarOf } from './tar.ts';

const usage = `usage: npm run image [-- OPTION…]

Builds the image for linux/amd64 and linux/arm64 into dist/image:
  ovpn-operator-${version}.oci.tar   OCI layout in one file, for ctr, podman, skopeo
  ovpn-operator-${version}/          the same as a folder, for crane, oras
  rootfs/ARCH/                  its files, for image/Dockerfile
  sbom-ARCH.spdx.json           its bills of materials

  --out FOLDER       build elsewhere
  --name NAME        name without tag (default: ovpn-operator.io/ovpn-operator)
  --source URL       where its sources are, for the annotation of that name
  --revision COMMIT  what it is built from, where git cannot say or should not
  --update-debian    first take the newest Debian packages, and fix them in image/debian-packages.json
  -o, --output json  say in JSON what was built
  --help
`;

const architectures = ['amd64', 'arm64'] as const satisfies readonly Architecture[];

export interface BuildOptions {
  readonly out: string;
  readonly name: string;
  readonly source?: string | undefined;
  /** Instead of what git says. */
  readonly revision?: string | undefined;
}

/** What was built. */
export interface Built {
  /** The digest of the index: the image of both architectures is `name@digest`. */
  readonly digest: string;
  readonly reference: string;
  readonly archive: string;
  readonly layout: string;
  readonly images: readonly BuiltImage[];
}

export interface BuiltImage {
  readonly architecture: Architecture;
  readonly digest: string;
  readonly sbom: string;
  readonly layers: readonly { readonly name: Part; readonly digest: string; readonly size: number }[];
}

/** Builds the image of both architectures. @throws LabError */
export async function buildImage(options: BuildOptions, progress: Progress): Promise<Built> {
  const { out, name, source } = options;
  const { seconds, revision: commit } = await originOf(projectRoot);
  const revision = options.revision ?? commit;
  const created = new Date(seconds * 1000).toISOString().replace('.000Z', 'Z');
  const about: About = {
    reference: `${name}:${version}`,
    version,
    created,
    // https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md
    annotations: prefixed({
      title: 'ovpn-operator',
      description: "OpenVPN tunnels for Kubernetes on the Linux kernel's ovpn driver",
      version,
      ...(revision === undefined ? {} : { revision }),
      ...(source === undefined ? {} : { source }),
      licenses: 'Apache-2.0',
      created,
    }),
  };
  const folder = join(out, `ovpn-operator-${version}`);
  const rootfs = join(out, 'rootfs');
  for (const path of [folder, rootfs]) await rm(path, { recursive: true, force: true });
  const layout = new Layout(folder);
  await layout.start();

  const built: BuiltImage[] = [];
  const images: PlatformImage[] = [];
  for (const architecture of architectures) {
    const debian = await needDebianPackages(architecture, progress);
    const npm = await needNpmPackages(architecture, progress);
    progress.step(`staging the files for ${architecture}`);
    const root = join(rootfs, architecture);
    const contents = await stage({ folder: root, architecture, version, debian, npm });
    const sbom = sbomOf({ version, created, architecture }, contents);
    const sbomFile = join(out, `sbom-${architecture}.spdx.json`);
    await writeFile(sbomFile, `${JSON.stringify(sbom, undefined, 2)}\n`);
    progress.step(`packing the layers for ${architecture}`);
    const layers: Layer[] = [];
    for (const part of parts) layers.push(await layout.addLayer(join(root, part), `npm run image: ${part}`));
    const image = await addImage(layout, about, architecture, layers, sbom);
    images.push(image);
    const sizes = layers.map(({ descriptor: { digest, size } }, i) => ({ name: parts[i] ?? 'base', digest, size }));
    built.push({ architecture, digest: image.manifest.digest, sbom: sbomFile, layers: sizes });
  }
  const { digest } = await addIndex(layout, about, images);
  const archive = `${folder}.oci.tar`;
  progress.step(`writing ${archive}`);
  await pipeline(tarOf(folder), createWriteStream(`${archive}.part`));
  await rename(`${archive}.part`, archive);
  return { digest, reference: about.reference, archive, layout: folder, images: built };
}

function prefixed(annotations: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(annotations).map(([key, value]) => [`org.opencontainers.image.${key}`, value]),
  );
}

/** Sizes as a table, and what to call the image by. */
async function textOf({ digest, reference, archive, images }: Built): Promise<string> {
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const rows = images.map(({ architecture, layers, digest: manifest }) => [
    `linux/${architecture}`,
    ...layers.map(({ size }) => megabytes(size)),
    megabytes(layers.reduce((sum, { size }) => sum + size, 0)),
    manifest.slice(0, 'sha256:'.length + 12),
  ]);
  const head = ['PLATFORM', ...parts.map((part) => part.toUpperCase()), 'TOTAL', 'MANIFEST'];
  const { size } = await stat(archive);
  return [
    ...table([head, ...rows]),
    '',
    `${relative(process.cwd(), archive)}   ${megabytes(size)}`,
    reference,
    digest,
    '',
  ].join('\n');
}

async function main(): Promise<void> {
  const { values } = parse();
  if (values.help) {
    process.stdout.write(usage);
    return;
  }
  const progress = screenProgress('image');
  if (values['update-debian']) {
    for (const change of await updateDebianPackages(progress)) progress.step(change);
  }
  const { out, name, source, revision } = values;
  await mkdir(out, { recursive: true });
  const built = await buildImage({ out: resolve(out), name, source, revision }, progress);
  process.stdout.write(values.output === 'json' ? `${JSON.stringify(built, undefined, 2)}\n` : await textOf(built));
}

function parse() {
  try {
    const parsed = parseArgs({
      options: {
        out: { type: 'string', default: join(projectRoot, 'dist/image') },
        name: { type: 'string', default: 'ovpn-operator.io/ovpn-operator' },
        source: { type: 'string' },
        revision: { type: 'string' },
        'update-debian': { type: 'boolean', default: false },
        output: { type: 'string', short: 'o', default: 'text' },
        help: { type: 'boolean', default: false },
      },
    });
    if (parsed.values.output !== 'text' && parsed.values.output !== 'json')
      throw new Error(`--output takes text or json, not '${parsed.values.output}'`);
    return parsed;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error), 'npm run image --');
  }
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    report(error);
    process.exitCode = 1;
  }
}
