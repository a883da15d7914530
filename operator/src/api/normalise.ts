import { normaliseAltName, normaliseFingerprint } from './certificate-names.ts';
import { normaliseHost } from './host-name.ts';
import { compareRanges, parseAddress, parseCidr, type Address, type Cidr } from './ip.ts';
import type { TextForm } from './schema-kit.ts';
import { childSchema, isRecord, type SchemaView } from './schema-view.ts';
import { shared } from './shared.ts';

/**
 * The value in the one form in which equal resources are equal: canonical addresses and names, sets sorted and
 * without repetition, fields of closed objects in the order of the schema, keys of maps sorted. Lists of
 * objects keep their order, because the first listener is special. The value must have passed the checks. What it
 * consists of is shared with others that say the same, and frozen.
 */
export function normalise(schema: SchemaView | undefined, value: unknown): unknown {
  if (schema === undefined) return value;
  if (typeof value === 'string') return normaliseText(schema, value);
  if (Array.isArray(value)) {
    const entries = value.map((entry) => normalisePart(schema.items, entry));
    return schema['x-kubernetes-list-type'] === 'set' ? sortedSet(entries) : entries;
  }
  if (!isRecord(value)) return value;
  const names = Object.keys(schema.properties ?? {}).filter((name) => Object.hasOwn(value, name));
  const keys = schema.properties === undefined ? Object.keys(value).sort() : names;
  return Object.fromEntries(keys.map((key) => [key, normalisePart(childSchema(schema, key), value[key])]));
}

function normalisePart(schema: SchemaView | undefined, value: unknown): unknown {
  const normal = normalise(schema, value);
  return typeof normal === 'object' && normal !== null ? shared(normal) : normal;
}

const normalForms: Readonly<Record<TextForm, (text: string) => string>> = {
  address: (text) => parseAddress(text)?.text ?? text,
  cidr: (text) => parseCidr(text)?.text ?? text,
  host: normaliseHost,
  fingerprint: normaliseFingerprint,
  altName: normaliseAltName,
};

function normaliseText(schema: SchemaView, text: string): string {
  const form = schema['x-ovpn-text'];
  return form === undefined ? text : normalForms[form](text);
}

function sortedSet(entries: readonly unknown[]): unknown[] {
  const texts = entries.filter((entry) => typeof entry === 'string');
  return [...new Set(texts)].sort(compareTexts);
}

function compareTexts(one: string, other: string): number {
  const [a, b] = [rangeOf(one), rangeOf(other)];
  if (a !== undefined && b !== undefined) return compareRanges(a, b);
  return one < other ? -1 : one > other ? 1 : 0;
}

function rangeOf(text: string): Address | Cidr | undefined {
  return parseAddress(text) ?? parseCidr(text);
}
