import { type Claimant, KeyClaims } from '../api/claims.ts';
import { type Cidr, parseCidr } from '../api/ip.ts';
import { PrefixTrie } from '../api/prefix-trie.ts';
import type { DesiredPeer } from './desired.ts';

/** Comes before everyone, and is nobody: its questions are answered with all. */
const everyone: Claimant = { ref: { kind: 'VpnPeer', namespace: '', name: '' }, key: '', created: -Infinity };

interface Possession {
  readonly peer: DesiredPeer;
  readonly owner: Claimant;
  readonly routes: readonly Cidr[];
}

/**
 * What peers have of what only one can have: peer ids, VPN addresses and destinations. No question costs more
 * for the number of peers. The rules are those of api/rules.ts.
 */
export class Possessions {
  readonly #peers = new Map<string, Possession>();
  readonly #ids = new KeyClaims<number>();
  readonly #addresses = new KeyClaims<string>();
  readonly #routes = { 4: new PrefixTrie(), 6: new PrefixTrie() };
  /** A default route means "everything else", so it meets nothing but another one of its family. */
  readonly #defaultRoutes = new KeyClaims<string>();

  /** Takes a peer under its name, which must be free. */
  add(name: string, peer: DesiredPeer): void {
    const { namespace = '', name: own } = peer.ref;
    const owner = { ref: { kind: 'VpnPeer', namespace, name: own }, key: name, created: 0 } as const;
    const routes = rangesOf(peer);
    this.#peers.set(name, { peer, owner, routes });
    this.#ids.add(peer.id, owner);
    for (const address of addressesOf(peer)) this.#addresses.add(address, owner);
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
    this.#ids.remove(peer.id, owner);
    for (const address of addressesOf(peer)) this.#addresses.remove(address, owner);
    for (const route of routes) {
      if (route.prefix === 0) this.#defaultRoutes.remove(route.text, owner);
      else this.#routes[route.family].remove(route, owner);
    }
  }

  /** Names of those who have something that the peer has, too. */
  colliding(peer: DesiredPeer): ReadonlySet<string> {
    const owners = [
      ...this.#ids.youngerThan(peer.id, everyone),
      ...addressesOf(peer).flatMap((address) => this.#addresses.youngerThan(address, everyone)),
      ...rangesOf(peer).flatMap((route) =>
        route.prefix === 0
          ? this.#defaultRoutes.youngerThan(route.text, everyone)
          : this.#routes[route.family].youngerOverlaps(route, everyone),
      ),
    ];
    return new Set(owners.map(({ key }) => key));
  }
}

function addressesOf({ vpnIpv4, vpnIpv6 }: DesiredPeer): string[] {
  return [vpnIpv4, vpnIpv6].filter((address) => address !== undefined);
}

function rangesOf({ routes }: DesiredPeer): Cidr[] {
  return routes.flatMap(({ destination }) => parseCidr(destination) ?? []);
}
