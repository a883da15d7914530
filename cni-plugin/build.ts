/**
 * Builds the CNI binary into one executable file.
 *
 * scripts/with-node node cni-plugin/build.ts [--out FILE] [--node-path PATH] [--sea]
 */
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { build } from 'esbuild';

const entry = join(import.meta.dirname, 'src', 'main.ts');

export interface BuildCniOptions {
  /** Where the executable goes. */
  readonly outFile: string;
  /**
   * Absolute path of the Node.js that runs the plugin, for the interpreter line. A container runtime's PATH
   * often holds no node, so an installation names the one it brings. Default: `/usr/bin/env node`.
   */
  readonly nodePath?: string;
  /** One self-contained executable with Node.js inside, instead of a script with an interpreter line. */
  readonly sea?: boolean;
}

/** Builds the CNI binary and resolves with the path of the executable. */
export async function buildCni({ outFile, nodePath, sea = false }: BuildCniOptions): Promise<string> {
  const target = resolve(outFile);
  const code = await bundle();
  await mkdir(dirname(target), { recursive: true });
  // In the folder of the target, so that the last step is a rename: a runtime may call the plugin meanwhile.
  const work = await mkdtemp(join(dirname(target), '.ovpn-cni-'));
  try {
    const made = join(work, 'ovpn-cni');
    await (sea ? writeSea(work, made, code) : writeFile(made, `${interpreterLine(nodePath)}\n${code}`));
    await chmod(made, 0o755);
    await rename(made, target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return target;
}

/** The kernel reads at most 255 bytes of an interpreter line and passes everything after the first space as one word. */
function interpreterLine(nodePath: string | undefined): string {
  if (nodePath === undefined) {
    return '#!/usr/bin/env node';
  }
  if (!nodePath.startsWith('/') || /\s/.test(nodePath) || Buffer.byteLength(nodePath) > 250) {
    throw new Error(
      `nodePath must be an absolute path without spaces of at most 250 bytes, not ${JSON.stringify(nodePath)}`,
    );
  }
  return `#!${nodePath}`;
}

/**
 * The plugin as one script that is valid both as CommonJS and as ES module: without a file extension, which
 * of the two Node.js takes depends on the nearest package.json, and an installed plugin has none. So there is
 * no import and no require; Node's own modules come from process.getBuiltinModule.
 */
async function bundle(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    platform: 'node',
    target: 'node26',
    format: 'iife',
    minifySyntax: true,
    charset: 'utf8',
    legalComments: 'none',
    logLevel: 'warning',
    plugins: [
      {
        name: 'builtin modules without import',
        setup: (plugin) => {
          plugin.onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: 'builtin', sideEffects: false }));
          plugin.onLoad({ filter: /./, namespace: 'builtin' }, ({ path }) => ({
            contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)})`,
            loader: 'js',
          }));
        },
      },
    ],
  });
  const [file] = outputFiles;
  if (file === undefined) {
    throw new Error('esbuild wrote no file');
  }
  return file.text;
}

async function writeSea(work: string, made: string, code: string): Promise<void> {
  const main = join(work, 'main.cjs');
  const config = join(work, 'sea.json');
  await writeFile(main, code);
  await writeFile(
    config,
    JSON.stringify({ main, output: made, disableExperimentalSEAWarning: true, useCodeCache: true, useSnapshot: false }),
  );
  await promisify(execFile)(process.execPath, ['--build-sea', config]);
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { out: { type: 'string' }, 'node-path': { type: 'string' }, sea: { type: 'boolean' } },
  });
  const made = await buildCni({
    outFile: values.out ?? join(import.meta.dirname, '..', 'dist', 'ovpn-cni'),
    ...(values['node-path'] === undefined ? {} : { nodePath: values['node-path'] }),
    sea: values.sea ?? false,
  });
  console.log(made);
}
