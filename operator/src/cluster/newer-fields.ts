import type { Log } from '../telemetry/log.ts';

/**
 * Says once of each field that it is not known here. The API server drops what its CRDs do not have, so such a
 * field comes from CRDs that are newer than this process: no mistake of a person, and no reason to stop.
 */
export class NewerFields {
  readonly #log: Log;
  readonly #told = new Set<string>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** @param field the path in the object, `spec.routes[3].metric` */
  tell(kind: string, field: string): void {
    const place = `${kind} ${field.replaceAll(/\[\d+\]/g, '[]')}`;
    if (this.#told.has(place)) return;
    this.#told.add(place);
    const words = `${place} is not known to this version and has no effect here; the CRDs are newer`;
    this.#log.warn({ event: 'field.newer', kind, field }, words);
  }
}
