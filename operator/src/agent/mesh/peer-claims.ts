import { formatRef, type Holder, type ObjectRef, type VpnPeer } from '../../api/types.ts';
import { Backoff } from '../../cluster/backoff.ts';
import type { Clock } from '../../cluster/clock.ts';
import type { ResourceSource } from '../../cluster/source.ts';
import { describe } from '../../errors.ts';
import type { Log } from '../../telemetry/log.ts';

/** A peer that is connected to this node. */
interface Claim {
  readonly ref: ObjectRef;
  /** Milliseconds since 1970. */
  readonly since: number;
  readonly backoff: Backoff;
  /** Of the claim that was taken; undefined before. */
  epoch: number | undefined;
  underWay: boolean;
  cancel: (() => void) | undefined;
}

/** What to do about a peer that is connected here. */
export type ClaimStep = { readonly do: 'rest' | 'yield' } | { readonly do: 'claim'; readonly holder: Holder };

/**
 * What a node does about a peer that is connected to it, by what the API server says of its holder. Pure. Epochs are
 * the order of events: whoever claims has seen the claim before. Where two nodes have not seen each other's, the later
 * connection counts, because a client that connects anew has left the place where it was.
 */
export function nextStep(
  self: string,
  { since, epoch }: Pick<Claim, 'since' | 'epoch'>,
  holder: Holder | undefined,
): ClaimStep {
  if (holder?.node === self) return { do: 'rest' };
  if (holder !== undefined) {
    const isLater = epoch === undefined ? Date.parse(holder.since) > since : holder.epoch > epoch;
    if (isLater) return { do: 'yield' };
  }
  const claimed = { node: self, epoch: (holder?.epoch ?? 0) + 1, since: new Date(since).toISOString() };
  return { do: 'claim', holder: claimed };
}

/** Tells the other nodes which peers are connected here, and learns when one has gone to another node. */
export class PeerClaims {
  readonly #node: string;
  readonly #source: Pick<ResourceSource, 'claim' | 'get'>;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #log: Log;
  readonly #lost: (ref: ObjectRef) => void;
  readonly #claims = new Map<string, Claim>();

  /** @param lost told of a peer that is connected to another node by now */
  constructor(options: {
    readonly node: string;
    readonly source: Pick<ResourceSource, 'claim' | 'get'>;
    readonly clock: Clock;
    readonly random: () => number;
    readonly log: Log;
    readonly lost: (ref: ObjectRef) => void;
  }) {
    this.#node = options.node;
    this.#source = options.source;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#log = options.log;
    this.#lost = options.lost;
  }

  /** The peer is connected here since then (milliseconds since 1970). Nothing happens the second time. */
  connected(ref: ObjectRef, since: number): void {
    const name = formatRef(ref);
    if (this.#claims.get(name)?.since === since) return;
    this.gone(ref);
    const backoff = new Backoff({ initialMs: 100, maxMs: 10_000, random: this.#random });
    const claim: Claim = { ref, since, backoff, epoch: undefined, underWay: false, cancel: undefined };
    this.#claims.set(name, claim);
    this.#look(claim);
  }

  /** The peer is not connected here any more. What was said stands, until another node has it. */
  gone(ref: ObjectRef): void {
    const name = formatRef(ref);
    this.#claims.get(name)?.cancel?.();
    this.#claims.delete(name);
  }

  /** The object has changed, its holder perhaps. */
  changed(ref: ObjectRef): void {
    const claim = this.#claims.get(formatRef(ref));
    if (claim !== undefined && !claim.underWay) this.#look(claim);
  }

  close(): void {
    for (const { cancel } of this.#claims.values()) cancel?.();
    this.#claims.clear();
  }

  #look(claim: Claim): void {
    claim.cancel?.();
    claim.cancel = undefined;
    const { ref } = claim;
    const peer = this.#source.get('VpnPeer', ref.namespace, ref.name);
    if (peer === undefined) return;
    const { holder } = peer.status ?? {};
    const step = nextStep(this.#node, claim, holder);
    switch (step.do) {
      case 'rest':
        claim.epoch = holder?.epoch;
        return;
      case 'yield':
        this.gone(ref);
        this.#log.info(
          { event: 'peer.moved', peer: formatRef(ref), node: holder?.node },
          'the peer is connected to another node now',
        );
        this.#lost(ref);
        return;
      case 'claim':
        claim.underWay = true;
        void this.#claim(claim, peer, step.holder);
    }
  }

  /** Never rejects. */
  async #claim(claim: Claim, peer: VpnPeer, holder: Holder): Promise<void> {
    const name = formatRef(claim.ref);
    let taken = false;
    try {
      taken = (await this.#source.claim(peer, holder)) === 'taken';
      if (taken) this.#log.debug({ event: 'peer.claimed', peer: name, epoch: holder.epoch }, 'the others know');
    } catch (error) {
      this.#log.warn(
        { event: 'peer.claim-failed', peer: name, error: describe(error) },
        'the other nodes do not know yet that the peer is connected here',
      );
    }
    claim.underWay = false;
    if (this.#claims.get(name) !== claim) return;
    if (taken) {
      claim.epoch = holder.epoch;
      claim.backoff.reset();
      return;
    }
    // The version that was refused is known here in a moment, if it is not by now.
    claim.cancel = this.#clock.after(claim.backoff.next(), () => this.#look(claim));
  }
}
