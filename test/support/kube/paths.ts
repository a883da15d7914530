import { definitionOf } from '../../../operator/src/api/definitions.ts';
import type { Manifest } from '../../../operator/src/api/rule-cases.ts';
import { apiVersion } from '../../../operator/src/api/types.ts';

/** The API server's path of all objects of one of our kinds; in one namespace, or everywhere. */
export function collectionOf(kind: string, namespace?: string): string {
  const plural = definitionOf(kind)?.plural;
  if (plural === undefined) throw new Error(`${kind} is none of our kinds`);
  return `/apis/${apiVersion}/${namespace === undefined ? '' : `namespaces/${namespace}/`}${plural}`;
}

/** Where an object is created, and where it is then. */
export function placesOf(manifest: Manifest): { readonly collection: string; readonly path: string } {
  const { name, namespace } = manifest['metadata'] as { name: string; namespace?: string };
  const collection = collectionOf(String(manifest['kind']), namespace);
  return { collection, path: `${collection}/${name}` };
}
