import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { buildCni } from '../cni-plugin/build.ts';
import { bundle, programs } from './bundle.ts';
import { buildKubectlPlugin } from './kubectl-plugin.ts';
import { headline, projectRoot, show } from './tasks.ts';

// `npm run build`: checks the types, then bundles what is shipped into dist/. Development and tests need no
// build: Node.js runs the TypeScript files as they are.
const dist = join(projectRoot, 'dist');
mkdirSync(dist, { recursive: true });

if (!process.argv.includes('--no-types')) {
  headline('types (tsc)');
  if ((await show('tsc', ['-p', '.'])) !== 0) process.exit(1);
}

for (const name of programs) {
  headline(`dist/${name}/ovpn-${name}.js`);
  await bundle(name, join(dist, name));
}

headline('dist/kubectl-ovpn');
await buildKubectlPlugin(join(dist, 'kubectl-ovpn'));

headline('dist/ovpn-cni');
process.stdout.write(`${await buildCni({ outFile: join(dist, 'ovpn-cni') })}\n`);
