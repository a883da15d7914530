import { childSchema, isRecord, type SchemaView } from './schema-view.ts';

/**
 * A copy of the value with absent fields filled in, as the API server does it: a null where there is a
 * default counts as absent, and defaults reach into defaulted objects. Fields without a schema are kept,
 * so that the check can name them.
 */
export function applyDefaults(schema: SchemaView | undefined, value: unknown): unknown {
  if (schema === undefined) return value;
  if (Array.isArray(value)) return value.map((entry) => applyDefaults(schema.items, entry));
  if (!isRecord(value)) return value;
  const properties = schema.properties ?? {};
  const fields = new Map(Object.entries(value).filter(([, field]) => field !== undefined));
  for (const [name, property] of Object.entries(properties)) {
    if (property.default !== undefined && (fields.get(name) ?? null) === null) {
      fields.set(name, structuredClone(property.default));
    }
  }
  // fromEntries defines fields, so that one called "__proto__" stays a field.
  return Object.fromEntries(
    [...fields].map(([name, field]) => [name, applyDefaults(childSchema(schema, name), field)]),
  );
}
