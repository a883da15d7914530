/**
 * When a network's CA is followed by a new one, and which of them signs what. Pure.
 *
 * Clients have the CA in their profile, and get a new profile with every certificate. So a new CA is made while the
 * old one is good for two lifetimes of a certificate. It signs clients as soon as all nodes trust it, and the server
 * only when every client has had a profile with both: one lifetime later, in which all certificates were renewed.
 */

/** Times in milliseconds since 1970. */
export interface CaTimes {
  readonly notBefore: number;
  readonly notAfter: number;
}

export interface CaLifetimes {
  readonly caMs: number;
  readonly certificateMs: number;
}

export interface CaPlan<Ca> {
  /** A further CA is to be made; until then the others go on, if there are any. */
  readonly create: boolean;
  /** Those that have not expired, oldest first: who is trusted. */
  readonly trusted: readonly Ca[];
  readonly signsClients: Ca | undefined;
  readonly signsServer: Ca | undefined;
  /** When something changes by time alone. */
  readonly nextAt: number;
}

/** By then all nodes have a Secret that was written, also those that were cut off for a while. */
export const distributionMs = 3_600_000;

/** @param cas oldest first */
export function planCa<Ca extends CaTimes>(
  cas: readonly Ca[],
  now: number,
  { certificateMs }: CaLifetimes,
): CaPlan<Ca> {
  const trusted = cas.filter(({ notAfter }) => notAfter > now);
  const newest = trusted.at(-1);
  const dueAt = newest === undefined ? now : newest.notAfter - 2 * certificateMs;
  /** The newest that is so old, or else the one that has been there longest. */
  const since = (age: number): Ca | undefined =>
    trusted.findLast(({ notBefore }) => now >= notBefore + age) ?? trusted[0];
  const times = [
    dueAt,
    ...trusted.flatMap(({ notBefore, notAfter }) => [notBefore + distributionMs, notBefore + certificateMs, notAfter]),
  ].filter((at) => at > now);
  return {
    create: dueAt <= now,
    trusted,
    signsClients: since(Math.min(distributionMs, certificateMs)),
    signsServer: since(certificateMs),
    nextAt: Math.min(...times),
  };
}

/** When a certificate is renewed: after two thirds of its life. */
export function renewAt({ notBefore, notAfter }: CaTimes): number {
  return notBefore + ((notAfter - notBefore) * 2) / 3;
}
