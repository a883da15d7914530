import { build, type BuildOptions } from 'esbuild';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { buildCni } from '../cni-plugin/build.ts';
import { headline, projectRoot, show } from './tasks.ts';

// `npm run build`: checks the types, then bundles what is shipped into dist/. Development and tests need no
// build: Node.js runs the TypeScript files as they are.
const dist = join(projectRoot, 'dist');
mkdirSync(dist, { recursive: true });

if (!process.argv.includes('--no-types')) {
  headline('types (tsc)');
  if ((await show('tsc', ['-p', '.'])) !== 0) process.exit(1);
}

/** What the programs of Node.js have in common. */
const program: BuildOptions = {
  bundle: true,
  // Each command loads only what it needs: the socket holder stays small.
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node26',
  // koffi loads a native file from beside itself, and the Kubernetes client is loaded only on a cluster.
  external: ['koffi', '@kubernetes/client-node', 'pino'],
  // Bundled CommonJS packages ask for Node's own modules by require, which an ES module has to make itself.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
  sourcemap: true,
  logLevel: 'warning',
};

for (const name of ['agent', 'controller']) {
  headline(`dist/${name}/ovpn-${name}.js`);
  const entryPoints = [join(projectRoot, `operator/src/cli/ovpn-${name}.ts`)];
  await build({ ...program, entryPoints, outdir: join(dist, name) });
}

headline('dist/ovpn-cni');
process.stdout.write(`${await buildCni({ outFile: join(dist, 'ovpn-cni') })}\n`);
