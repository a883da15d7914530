import { Compile, type Validator } from 'typebox/compile';
import { Settings } from 'typebox/system';
import type { TSchema } from 'typebox';
import { OvpnError, type ErrorName } from '../errors.ts';
import { formWords, type Rule } from './schema-kit.ts';
import { childPath, childSchema, isRecord, type SchemaView } from './schema-view.ts';
import { didYouMean } from './suggest.ts';

/** How many problems of one object are told at most. */
const maxErrors = 64;
// The library stops after eight by default, which hides mistakes until the next try. (An unknown field counts twice.)
Settings.Set({ maxErrors: 2 * maxErrors });

/** Where the checked value stands. */
export interface Place {
  /** The object as errors name it. */
  readonly object: string;
  /** The field that the value is: `spec`. */
  readonly field: string;
}

const validators = new WeakMap<TSchema, Validator>();

/**
 * Every problem of a value that has its defaults: first types, ranges and names of fields; and only when
 * those are right, the rules. In the words of a person, each with the exact field.
 */
export function check(schema: TSchema, value: unknown, place: Place): OvpnError[] {
  const validator = validators.get(schema) ?? Compile(schema);
  validators.set(schema, validator);
  if (validator.Check(value)) return checkRules(schema, value, place);
  return validator
    .Errors(value)
    .flatMap((error) => shapeErrors(error, schema, value, place))
    .slice(0, maxErrors);
}

/** The problems of a change from one checked value to another, by the rules about changes. */
export function checkChange(schema: TSchema, value: unknown, old: unknown, place: Place): OvpnError[] {
  return violations(schema, place.field, value, { old }).map((violation) => ruleError(violation, place));
}

function checkRules(schema: TSchema, value: unknown, place: Place): OvpnError[] {
  return violations(schema, place.field, value)
    .slice(0, maxErrors)
    .map((violation) => ruleError(violation, place));
}

interface Violation {
  readonly field: string;
  readonly problem: string;
}

function ruleError({ field, problem }: Violation, place: Place): OvpnError {
  return new OvpnError('InvalidField', problem, { object: place.object, field });
}

/** Walks a value by its schema and asks the rules: those about a change when there is an old value, else the others. */
function violations(schema: SchemaView, path: string, value: unknown, change?: { old: unknown }): Violation[] {
  const found: Violation[] = [];
  if (Array.isArray(value)) {
    if (change === undefined) found.push(...repetitions(schema, path, value));
    // Entries of lists have no identity over a change, so rules about changes stand on objects only.
    else return found;
    for (const [index, entry] of value.entries()) {
      if (schema.items !== undefined) found.push(...violations(schema.items, `${path}[${index}]`, entry));
    }
  } else if (isRecord(value)) {
    const old = change?.old;
    for (const [name, field] of Object.entries(value)) {
      const child = childSchema(schema, name);
      if (child === undefined) continue;
      if (change === undefined) found.push(...violations(child, childPath(path, schema, name), field));
      else if (isRecord(old) && Object.hasOwn(old, name)) {
        found.push(...violations(child, childPath(path, schema, name), field, { old: old[name] }));
      }
    }
  }
  for (const rule of schema['x-kubernetes-validations'] ?? []) {
    if ((rule.transition === true) === (change !== undefined)) found.push(...askRule(rule, path, value, change?.old));
  }
  return found;
}

function askRule(rule: Rule<unknown>, path: string, value: unknown, old: unknown): Violation[] {
  return rule.offenders(value, old).map((relative) => {
    const offender = at(value, relative);
    const named = typeof offender === 'string' || typeof offender === 'number' ? ` (it is ${show(offender)})` : '';
    return { field: path + relative, problem: rule.explain?.(offender) ?? `${rule.message}${named}` };
  });
}

/** What a list of type set or map may not hold twice, compared as the API server does it: as written. */
function repetitions(schema: SchemaView, path: string, list: readonly unknown[]): Violation[] {
  const type = schema['x-kubernetes-list-type'];
  if (type !== 'set' && type !== 'map') return [];
  const keys = schema['x-kubernetes-list-map-keys'] ?? [];
  const seen = new Map<string, number>();
  return list.flatMap((entry, index) => {
    const identity = JSON.stringify(isRecord(entry) ? keys.map((key) => entry[key]) : entry);
    const first = seen.get(identity);
    if (first === undefined) seen.set(identity, index);
    return first === undefined
      ? []
      : [
          {
            field: `${path}[${index}]`,
            problem: `repeats ${path}[${first}]; each ${keys[0] ?? 'entry'} may stand there once`,
          },
        ];
  });
}

/** The value at a path such as `.nodes[3].addresses[0]` or `["kubernetes.io/os"]` below another. */
function at(value: unknown, relative: string): unknown {
  let current = value;
  for (const [, name, index] of relative.matchAll(/\.([\w-]+)|\[(\d+)\]/g)) {
    current =
      isRecord(current) || Array.isArray(current)
        ? (current as Record<string, unknown>)[name ?? index ?? '']
        : undefined;
  }
  return current;
}

