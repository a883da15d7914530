import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { crdFileName, crdYaml } from './crd.ts';
import { definitions } from './definitions.ts';

// Writes the CRDs of all kinds (npm run generate): to crds/ for people, and into the chart, which cannot reach outside.
for (const path of ['crds/', 'charts/ovpn-operator/files/crds/']) {
  const folder = fileURLToPath(new URL(`../../../${path}`, import.meta.url));
  mkdirSync(folder, { recursive: true });
  for (const definition of definitions) writeFileSync(folder + crdFileName(definition), crdYaml(definition));
}
