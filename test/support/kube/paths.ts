import type { Manifest } from '../../../operator/src/api/rule-cases.ts';
import { type ApiKind, apiPath } from '../../../operator/src/cluster/resource-path.ts';

/** Where an object is created, and where it is then. */
export function placesOf(manifest: Manifest): { readonly collection: string; readonly path: string } {
  const { name, namespace } = manifest['metadata'] as { name: string; namespace?: string };
  const kind = manifest['kind'] as ApiKind;
  const scope = namespace === undefined ? {} : { namespace };
  return { collection: apiPath(kind, scope), path: apiPath(kind, { ...scope, name }) };
}
