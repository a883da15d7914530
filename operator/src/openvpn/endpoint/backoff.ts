/** How long a dialer waits before its next try. */

export type Wait =
  | { readonly kind: 'none' }
  /** Doubles with every failure: 1 is the first. */
  | { readonly kind: 'backoff'; readonly failures: number }
  /** Haste does not help: somebody has to change something first. */
  | { readonly kind: 'longest' }
  /** The server said how long; a second at least. */
  | { readonly kind: 'asked'; readonly seconds: number };

const shortestMs = 1000;
const longestBackoffMs = 300_000;
/** A server cannot keep us from the other remotes for longer than this. */
const longestAskedMs = 3_600_000;
/** By this share a wait is shorter or longer, so that clients that lost their server together do not come together. */
const jitter = 0.2;

/**
 * A wait in milliseconds.
 *
 * @param chance from 0 to 1, by which this wait is jittered; what a server asked for is only made longer
 */
export function waitMs(wait: Wait, chance: number): number {
  const spread = 2 * chance - 1;
  switch (wait.kind) {
    case 'none':
      return 0;
    case 'backoff':
      return Math.round(Math.min(longestBackoffMs, shortestMs * 2 ** (wait.failures - 1)) * (1 + jitter * spread));
    case 'longest':
      return Math.round(longestBackoffMs * (1 + jitter * spread));
    case 'asked':
      return Math.round(Math.min(longestAskedMs, Math.max(shortestMs, wait.seconds * 1000)) * (1 + jitter * chance));
  }
}
