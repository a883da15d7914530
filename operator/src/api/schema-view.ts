import type { Rule, TextForm } from './schema-kit.ts';

/** What the parser reads of a schema: the JSON Schema keywords that our schemas use. */
export interface SchemaView {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly properties?: Readonly<Record<string, SchemaView>>;
  readonly patternProperties?: Readonly<Record<string, SchemaView>>;
  readonly items?: SchemaView;
  readonly enum?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly pattern?: string;
  readonly 'x-kubernetes-list-type'?: 'set' | 'map' | 'atomic';
  readonly 'x-kubernetes-list-map-keys'?: readonly string[];
  readonly 'x-kubernetes-validations'?: readonly Rule<unknown>[];
  readonly 'x-ovpn-text'?: TextForm;
}

/** The schema of a field or list entry of a value, if the schema knows it. */
export function childSchema(schema: SchemaView, key: string): SchemaView | undefined {
  if (schema.items !== undefined) return schema.items;
  if (schema.properties !== undefined) {
    return Object.hasOwn(schema.properties, key) ? schema.properties[key] : undefined;
  }
  return Object.values(schema.patternProperties ?? {})[0];
}

/** The path of a child as a person writes it: `spec.routes[0]`, `spec.nodeSelector["kubernetes.io/os"]`. */
export function childPath(path: string, parent: SchemaView | undefined, key: string): string {
  if (parent?.items !== undefined) return `${path}[${key}]`;
  if (parent?.patternProperties !== undefined || !/^[A-Za-z_][\w-]*$/.test(key))
    return `${path}[${JSON.stringify(key)}]`;
  return path === '' ? key : `${path}.${key}`;
}

/** Whether a value is an object with fields: not null, not a list. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
