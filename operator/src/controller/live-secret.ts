import { parseResource } from '../api/parse.ts';
import type { Secret } from '../api/types.ts';
import { asRecord } from '../cluster/json.ts';

/**
 * The API server's answer for one Secret, checked; undefined when it cannot be used. Secrets of users are read by name
 * and stand in no cache (see MaterialCopies).
 */
export function liveSecret(found: unknown, origin: string): Secret | undefined {
  const result = parseResource({ ...asRecord(found), apiVersion: 'v1', kind: 'Secret' }, origin);
  return result.ok && result.resource.kind === 'Secret' ? result.resource : undefined;
}
