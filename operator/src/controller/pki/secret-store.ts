import { asRecord } from '../../cluster/json.ts';
import { materialLabel, sourceAnnotation } from '../../cluster/material-secret.ts';
import type { ObjectWriter } from '../../cluster/object-writer.ts';
import { apiPath } from '../../cluster/resource-path.ts';

/** Secrets as they are written: what all of ours have, and their entries as text. */

/** Whose an object is: it goes with its owner (garbage collection), and an owner made anew under the name is another. */
export interface Owner {
  readonly apiVersion: string;
  readonly kind: 'VpnNetwork' | 'VpnKey';
  readonly name: string;
  readonly uid: string;
}

/** The uid of the owner, to see whose a Secret is without asking for its owner references. */
export const ownerAnnotation = 'ovpn-operator.io/owner-uid';

/** Where the CAs are: a namespace that no agent may read, so that nobody who takes a node can issue certificates. */
export function caNamespace(namespace: string): string {
  return `${namespace}-ca`;
}

export interface SecretText {
  readonly namespace: string;
  readonly name: string;
  readonly owner: Owner;
  /** Whether agents read it. */
  readonly material: boolean;
  readonly data: Readonly<Record<string, string>>;
}

/**
 * Makes a Secret, or with a version replaces that one and no other.
 *
 * @returns the API server's answer
 * @throws ApiError also when another version, or another Secret of the name, is there
 */
export function putSecret(
  writer: Pick<ObjectWriter, 'create' | 'replace'>,
  secret: SecretText,
  resourceVersion: string | undefined,
): Promise<unknown> {
  const { namespace, name } = secret;
  return resourceVersion === undefined
    ? writer.create(apiPath('Secret', { namespace }), secretObject(secret))
    : writer.replace(apiPath('Secret', { namespace, name }), secretObject(secret, resourceVersion));
}

function secretObject({ namespace, name, owner, material, data }: SecretText, resourceVersion?: string): object {
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: {
      namespace,
      name,
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
      labels: { 'app.kubernetes.io/managed-by': 'ovpn-operator', ...(material ? { [materialLabel]: 'true' } : {}) },
      annotations: {
        [ownerAnnotation]: owner.uid,
        ...(material ? { [sourceAnnotation]: `${namespace}/${name}` } : {}),
      },
      ownerReferences: [{ ...owner, controller: true, blockOwnerDeletion: false }],
    },
    type: 'Opaque',
    data: Object.fromEntries(
      Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text, 'utf8').toString('base64')]),
    ),
  };
}

/** The owner that an object of ours was written with; undefined for one of somebody else. */
export function ownerOf(
  object: unknown,
): { readonly kind: string; readonly name: string; readonly uid: string } | undefined {
  const metadata = asRecord(asRecord(object)?.['metadata']);
  const { [ownerAnnotation]: uid } = asRecord(metadata?.['annotations']) ?? {};
  const references: unknown = metadata?.['ownerReferences'];
  const owner = (Array.isArray(references) ? (references as unknown[]) : [])
    .map((reference) => asRecord(reference) ?? {})
    .find((reference) => reference['uid'] === uid);
  const { kind, name } = owner ?? {};
  return typeof kind === 'string' && typeof name === 'string' && typeof uid === 'string'
    ? { kind, name, uid }
    : undefined;
}

/** The entries of a Secret as text. */
export function textOf(data: Readonly<Record<string, Uint8Array>> | undefined): Record<string, string> {
  return Object.fromEntries(
    Object.entries(data ?? {}).map(([entry, bytes]) => [entry, Buffer.from(bytes).toString('utf8')]),
  );
}

/** Whether all entries are there as they should be, and no others. */
export function sameText(one: Readonly<Record<string, string>>, other: Readonly<Record<string, string>>): boolean {
  const entries = Object.entries(one);
  return entries.length === Object.keys(other).length && entries.every(([entry, text]) => other[entry] === text);
}
