import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Document, isMap, isScalar, type Node, parseDocument, type YAMLMap } from 'yaml';
import { cellCode, cellText, markdownTable, pageHead } from './markdown.ts';

const chart = join(import.meta.dirname, '../../charts/ovpn-operator');

/** A value of the chart: where it stands, what it is when nobody says otherwise, and the comment above it. */
export interface ChartValue {
  readonly path: readonly string[];
  readonly fallback: unknown;
  readonly words: string;
}

/** All values of the chart, as values.yaml has them, in order. */
export function chartValues(): readonly ChartValue[] {
  const document = parseDocument(readFileSync(join(chart, 'values.yaml'), 'utf8'));
  if (!isMap<unknown, Node | null>(document.contents)) throw new Error('charts/ovpn-operator/values.yaml is not a map');
  return valuesIn(document, document.contents, []);
}

function valuesIn(document: Document, map: YAMLMap<unknown, Node | null>, above: readonly string[]): ChartValue[] {
  return map.items.flatMap((pair, index) => {
    if (!isScalar(pair.key)) return [];
    const path = [...above, String(pair.key.value)];
    // The comment above the first entry of a map is the map's.
    const comment = pair.key.commentBefore ?? (index === 0 ? map.commentBefore : undefined) ?? '';
    // What stands apart above the first value is about the file.
    const words = comment.split(/\n\s*\n/).at(-1) ?? '';
    // A map whose entries are explained is a group of values; another one is a value itself.
    if (isMap<unknown, Node | null>(pair.value) && explained(pair.value)) {
      return [...(words === '' ? [] : [{ path, fallback: undefined, words }]), ...valuesIn(document, pair.value, path)];
    }
    return [{ path, fallback: pair.value?.toJS(document) as unknown, words }];
  });
}

function explained(map: YAMLMap): boolean {
  return map.commentBefore != null || map.items.some(({ key }) => isScalar(key) && key.commentBefore != null);
}

interface Schema {
  readonly $ref?: string;
  readonly $defs?: Readonly<Record<string, Schema>>;
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, Schema>>;
}

/** docs/reference/values.md: every value of the Helm chart. */
export function valuesPage(): string {
  const root = JSON.parse(readFileSync(join(chart, 'values.schema.json'), 'utf8')) as Schema;
  const resolve = (schema: Schema | undefined): Schema => {
    const name = schema?.$ref?.replace('#/$defs/', '');
    return (name === undefined ? schema : root.$defs?.[name]) ?? {};
  };
  const typeOf = (path: readonly string[]): string => {
    let schema = root;
    for (const step of path) schema = resolve(resolve(schema).properties?.[step]);
    if (schema.enum !== undefined) return schema.enum.map((value) => cellCode(JSON.stringify(value))).join(', ');
    return [schema.type ?? []].flat().join(' or ');
  };
  const rows = chartValues().map(({ path, fallback, words }) => [
    cellCode(path.join('.')),
    typeOf(path),
    fallback === undefined ? '' : cellCode(JSON.stringify(fallback)),
    cellText(words),
  ]);
  const about =
    'Every value of `charts/ovpn-operator`. A value that does not exist, or cannot work, is refused by name. [Install](../install.md) says which to think of first.';
  return (
    pageHead('Values of the Helm chart', 'charts/ovpn-operator/values.yaml and values.schema.json', about) +
    `\n${markdownTable(['Value', 'Type', 'Default', 'What it is good for'], rows)}`
  );
}
