import { identityKey } from '../api/certificate-names.ts';
import { type Claimant, KeyClaims } from '../api/claims.ts';
import { type Cidr, parseCidr } from '../api/ip.ts';
import { PrefixTrie } from '../api/prefix-trie.ts';
import type { DesiredPeer } from './desired.ts';
import type { DesiredSession } from './sessions/desired-session.ts';

/** What is in force for a VpnPeer, of whatever sort it is. */
export type Holder = DesiredPeer | DesiredSession;

/** Comes before everyone, and is nobody: its questions are answered with all. */
const everyone: Claimant = { ref: { kind: 'VpnPeer', namespace: '', name: '' }, key: '', created: -Infinity };

interface Possession {
  readonly peer: Holder;
  readonly owner: Claimant;
  readonly routes: readonly Cidr[];
}

/**
 * What peers have of what only one can have: peer ids, VPN addresses, identities and destinations. No question costs
 * more for the number of peers. The rules are those of api/rules.ts.
 */
export class Possessions {
  readonly #peers = new Map<string, Possession>();
  readonly #ids = new KeyClaims<number>();
  readonly #addresses = new KeyClaims<string>();
  readonly #identities = new KeyClaims<string>();
  readonly #routes = { 4: new PrefixTrie(), 6: new PrefixTrie() };
  /** A default route means "everything else", so it meets nothing but another one of its family. */
  readonly #defaultRoutes = new KeyClaims<string>();

  /** Takes a peer under its name, which must be free. */
  add(name: string, peer: Holder): void {
    const { ref } = peer;
    const owner = { ref: ref as Claimant['ref'], key: name, created: 0 };
    const ranges = rangesOf(peer);
    const routes = ranges.length === 0 ? noRanges : ranges;
    this.#peers.set(name, { peer, owner, routes });
    for (const id of idsOf(peer)) this.#ids.add(id, owner);
    for (const address of addressesOf(peer)) this.#addresses.add(address, owner);
    for (const identity of identitiesOf(peer)) this.#identities.add(identity, owner);
    for (const route of routes) {
      if (route.prefix === 0) this.#defaultRoutes.add(route.text, owner);
      else this.#routes[route.family].add(route, owner);
    }
  }

  /** Forgets a peer; one that is not there is no error. */
  remove(name: string): void {
    const possession = this.#peers.get(name);
    if (possession === undefined) return;
    const { peer, owner, routes } = possession;
    this.#peers.delete(name);
    for (const id of idsOf(peer)) this.#ids.remove(id, owner);
    for (const address of addressesOf(peer)) this.#addresses.remove(address, owner);
    for (const identity of identitiesOf(peer)) this.#identities.remove(identity, owner);
    for (const route of routes) {
      if (route.prefix === 0) this.#defaultRoutes.remove(route.text, owner);
      else this.#routes[route.family].remove(route, owner);
    }
  }

  /** Names of those who have something that the peer has, too. */
  colliding(peer: Holder): ReadonlySet<string> {
    const owners = [
      ...idsOf(peer).flatMap((id) => this.#ids.youngerThan(id, everyone)),
      ...addressesOf(peer).flatMap((address) => this.#addresses.youngerThan(address, everyone)),
      ...identitiesOf(peer).flatMap((identity) => this.#identities.youngerThan(identity, everyone)),
      ...rangesOf(peer).flatMap((route) =>
        route.prefix === 0
          ? this.#defaultRoutes.youngerThan(route.text, everyone)
          : this.#routes[route.family].youngerOverlaps(route, everyone),
      ),
    ];
    return new Set(owners.map(({ key }) => key));
  }
}

const noRanges: readonly Cidr[] = [];

/** Peers with a session have ids of their own range, which nobody claims. */
function idsOf(peer: Holder): number[] {
  return 'id' in peer ? [peer.id] : [];
}

/** A remote that is dialled has whatever address it assigns, on a device of its own. */
function addressesOf(peer: Holder): string[] {
  return 'vpnIpv4' in peer ? [peer.vpnIpv4, peer.vpnIpv6].filter((address) => address !== undefined) : [];
}

function identitiesOf(peer: Holder): string[] {
  const key = 'identity' in peer ? identityKey(peer.identity) : undefined;
  return key === undefined ? [] : [key];
}

function rangesOf({ routes }: Holder): Cidr[] {
  return routes.flatMap((route) => parseCidr(typeof route === 'string' ? route : route.destination) ?? []);
}
