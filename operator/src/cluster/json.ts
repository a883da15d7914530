import { createHash } from 'node:crypto';

/** The value as an object whose fields can be looked at, or undefined when it is none. */
export function asRecord(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

/**
 * JSON with sorted field names and without fields that are undefined: equal content gives equal text,
 * whatever the order in which it was written.
 */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_name, item: unknown) => {
    const fields = asRecord(item);
    return fields === undefined
      ? item
      : Object.fromEntries(Object.entries(fields).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  });
}

/** Stands for a text where it only has to be known again: there may be ten thousand of them. */
export function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('base64');
}
