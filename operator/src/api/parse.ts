import { Composer, type Document, LineCounter, Parser } from 'yaml';
import { describe, OvpnError } from '../errors.ts';
import { check, checkChange, shorten, show, unknownField } from './check.ts';
import { applyDefaults } from './defaults.ts';
import { definitionOf, definitions, type Definition } from './definitions.ts';
import { identityOf, readMetadata } from './metadata.ts';
import { normalise } from './normalise.ts';
import { prune } from './prune.ts';
import { isRecord, type SchemaView } from './schema-view.ts';
import { readSecretData } from './secret.ts';
import { didYouMean } from './suggest.ts';
import {
  apiVersion,
  formatRef,
  group,
  isClusterScoped,
  refOf,
  type CoreKind,
  type Namespace,
  type ObjectMeta,
  type ObjectRef,
  type Pod,
  type Resource,
  type ResourceKind,
} from './types.ts';

/** What became of one object: it is usable and in normal form, or all that is wrong with it is told. */
export type ParseResult =
  | { readonly ok: true; readonly resource: Resource }
  | { readonly ok: false; readonly ref?: ObjectRef; readonly errors: readonly OvpnError[] };

/** An object or text of a file that cannot be used. Has the shape of the sources' `Rejection`. */
export interface ManifestRejection {
  readonly ref: ObjectRef | undefined;
  readonly origin: string;
  readonly errors: readonly OvpnError[];
}

/** What a file holds: its good objects, each with its place, and what is wrong with the others. */
export interface ManifestResult {
  readonly resources: readonly { readonly resource: Resource; readonly origin: string }[];
  readonly rejections: readonly ManifestRejection[];
}

export interface ParseOptions {
  /**
   * Takes fields that do not exist for none, and tells of each. For objects of an API server: what its CRDs know and
   * we do not is newer, not mistaken. Without it such a field is an error.
   */
  readonly onNewerField?: (field: string) => void;
}

/**
 * Checks one object from anywhere, fills in its defaults and brings it into normal form. Never throws:
 * whatever is passed, the answer is a resource or a list of errors.
 */
export function parseResource(value: unknown, origin: string, options: ParseOptions = {}): ParseResult {
  try {
    return parseObject(value, origin, options);
  } catch (cause) {
    // Nothing here should throw; but a value with traps of its own must not take a source down.
    const problem = `cannot be read: ${describe(cause)}`;
    return { ok: false, errors: [new OvpnError('ManifestUnreadable', problem, { object: origin }, { cause })] };
  }
}

function parseObject(value: unknown, origin: string, { onNewerField }: ParseOptions): ParseResult {
  const reject = (name: 'ManifestUnreadable' | 'UnknownKind', problem: string, field?: string): ParseResult => ({
    ok: false,
    errors: [new OvpnError(name, problem, { object: origin, ...(field === undefined ? {} : { field }) })],
  });
  if (!isRecord(value))
    return reject('ManifestUnreadable', `must be an object with apiVersion and kind, but is ${show(value)}`);
  const kind = kindOf(value['kind']);
  if (kind === undefined) return reject('UnknownKind', unknownKind(value['kind']), 'kind');
  const definition = definitionOf(kind);
  const wanted = definition === undefined ? 'v1' : apiVersion;
  if (value['apiVersion'] !== wanted) {
    return reject('UnknownKind', `must be ${wanted} for a ${kind}, but is ${show(value['apiVersion'])}`, 'apiVersion');
  }
  const identity = identityOf(kind, value['metadata']);
  const ref = identity === undefined ? undefined : { kind, ...identity };
  const object = ref === undefined ? `${origin}: ${kind}${nameOf(value['metadata'])}` : formatRef(ref);
  const errors: OvpnError[] = [];
  const metadata = readMetadata(kind, value['metadata'], object, errors);
  const resource =
    definition !== undefined
      ? readCustom(definition, pruned(definition, value, onNewerField), metadata, object, errors)
      : kind === 'Secret'
        ? readSecret(value, metadata, object, errors)
        : readLabelled(kind, metadata);
  return resource === undefined || errors.length > 0
    ? { ok: false, ...(ref === undefined ? {} : { ref }), errors }
    : { ok: true, resource };
}

/** The name of an object whose identity is not in order, as far as there is one to show. */
function nameOf(metadata: unknown): string {
  const name = isRecord(metadata) ? metadata['name'] : undefined;
  return typeof name === 'string' && name.length <= 253 ? ` ${shorten(name)}` : '';
}

const coreKinds: readonly CoreKind[] = ['Secret', 'Pod', 'Namespace'];
const kinds: readonly ResourceKind[] = [...definitions.map(({ kind }) => kind), ...coreKinds];

