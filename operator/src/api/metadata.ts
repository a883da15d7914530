import { OvpnError } from '../errors.ts';
import { show, unknownField } from './check.ts';
import { formWords, labelPattern, subdomainPattern } from './schema-kit.ts';
import { isRecord } from './schema-view.ts';
import { shared } from './shared.ts';
import { isClusterScoped, type ObjectMeta, type ResourceKind } from './types.ts';

/** All fields of `metav1.ObjectMeta`: those that are not read here may stand there all the same. */
const knownFields = [
  'name',
  'namespace',
  'labels',
  'annotations',
  'uid',
  'generation',
  'resourceVersion',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
  'finalizers',
  'generateName',
  'managedFields',
  'ownerReferences',
  'selfLink',
];

/** The name and namespace of an object of this kind, if both are as they must be. */
export function identityOf(kind: ResourceKind, metadata: unknown): Pick<ObjectMeta, 'name' | 'namespace'> | undefined {
  if (!isRecord(metadata)) return undefined;
  const { name, namespace } = metadata;
  if (typeof name !== 'string' || !isSubdomain(name)) return undefined;
  if (isClusterScoped(kind)) return { name };
  return typeof namespace === 'string' && isLabel(namespace) ? { namespace, name } : undefined;
}

/** Reads an object's metadata; what is wrong with it goes to `errors`. */
export function readMetadata(
  kind: ResourceKind,
  metadata: unknown,
  object: string,
  errors: OvpnError[],
): ObjectMeta | undefined {
  const before = errors.length;
  const problem = (field: string, text: string) => {
    errors.push(new OvpnError('InvalidField', text, { object, field: `metadata${field}` }));
  };
  if (!isRecord(metadata)) {
    problem(
      '',
      metadata === undefined ? 'is missing: the name of the object' : `must be an object, but is ${show(metadata)}`,
    );
    return undefined;
  }
  for (const field of Object.keys(metadata)) {
    if (knownFields.includes(field)) continue;
    errors.push(
      new OvpnError('UnknownField', unknownField(field, knownFields), { object, field: `metadata.${field}` }),
    );
  }
  checkName(metadata['name'], problem);
  checkNamespace(kind, metadata['namespace'], problem);
  const text = (field: string): string | undefined => {
    const value = metadata[field] ?? undefined;
    if (value === undefined || typeof value === 'string') return value;
    problem(`.${field}`, `must be text, but is ${show(value)}`);
    return undefined;
  };
  const optional = {
    uid: text('uid'),
    resourceVersion: text('resourceVersion'),
    creationTimestamp: text('creationTimestamp'),
    deletionTimestamp: text('deletionTimestamp'),
    generation: readGeneration(metadata['generation'], problem),
  };
  const labels = readTexts(metadata['labels'], '.labels', problem);
  const annotations = readTexts(metadata['annotations'], '.annotations', problem);
  const identity = identityOf(kind, metadata);
  if (identity === undefined || errors.length > before) return undefined;
  const present = Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined));
  return { ...identity, ...present, labels: shared(labels), annotations: shared(annotations) };
}

type Problem = (field: string, text: string) => void;

function checkName(name: unknown, problem: Problem): void {
  if (name === undefined || name === null) problem('.name', 'is missing: the name of the object');
  else if (typeof name !== 'string') problem('.name', `must be text, but is ${show(name)}`);
  else if (name.length > 253 || name === '') problem('.name', `must be 1 to 253 characters long: ${show(name)}`);
  else if (!isSubdomain(name)) problem('.name', `must consist of ${formWords(subdomainPattern)}, but is ${show(name)}`);
}

function checkNamespace(kind: ResourceKind, namespace: unknown, problem: Problem): void {
  if (isClusterScoped(kind)) {
    if ((namespace ?? undefined) === undefined) return;
    problem('.namespace', `must be left out, because a ${kind} belongs to the whole cluster`);
  } else if (namespace === undefined || namespace === null) {
    problem('.namespace', `is missing: a ${kind} lives in a namespace`);
  } else if (typeof namespace !== 'string') problem('.namespace', `must be text, but is ${show(namespace)}`);
  else if (!isLabel(namespace)) {
    problem('.namespace', `must be 1 to 63 ${formWords(labelPattern)}, but is ${show(namespace)}`);
  }
}

function readGeneration(value: unknown, problem: Problem): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  problem('.generation', `must be a whole number, but is ${show(value)}`);
  return undefined;
}

function readTexts(value: unknown, field: string, problem: Problem): Record<string, string> {
  if (value === undefined || value === null) return {};
  if (!isRecord(value)) {
    problem(field, `must be an object with fields, but is ${show(value)}`);
    return {};
  }
  const entries = Object.entries(value).filter((entry): entry is [string, string] => {
    if (typeof entry[1] === 'string') return true;
    problem(`${field}[${JSON.stringify(entry[0])}]`, `must be text, but is ${show(entry[1])}; put quotes around it`);
    return false;
  });
  return Object.fromEntries(entries.sort(([one], [other]) => (one < other ? -1 : 1)));
}

function isSubdomain(text: string): boolean {
  return text.length <= 253 && new RegExp(subdomainPattern).test(text);
}

function isLabel(text: string): boolean {
  return text.length <= 63 && new RegExp(labelPattern).test(text);
}
