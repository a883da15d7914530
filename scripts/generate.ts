/** `npm run generate`: everything in the repository that is made from the source: the CRDs, and docs/reference. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import '../operator/src/api/generate-crds.ts';
import { referenceFolder, referencePages } from './docs/reference.ts';

mkdirSync(referenceFolder, { recursive: true });
for (const [file, text] of Object.entries(await referencePages())) writeFileSync(join(referenceFolder, file), text);