function kindOf(kind: unknown): ResourceKind | undefined {
  return kinds.find((known) => known === kind);
}

function unknownKind(kind: unknown): string {
  if (typeof kind !== 'string') return kind === undefined ? 'is missing' : `must be text, but is ${show(kind)}`;
  return `${show(kind)} is not a kind that is read here${didYouMean(kind, kinds)}`;
}

function checkTopLevel(
  manifest: Readonly<Record<string, unknown>>,
  known: readonly string[],
  object: string,
  errors: OvpnError[],
): void {
  for (const field of Object.keys(manifest)) {
    if (!known.includes(field))
      errors.push(new OvpnError('UnknownField', unknownField(field, known), { object, field: shorten(field) }));
  }
}

/** The object without fields that its definition does not have; as it is when nobody wants to hear of them. */
function pruned(
  { spec, status }: Definition,
  manifest: Readonly<Record<string, unknown>>,
  leftOut: ParseOptions['onNewerField'],
): Readonly<Record<string, unknown>> {
  if (leftOut === undefined) return manifest;
  const known: SchemaView = { properties: { spec, status } };
  const { apiVersion, kind, metadata, ...rest } = manifest;
  const own = prune(known, rest, '', leftOut) as Readonly<Record<string, unknown>>;
  return { apiVersion, kind, metadata, ...own };
}

function readCustom(
  definition: Definition,
  manifest: Readonly<Record<string, unknown>>,
  metadata: ObjectMeta | undefined,
  object: string,
  errors: OvpnError[],
): Resource | undefined {
  checkTopLevel(manifest, ['apiVersion', 'kind', 'metadata', 'spec', 'status'], object, errors);
  if (metadata !== undefined) {
    for (const rule of definition.nameRules) {
      for (const path of rule.offenders({ metadata }, { metadata })) {
        errors.push(new OvpnError('InvalidField', rule.message, { object, field: path.slice(1) }));
      }
    }
  }
  const spec = applyDefaults(definition.spec, manifest['spec']);
  if (spec === undefined) {
    errors.push(new OvpnError('InvalidField', 'is missing: what is wanted', { object, field: 'spec' }));
  } else errors.push(...check(definition.spec, spec, { object, field: 'spec' }));
  const status = manifest['status'] ?? undefined;
  if (status !== undefined) errors.push(...check(definition.status, status, { object, field: 'status' }));
  if (metadata === undefined || errors.length > 0) return undefined;
  // The checks above are what makes this a resource; the compiler cannot follow a schema through them.
  return {
    apiVersion,
    kind: definition.kind,
    metadata,
    spec: normalise(definition.spec, spec),
    ...(status === undefined ? {} : { status: normalise(definition.status, status) }),
  } as Resource;
}

function readSecret(
  manifest: Readonly<Record<string, unknown>>,
  metadata: ObjectMeta | undefined,
  object: string,
  errors: OvpnError[],
): Resource | undefined {
  checkTopLevel(
    manifest,
    ['apiVersion', 'kind', 'metadata', 'type', 'data', 'stringData', 'immutable'],
    object,
    errors,
  );
  const data = readSecretData(manifest, object, errors);
  const type = manifest['type'] ?? 'Opaque';
  if (typeof type !== 'string') {
    errors.push(new OvpnError('InvalidField', 'must be text', { object, field: 'type' }));
    return undefined;
  }
  if (metadata?.namespace === undefined) return undefined;
  return { apiVersion: 'v1', kind: 'Secret', metadata: { ...metadata, namespace: metadata.namespace }, type, data };
}

/** Of a Pod or Namespace only the metadata counts; what else it holds is Kubernetes' concern. */
function readLabelled(kind: ResourceKind, metadata: ObjectMeta | undefined): Resource | undefined {
  if (metadata === undefined) return undefined;
  return { apiVersion: 'v1', kind, metadata } as Pod | Namespace;
}

/**
 * The problems of replacing one object by another: what the API server refuses on an update by its CEL
 * rules (immutable fields, a generation that goes back). An object that was deleted and created anew
 * (another uid) is no change.
 */
export function checkTransition(old: Resource, next: Resource): OvpnError[] {
  const definition = definitionOf(next.kind);
  const [before, after] = [old.metadata.uid, next.metadata.uid];
  if (definition === undefined || formatRef(refOf(old)) !== formatRef(refOf(next))) return [];
  if (before !== undefined && after !== undefined && before !== after) return [];
  if (!('spec' in old) || !('spec' in next)) return [];
  return checkChange(definition.spec, next.spec, old.spec, { object: formatRef(refOf(next)), field: 'spec' });
}

export interface ManifestOptions {
  /** The namespace of objects that name none, as kubectl would give it to them. Without it they are refused. */
  readonly defaultNamespace?: string;
}

