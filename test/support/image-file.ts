import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { version } from '../../operator/src/version.ts';

/** The image that `npm run image` has built; a tier that needs it sees to that first. */
export interface ImageFile {
  /** An OCI layout as one file. */
  readonly archive: string;
  /** Its name, as the chart's values take it. */
  readonly registry: string;
  readonly repository: string;
}

/** @throws Error when it is not built */
export function builtImage(): ImageFile {
  const archive = join(import.meta.dirname, `../../dist/image/ovpn-operator-${version}.oci.tar`);
  if (!existsSync(archive)) throw new Error(`${archive} is not there; npm run image builds it`);
  return { archive, registry: 'ovpn-operator.io', repository: 'ovpn-operator' };
}
