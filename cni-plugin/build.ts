/**
 * Builds the CNI binary: the TypeScript as one script, the script as QuickJS bytecode, and the bytecode with the
 * engine and its host in one static executable. docs/decisions/0010-cni-runtime.md says why.
 *
 * scripts/with-node node cni-plugin/build.ts [--out FILE] [--arch x64|arm64]
 */
import { spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import { type Arch, needToolchain, type Toolchain } from './toolchain.ts';

const source = (...parts: string[]): string => join(import.meta.dirname, ...parts);

export interface BuildCniOptions {
  /** Where the executable goes. */
  readonly outFile: string;
  /** The machine it is for. Default: this one. */
  readonly arch?: Arch;
}

/** Builds the CNI binary and resolves with the path of the executable. */
export async function buildCni({ outFile, arch = thisArch() }: BuildCniOptions): Promise<string> {
  const target = resolve(outFile);
  const [own, toolchain] = [await needToolchain(thisArch()), await needToolchain(arch)];
  await mkdir(dirname(target), { recursive: true });
  // In the folder of the target, so that the last step is a rename: a runtime may call the plugin meanwhile.
  const work = await mkdtemp(join(dirname(target), '.ovpn-cni-'));
  try {
    const compiler = join(work, 'compile');
    await compile(own, [source('native/compile.c')], compiler);
    const bytecode = join(work, 'plugin.c');
    await writeFile(bytecode, await run(compiler, [], await bundle()));
    const made = join(work, 'ovpn-cni');
    await compile(toolchain, ['-s', source('native/host.c'), bytecode], made);
    await chmod(made, 0o755);
    await rename(made, target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return target;
}

function thisArch(): Arch {
  if (process.arch === 'x64' || process.arch === 'arm64') return process.arch;
  throw new Error(`the CNI binary can be built on x64 and arm64, not on ${process.arch}`);
}

/** Static: it runs in whatever root filesystem the container runtime has. */
async function compile(toolchain: Toolchain, inputs: readonly string[], out: string): Promise<void> {
  const { gcc, sysroot, includes, libraries, quickjs } = toolchain;
  const warnings = ['-Wall', '-Wextra', '-Werror'];
  const hardening = ['-fstack-protector-strong', '-D_FORTIFY_SOURCE=2', '-Wl,-z,relro,-z,now'];
  const places = [
    `--sysroot=${sysroot}`,
    ...includes.flatMap((path) => ['-isystem', path]),
    `-B${libraries}/`,
    `-L${libraries}`,
  ];
  const flags = ['-std=gnu17', '-O2', '-static', ...places];
  await run(gcc, [...flags, ...warnings, ...hardening, ...inputs, quickjs, '-lm', '-o', out]);
}

/** The plugin as one script without imports. What it uses of Node.js, src/engine has. */
async function bundle(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [source('src/main.ts')],
    bundle: true,
    write: false,
    platform: 'neutral',
    // What QuickJS has: tc39's ES2023.
    target: 'es2023',
    format: 'iife',
    minifySyntax: true,
    charset: 'utf8',
    legalComments: 'none',
    logLevel: 'warning',
    alias: { 'node:net': source('src/engine/net.ts') },
  });
  const [file] = outputFiles;
  if (file === undefined) {
    throw new Error('esbuild wrote no file');
  }
  return file.text;
}

/** Runs a program with an input; resolves with what it prints. */
async function run(command: string, args: readonly string[], input = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const chunks: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    child.stdin.on('error', () => undefined);
    child.on('error', reject);
    child.on('close', (code) =>
      code === 0
        ? resolve(Buffer.concat(chunks).toString('utf8'))
        : reject(new Error(`${command} ended with code ${String(code)}`)),
    );
    child.stdin.end(input);
  });
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { out: { type: 'string' }, arch: { type: 'string' } } });
  const { arch } = values;
  if (arch !== undefined && arch !== 'x64' && arch !== 'arm64') throw new Error('--arch must be x64 or arm64');
  const outFile = values.out ?? source('..', 'dist', 'ovpn-cni');
  console.log(await buildCni({ outFile, ...(arch === undefined ? {} : { arch }) }));
}
