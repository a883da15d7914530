import { build, type BuildOptions } from 'esbuild';
import { join } from 'node:path';
import { projectRoot } from './tasks.ts';

/** The programs of Node.js. */
export const programs = ['agent', 'controller'] as const;

/**
 * What is not bundled and has to lie in a node_modules folder above the programs: koffi loads a native file from
 * beside itself, and the Kubernetes client is loaded only on a cluster.
 */
export const externals = ['koffi', '@kubernetes/client-node', 'pino'] as const;

/**
 * What Node.js is told in the image, by NODE_OPTIONS. By default V8 lets the space for new objects grow to 64 MiB, of
 * which an agent has no use: docs/benchmarks.md.
 */
export const nodeOptions = '--max-semi-space-size=4';

const options = {
  bundle: true,
  // Each command loads only what it needs: the socket holder stays small.
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node26',
  // Bundled CommonJS packages ask for Node's own modules by require, which an ES module has to make itself.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
  logLevel: 'warning',
  // Paths in the output are relative to it, so two checkouts give the same bytes.
  absWorkingDir: projectRoot,
  metafile: true,
} as const satisfies BuildOptions;

/** How programs are bundled, for who bundles one in another way. */
export function bundleOptions(): typeof options {
  return options;
}

/**
 * Bundles a program into a folder, as `ovpn-<name>.js` and its chunks; resolves with the source files that are in it.
 *
 * @param sourcemap maps name the sources from the folder on, so with them its place is in the names of the chunks
 */
export async function bundle(name: (typeof programs)[number], folder: string, sourcemap = true): Promise<string[]> {
  const entryPoints = [join(projectRoot, `operator/src/cli/ovpn-${name}.ts`)];
  const { metafile } = await build({ ...options, external: [...externals], sourcemap, entryPoints, outdir: folder });
  return Object.keys(metafile.inputs);
}
