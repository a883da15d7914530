import { stringify } from 'yaml';
import { applyDefaults } from './defaults.ts';
import type { Definition } from './definitions.ts';
import { privateKeys, rulesKey, type Rule } from './schema-kit.ts';
import { group, version } from './types.ts';

type Json = string | number | boolean | null | Json[] | { [key: string]: Json };
type Schema = Record<string, unknown>;

const header = `# Generated from operator/src/api; do not edit. To change it, edit the schemas and run: npm run generate
`;

/** The CustomResourceDefinition of a kind as an object. */
export function customResourceDefinition(definition: Definition): { [key: string]: Json } {
  const { kind, plural, singular, shortName, scope, category } = definition;
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${group}`, labels: { 'app.kubernetes.io/part-of': 'ovpn-operator' } },
    spec: {
      group,
      names: { kind, listKind: `${kind}List`, plural, singular, shortNames: [shortName], categories: [category] },
      scope,
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: definition.columns.map((column) => ({ ...column })),
          schema: {
            openAPIV3Schema: {
              description: definition.description,
              type: 'object',
              required: ['spec'],
              properties: {
                apiVersion: { type: 'string' },
                kind: { type: 'string' },
                metadata: { type: 'object' },
                spec: structural(definition.spec),
                status: structural(definition.status),
              },
              ...(definition.nameRules.length === 0 ? {} : { [rulesKey]: definition.nameRules.flatMap(validation) }),
            },
          },
        },
      ],
    },
  };
}

/** The name of the file of a kind in `crds/`. */
export function crdFileName(definition: Definition): string {
  return `${definition.plural}.${group}.yaml`;
}

/** The text of the file of a kind in `crds/`. */
export function crdYaml(definition: Definition): string {
  return header + stringify(customResourceDefinition(definition), { lineWidth: 120, aliasDuplicateObjects: false });
}

/**
 * A structural schema as the API server wants it. What differs from JSON Schema: closed objects are the
 * rule and need no keyword, maps say `additionalProperties`, a field with a default is not required, and
 * the default of an object is written out, because the API server holds it to the rules as it stands.
 */
function structural(schema: object): Json {
  const source = schema as Schema;
  const out: Record<string, Json> = {};
  for (const [key, value] of Object.entries(source)) {
    if (privateKeys.has(key) || key === 'additionalProperties' || key === 'required') continue;
    if (key === 'properties') {
      const properties = Object.entries(value as Record<string, Schema>);
      const required = properties.filter(([, property]) => property['default'] === undefined).map(([name]) => name);
      const wanted = required.filter((name) => (source['required'] as string[] | undefined)?.includes(name));
      if (wanted.length > 0) out['required'] = wanted;
      out['properties'] = Object.fromEntries(properties.map(([name, property]) => [name, structural(property)]));
    } else if (key === 'items') out['items'] = structural(value as Schema);
    else if (key === 'patternProperties') {
      const [values] = Object.values(value as Record<string, Schema>);
      out['additionalProperties'] = structural(values ?? {});
    } else if (key === rulesKey) {
      const validations = (value as Rule<unknown>[]).flatMap(validation);
      if (validations.length > 0) out[rulesKey] = validations;
    } else if (key === 'default') out['default'] = applyDefaults(source, value) as Json;
    else out[key] = value as Json;
  }
  return out;
}

function validation(rule: Pick<Rule<unknown>, 'cel' | 'message'>): { [key: string]: Json }[] {
  if (rule.cel === undefined) return [];
  return [{ rule: rule.cel, message: rule.message }];
}
