import { childPath, childSchema, isRecord, type SchemaView } from './schema-view.ts';

/**
 * A copy of a value without the fields that its schema does not know, as the API server stores it. Each field
 * that is left out is told by its path.
 */
export function prune(schema: SchemaView, value: unknown, path: string, leftOut: (path: string) => void): unknown {
  if (Array.isArray(value)) {
    const { items } = schema;
    if (items === undefined) return value;
    return value.map((entry, index) => prune(items, entry, `${path}[${index}]`, leftOut));
  }
  if (!isRecord(value)) return value;
  const kept = Object.entries(value).flatMap(([name, field]): [string, unknown][] => {
    const child = childSchema(schema, name);
    const place = childPath(path, schema, name);
    if (child !== undefined) return [[name, prune(child, field, place, leftOut)]];
    leftOut(place);
    return [];
  });
  return Object.fromEntries(kept);
}
