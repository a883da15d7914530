import { customResourceDefinition } from '../../operator/src/api/crd.ts';
import { type Definition, definitions } from '../../operator/src/api/definitions.ts';
import { group, version } from '../../operator/src/api/types.ts';
import { cellCode, cellText, markdownTable, pageHead } from './markdown.ts';

/** What of the schema of a CRD is shown. */
interface Schema {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly string[];
  readonly format?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly additionalProperties?: Schema;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly 'x-kubernetes-validations'?: readonly { readonly message: string }[];
}

/** docs/reference/crds.md: every field of every kind. */
export function crdsPage(): string {
  const words = `The kinds of the group \`${group}\`, version \`${version}\`, field by field; \`kubectl explain\` says the same. [The resources](../resources.md) explains how they work together. Whoever writes the API server the wrong thing gets the words of the rule that it breaks. Every list and every text has a greatest length.`;
  return pageHead('Fields of the resources', 'operator/src/api', words) + definitions.map(kindSection).join('');
}

function kindSection(definition: Definition): string {
  const { kind, plural, shortName, scope, description } = definition;
  // Made of JSON by a function of ours, whose result has no finer type.
  const crd = customResourceDefinition(definition) as unknown as {
    spec: { versions: [{ schema: { openAPIV3Schema: Schema } }] };
  };
  const schema = crd.spec.versions[0].schema.openAPIV3Schema;
  const part = (name: 'spec' | 'status'): string => {
    const own = schema.properties?.[name] ?? {};
    const rules = rulesText(own);
    return `\n### ${kind} ${name}\n\n${cellText(own.description ?? '')}${rules === '' ? '' : ` ${rules}`}\n\n${markdownTable(
      ['Field', 'Type', 'Default', 'What it says'],
      rowsOf(own, ''),
    )}`;
  };
  const named = rulesText(schema);
  return `\n## ${kind}\n\n${cellText(description)} Plural \`${plural}\`, short name \`${shortName}\`, ${
    scope === 'Cluster' ? 'for the whole cluster' : 'in a namespace'
  }.${named === '' ? '' : ` ${named}`}\n${part('spec')}${part('status')}`;
}

function rowsOf(schema: Schema, path: string): string[][] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, property]) => {
    const own = path === '' ? name : `${path}.${name}`;
    const row = [cellCode(own), typeText(property), defaultText(property, schema.required?.includes(name) === true)];
    const rules = [rulesText(property), rulesText(property.items ?? {})].filter((text) => text !== '');
    const words = [cellText(property.description ?? ''), ...rules].join(' ');
    // The fields of a condition are those that every kind of Kubernetes has.
    const below = own === 'conditions' ? [] : rowsOf(property.items ?? property, property.items ? `${own}[]` : own);
    return [[...row, words], ...below];
  });
}

function typeText(schema: Schema): string {
  if (schema.items !== undefined) return `list of ${typeText(schema.items)}${countText(schema)}`;
  if (schema.additionalProperties !== undefined) return 'map';
  if (schema.enum !== undefined) return schema.enum.map(cellCode).join(', ');
  const { type = '', format, minimum, maximum } = schema;
  if (format !== undefined) return format;
  if (minimum !== undefined && maximum !== undefined) return `${type}, ${minimum} to ${maximum}`;
  return type;
}

function countText({ minItems = 0, maxItems }: Schema): string {
  if (maxItems === undefined) return '';
  return minItems === 0 ? `, at most ${maxItems}` : `, ${minItems} to ${maxItems}`;
}

function defaultText(schema: Schema, required: boolean): string {
  if (required) return 'required';
  return schema.default === undefined ? '' : cellCode(JSON.stringify(schema.default));
}

function rulesText(schema: Schema): string {
  const messages = schema['x-kubernetes-validations']?.map(({ message }) => message) ?? [];
  return [...new Set(messages)].map((message) => `_Rule:_ ${cellText(message)}.`).join(' ');
}