/**
 * Reads a file of YAML documents (JSON is YAML), each an object or a List of objects. What is wrong in one
 * document or item does not keep the others from coming out. Of two objects with one name the first stays.
 */
export function parseManifests(text: string, origin: string, options: ManifestOptions = {}): ManifestResult {
  const resources: { resource: Resource; origin: string }[] = [];
  const rejections: ManifestRejection[] = [];
  const places = new Map<string, string>();
  for (const found of readDocuments(text, origin)) {
    if (found.error !== undefined) {
      rejections.push({ ref: undefined, origin: found.origin, errors: [found.error] });
      continue;
    }
    const result = parseResource(inNamespace(found.value, options.defaultNamespace), found.origin);
    const ref = result.ok ? refOf(result.resource) : result.ref;
    const name = ref === undefined ? undefined : formatRef(ref);
    const first = name === undefined ? undefined : places.get(name);
    if (name !== undefined && first === undefined) places.set(name, found.origin);
    if (first !== undefined && name !== undefined) {
      const error = new OvpnError(
        'DuplicateObject',
        `is already defined in ${first}; this one in ${found.origin} is ignored`,
        {
          object: name,
        },
      );
      rejections.push({ ref, origin: found.origin, errors: [error] });
    } else if (result.ok) resources.push({ resource: result.resource, origin: found.origin });
    else rejections.push({ ref, origin: found.origin, errors: result.errors });
  }
  return { resources, rejections };
}

/** The object with a namespace, where it needs one and names none. */
function inNamespace(value: unknown, namespace: string | undefined): unknown {
  if (namespace === undefined || !isRecord(value) || isClusterScoped(kindOf(value['kind']) ?? 'Secret')) return value;
  const metadata = value['metadata'];
  if (!isRecord(metadata) || (metadata['namespace'] ?? undefined) !== undefined) return value;
  return { ...value, metadata: { ...metadata, namespace } };
}

interface Found {
  readonly origin: string;
  readonly value?: unknown;
  readonly error?: OvpnError;
}

/** One document at a time: the trees of ten thousand at once are a hundred times their text. */
function* readDocuments(text: string, origin: string): Generator<Found> {
  const lines = new LineCounter();
  let last: Document.Parsed | undefined;
  let count = 0;
  try {
    for (const document of new Composer().compose(new Parser(lines.addNewLine).parse(text))) {
      if (last !== undefined) yield* readDocument(last, `${origin} (document ${count})`, lines);
      last = document;
      count += 1;
    }
  } catch (cause) {
    yield { origin, error: unreadable(origin, withoutQuotes(describe(cause))) };
  }
  if (last !== undefined) yield* readDocument(last, count === 1 ? origin : `${origin} (document ${count})`, lines);
}

function readDocument(document: Document.Parsed, place: string, lines: LineCounter): Found[] {
  const [error] = document.errors;
  if (error !== undefined) {
    // Files hold secrets: of the library's words, some of which are quoted, only the first line is told, and the error
    // itself is not passed on as a cause.
    const [summary = ''] = error.message.split('\n');
    const { line, col } = lines.linePos(error.pos[0]);
    return [{ origin: place, error: unreadable(place, `${withoutQuotes(summary)} (line ${line}, column ${col})`) }];
  }
  try {
    return itemsOf(document.toJS(), place);
  } catch (cause) {
    return [{ origin: place, error: unreadable(place, withoutQuotes(describe(cause))) }];
  }
}

/** What a YAML library says, without what it quotes of the file. */
function withoutQuotes(text: string): string {
  return text.replaceAll(/\S{24,}/g, (word) => `${word.slice(0, 8)}...`);
}

function unreadable(origin: string, problem: string): OvpnError {
  return new OvpnError('ManifestUnreadable', problem, { object: origin });
}

/** The objects of a document: none when it is empty, those of a List, else itself. */
function itemsOf(value: unknown, place: string): Found[] {
  if (value === null || value === undefined) return [];
  if (!isRecord(value) || !isListKind(value)) return [{ origin: place, value }];
  const items = value['items'] ?? [];
  if (!Array.isArray(items)) {
    const where = { object: place, field: 'items' };
    return [{ origin: place, error: new OvpnError('InvalidField', `must be a list, but is ${show(items)}`, where) }];
  }
  return items.map((item: unknown, index) => ({ origin: `${place} (item ${index + 1})`, value: item }));
}

function isListKind({ kind, apiVersion: listVersion }: Readonly<Record<string, unknown>>): boolean {
  if (kind === 'List' || kind === 'SecretList') return listVersion === 'v1';
  return (
    typeof listVersion === 'string' &&
    listVersion.startsWith(`${group}/`) &&
    definitions.some((d) => `${d.kind}List` === kind)
  );
}