type SchemaError = ReturnType<Validator['Errors']>[number];

/** One error of the schema library as errors of ours; several, when it names several fields. */
function shapeErrors(error: SchemaError, root: SchemaView, value: unknown, place: Place): OvpnError[] {
  const segments = error.instancePath
    .split('/')
    .slice(1)
    .map((segment) => segment.replaceAll('~1', '/').replaceAll('~0', '~'));
  let schema: SchemaView | undefined = root;
  let field = place.field;
  let actual = value;
  for (const segment of segments) {
    field = childPath(field, schema, segment);
    schema = schema === undefined ? undefined : childSchema(schema, segment);
    actual = isRecord(actual) || Array.isArray(actual) ? (actual as Record<string, unknown>)[segment] : undefined;
  }
  const here = schema ?? {};
  const problemAt = (name: ErrorName, where: string, problem: string) =>
    new OvpnError(name, problem, { object: place.object, field: where });
  switch (error.keyword) {
    case 'additionalProperties':
      return error.params.additionalProperties.map((name) =>
        problemAt('UnknownField', childPath(field, here, name), unknownField(name, Object.keys(here.properties ?? {}))),
      );
    case 'required':
      return error.params.requiredProperties.map((name) =>
        problemAt('InvalidField', childPath(field, here, name), missing(here.properties?.[name]?.description)),
      );
    case 'boolean': // Says again what additionalProperties says.
      return [];
    case 'type': {
      // What YAML reads as a number or a boolean: a version, "yes".
      const quotes = here.type === 'string' && /^(number|boolean)$/.test(typeof actual) ? '; put quotes around it' : '';
      return [problemAt('InvalidField', field, `must be ${typeWords(here.type)}, but is ${show(actual)}${quotes}`)];
    }
    case 'enum': {
      const allowed = here.enum ?? [];
      if (typeof actual !== 'string') return []; // The type says so already.
      const hint = typeof actual === 'string' ? didYouMean(actual, allowed) : '';
      return [problemAt('InvalidField', field, `must be ${listWords(allowed)}, but is ${show(actual)}${hint}`)];
    }
    case 'minimum':
    case 'maximum':
      return [
        problemAt('InvalidField', field, `must be ${rangeWords(here.minimum, here.maximum)}, but is ${show(actual)}`),
      ];
    case 'minLength':
    case 'maxLength':
      return [
        problemAt(
          'InvalidField',
          field,
          `must be ${rangeWords(here.minLength, here.maxLength)} characters long: ${show(actual)}`,
        ),
      ];
    case 'pattern':
      return [problemAt('InvalidField', field, `must consist of ${formWords(here.pattern)}, but is ${show(actual)}`)];
    case 'minItems':
    case 'maxItems':
      return [
        problemAt(
          'InvalidField',
          field,
          `must have ${rangeWords(here.minItems ?? 0, here.maxItems)} entries, but has ${Array.isArray(actual) ? actual.length : 0}`,
        ),
      ];
    default:
      return [problemAt('InvalidField', field, error.message)];
  }
}

/** What to say about a field that does not exist. */
export function unknownField(name: string, known: readonly string[]): string {
  const hint = didYouMean(name, known);
  return `there is no such field${hint === '' && known.length > 0 ? `; the fields here are ${known.join(', ')}` : hint}`;
}

function missing(description: string | undefined): string {
  return description === undefined ? 'is missing' : `is missing: ${description.replace(/\.$/, '')}`;
}

function typeWords(type: string | undefined): string {
  const words: Record<string, string> = {
    string: 'text',
    integer: 'a whole number',
    boolean: 'true or false',
    array: 'a list',
    object: 'an object with fields',
  };
  return words[type ?? ''] ?? 'something else';
}

function listWords(values: readonly string[]): string {
  return values.length === 1 ? (values[0] ?? '') : `one of ${values.join(', ')}`;
}

function rangeWords(minimum: number | undefined, maximum: number | undefined): string {
  if (minimum === undefined) return `at most ${maximum ?? ''}`;
  return maximum === undefined ? `at least ${minimum}` : `${minimum} to ${maximum}`;
}

/** A value as a message shows it: short ({@link shorten}), and containers by what they are only. */
export function show(value: unknown): string {
  if (value === null || value === undefined) return 'empty';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'string') return JSON.stringify(shorten(value));
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  return 'an object';
}

/** Longer than what people write into fields and read in messages. */
const shownLength = 60;

/**
 * Of a text that is longer, only how it begins: it may well be a key that stands in the wrong place of a manifest, and
 * messages go into logs, Events and status.
 */
export function shorten(text: string): string {
  return text.length > shownLength ? `${text.slice(0, 16)}...` : text;
}
