import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { crdFileName, crdYaml } from './crd.ts';
import { definitions } from './definitions.ts';

// Writes the CRDs of all kinds to crds/ (npm run generate).
const folder = fileURLToPath(new URL('../../../crds/', import.meta.url));
mkdirSync(folder, { recursive: true });
for (const definition of definitions) writeFileSync(folder + crdFileName(definition), crdYaml(definition));
