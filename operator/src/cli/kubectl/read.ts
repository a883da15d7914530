import { parseResource } from '../../api/parse.ts';
import { nearest } from '../../api/suggest.ts';
import { type CustomKind, isClusterScoped, type ObjectRef, type ResourceOf } from '../../api/types.ts';
import { ApiError } from '../../cluster/api-client.ts';
import { asRecord } from '../../cluster/json.ts';
import { type ApiKind, apiPath, resourceName } from '../../cluster/resource-path.ts';
import { describe, OvpnError } from '../../errors.ts';
import type { Cluster } from './connection.ts';

type Read = Pick<Cluster, 'client' | 'timeoutMs'>;

/** One of our objects as far as it could be read: one of newer CRDs is shown with its name and what is not understood. */
export interface Seen<K extends CustomKind> {
  readonly ref: ObjectRef;
  readonly resource?: ResourceOf<K>;
  /** Why there is no resource. */
  readonly problem?: string;
}

/** Checks one object of the API server. Never throws. */
export function seen<K extends CustomKind>(kind: K, object: unknown): Seen<K> {
  // Fields of newer CRDs are passed over: what this version knows of an object is still true.
  const result = parseResource(object, `${kind} of the API server`, { onNewerField: () => undefined });
  if (result.ok && result.resource.kind === kind) {
    const { name, namespace } = result.resource.metadata;
    const ref = { kind, ...(namespace === undefined ? {} : { namespace }), name };
    return { ref, resource: result.resource as ResourceOf<K> };
  }
  const { name, namespace } = asRecord(asRecord(object)?.['metadata']) ?? {};
  const named = {
    kind,
    ...(typeof namespace === 'string' ? { namespace } : {}),
    name: typeof name === 'string' ? name : '?',
  };
  const [error] = result.ok ? [] : result.errors;
  const { where, problem = 'is of another kind' } = error ?? {};
  return { ref: named, problem: where?.field === undefined ? problem : `${where.field}: ${problem}` };
}

/** All objects of a kind of ours, in one namespace or everywhere. @throws OvpnError like `listRaw` */
export async function list<K extends CustomKind>(cluster: Read, kind: K, namespace?: string): Promise<Seen<K>[]> {
  const scope = isClusterScoped(kind) ? undefined : namespace;
  const objects = await listRaw(cluster, kind, scope === undefined ? {} : { namespace: scope });
  return objects.map((object) => seen(kind, object)).sort(byName);
}

function byName({ ref: one }: { ref: ObjectRef }, { ref: other }: { ref: ObjectRef }): number {
  const [a, b] = [`${one.namespace ?? ''}/${one.name}`, `${other.namespace ?? ''}/${other.name}`];
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * All objects of a kind, unchecked.
 *
 * @throws OvpnError NotInstalled when the API server has no such kind, AccessDenied, ApiUnavailable
 */
export async function listRaw(
  { client, timeoutMs }: Read,
  kind: ApiKind,
  where: { readonly namespace?: string; readonly labelSelector?: string; readonly fieldSelector?: string } = {},
): Promise<unknown[]> {
  const { namespace, ...selectors } = where;
  const path = apiPath(kind, namespace === undefined ? {} : { namespace });
  const page = async (paged: Readonly<Record<string, string>>) =>
    asRecord(await client.json({ path, query: { ...selectors, ...paged }, signal: never, timeoutMs }));
  const all = async (limit: string): Promise<unknown[]> => {
    const items: unknown[] = [];
    for (let next = ''; ;) {
      const answer = await page({ limit, ...(next === '' ? {} : { continue: next }) });
      const found = answer?.['items'] ?? [];
      if (answer === undefined || !Array.isArray(found)) throw new Error('the answer to a list is no list');
      for (const item of found as unknown[]) items.push(item);
      const { continue: more } = asRecord(answer['metadata']) ?? {};
      if (typeof more !== 'string' || more === '') return items;
      next = more;
    }
  };
  try {
    // Where pages expire midway, one piece cannot.
    return await all('500').catch((error: unknown) =>
      error instanceof ApiError && error.expired ? all('0') : Promise.reject(error as Error),
    );
  } catch (error) {
    throw refusal(error, 'list', kind, namespace);
  }
}

/** One object, unchecked; undefined when there is none. @throws OvpnError AccessDenied, ApiUnavailable */
export async function getRaw(
  { client, timeoutMs }: Read,
  kind: ApiKind,
  where: { readonly namespace?: string; readonly name: string },
): Promise<unknown> {
  try {
    return await client.json({ path: apiPath(kind, where), signal: never, timeoutMs });
  } catch (error) {
    if (error instanceof ApiError && error.notFound) return undefined;
    throw refusal(error, 'get', kind, where.namespace);
  }
}

/** What `notFound` looks through. None where they may not be listed: who may get one object need not be allowed that. */
export async function namesOf(cluster: Read, kind: ApiKind, namespace: string): Promise<string[]> {
  const objects = await listRaw(cluster, kind, { namespace }).catch(() => []);
  return objects.flatMap((object) => {
    const { name } = asRecord(asRecord(object)?.['metadata']) ?? {};
    return typeof name === 'string' ? [name] : [];
  });
}

/** What a refusal of the API server means for the person who asked. */
export function refusal(error: unknown, verb: string, kind: ApiKind, namespace?: string): OvpnError {
  const where = namespace === undefined ? 'in all namespaces' : `in namespace ${namespace}`;
  const what = `${resourceName(kind)}${isScoped(kind) ? ` ${where}` : ''}`;
  const status = error instanceof ApiError ? error.status : 0;
  if (status === 404) return new OvpnError('NotInstalled', `the cluster has no ${resourceName(kind)}`);
  if (status === 403) return new OvpnError('AccessDenied', `you may not ${verb} ${what}`);
  if (status === 401) {
    const remedy = 'log in to the cluster anew, as `kubectl get namespaces` needs it, too';
    return new OvpnError('ApiUnavailable', 'the API server does not take your credentials', {}, { remedy });
  }
  const remedy = 'check that the API server can be reached, and --context';
  return new OvpnError('ApiUnavailable', `${what} cannot be read: ${describe(error)}`, {}, { cause: error, remedy });
}

const clusterScoped: ReadonlySet<ApiKind> = new Set([
  ...(['VpnNetwork', 'VpnAllocation', 'Node', 'Namespace', 'CustomResourceDefinition'] as const),
]);

function isScoped(kind: ApiKind): boolean {
  return !clusterScoped.has(kind);
}

/** The refusal of a name that is not there, with the names that may have been meant. */
export function notFound(
  ref: { readonly kind: ApiKind; readonly namespace?: string; readonly name: string },
  names: readonly string[],
): OvpnError {
  const near = nearest(ref.name, names);
  const hint = near !== undefined ? `; did you mean "${near}"?` : names.length === 0 ? '' : `; there is ${some(names)}`;
  const place = ref.namespace === undefined ? '' : ` in namespace ${ref.namespace}`;
  return new OvpnError('ObjectNotFound', `there is no ${ref.kind} ${ref.name}${place}${hint}`);
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, 5).join(', ');
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown;
}

const never = new AbortController().signal;
