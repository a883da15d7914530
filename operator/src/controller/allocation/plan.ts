import { type Claim, claimName } from '../../api/allocation.ts';

/** What one holder has and should have of one network's numbers, or of its blocks. Pure. */

/** A claim of the holder's, as it stands in the API server. */
export interface HeldClaim {
  readonly claim: Claim;
  /** Given up, and kept for the quarantine. */
  readonly released: boolean;
}

/** What a holder should have: these claims, any one for which `fits` holds, or nothing. */
export type Want =
  | { readonly kind: 'these'; readonly claims: readonly Claim[] }
  | {
      readonly kind: 'any';
      readonly fits: (claim: Claim) => boolean;
      /** The one that was published: it is kept before any other. */
      readonly published: string | undefined;
    }
  | { readonly kind: 'nothing' };

/** The steps, in the order in which they are taken. Names are those of claims. */
export interface ClaimPlan {
  /** Held, and to be published. */
  readonly keep: readonly string[];
  /** Given up and wanted again. */
  readonly revive: readonly string[];
  /** To be created by name; of `these` only. */
  readonly create: readonly Claim[];
  /** Whether any free one is to be claimed. */
  readonly claimAny: boolean;
  /** Held and not wanted. */
  readonly release: readonly string[];
  /** Given up before: deleted when the quarantine is over. */
  readonly quarantined: readonly string[];
}

/**
 * What to do about a holder's claims. Deterministic, so that controllers that see the same do the same; and what is
 * published is kept, so that no two of them pull a holder to and fro.
 */
export function planClaims(held: readonly HeldClaim[], want: Want): ClaimPlan {
  const wanted = wantedNames(held, want);
  const live = held.filter(({ released }) => !released).map(({ claim }) => claimName(claim));
  const released = held.filter((entry) => entry.released).map(({ claim }) => claimName(claim));
  const known = new Set([...live, ...released]);
  return {
    keep: live.filter((name) => wanted.has(name)),
    revive: released.filter((name) => wanted.has(name)),
    create: want.kind === 'these' ? want.claims.filter((claim) => !known.has(claimName(claim))) : [],
    claimAny: want.kind === 'any' && wanted.size === 0,
    release: live.filter((name) => !wanted.has(name)),
    quarantined: released.filter((name) => !wanted.has(name)),
  };
}

function wantedNames(held: readonly HeldClaim[], want: Want): ReadonlySet<string> {
  if (want.kind === 'nothing') return new Set();
  if (want.kind === 'these') return new Set(want.claims.map(claimName));
  const fitting = held.filter(({ claim }) => want.fits(claim)).sort(inOrder);
  const published = fitting.find(({ claim }) => claimName(claim) === want.published);
  const chosen = published ?? fitting.find(({ released }) => !released) ?? fitting[0];
  return new Set(chosen === undefined ? [] : [claimName(chosen.claim)]);
}

function inOrder({ claim: one }: HeldClaim, { claim: other }: HeldClaim): number {
  const [a, b] = [one, other].map((claim) => (claim.kind === 'number' ? claim.number : BigInt(claim.index)));
  return a === b || a === undefined || b === undefined ? 0 : a < b ? -1 : 1;
}
