import { OvpnError, type ErrorName } from '../errors.ts';
import { identityField, identityKey } from './certificate-names.ts';
import { asHolder, claimantOf, KeyClaims, type Claimant } from './claims.ts';
import { contains, overlaps, parseAddress, parseCidr, reservedIn, type Address, type Cidr } from './ip.ts';
import { effectiveIdentity } from './issued.ts';
import { isStaticPeer, listenerOf } from './peer-kind.ts';
import { PrefixTrie } from './prefix-trie.ts';
import { formatRef, type ObjectRef, type VpnNetwork, type VpnPeer } from './types.ts';

/** A choice of namespaces as `spec.allowedPeers.namespaces` and `spec.attach.namespaces` hold it. */
export type NamespaceChoice = VpnNetwork['spec']['attach']['namespaces'];

/** Whether the owner of the network lets a namespace in. A selector has to be resolved to names before. */
export function allowsNamespace(choice: NamespaceChoice, namespace: string): boolean {
  return choice.from === 'All' || (choice.from === 'Names' && choice.names.includes(namespace));
}

interface Placed<T> {
  readonly value: T;
  readonly field: string;
}

/** What a network's spec says, made ready for questions about single peers. */
interface NetworkFacts {
  readonly network: VpnNetwork;
  readonly object: string;
  readonly peerPools: readonly Placed<Cidr>[];
  readonly pools: readonly Placed<Cidr>[];
  readonly allowedRoutes: readonly Cidr[];
  readonly nodeAddresses: ReadonlyMap<string, string>;
}

/** What a peer claims: only what it may have by itself, so that nobody can block others with what is refused. */
interface Claims {
  readonly addresses: readonly string[];
  readonly peerID: number | undefined;
  /** Which certificates it is for, as a key. */
  readonly identity: string | undefined;
  readonly routes: readonly Cidr[];
}

const noClaims: Claims = { addresses: [], peerID: undefined, identity: undefined, routes: [] };

interface Entry {
  readonly peer: VpnPeer;
  readonly claimant: Claimant;
  readonly claims: Claims;
  /** The problems that the peer has whatever the other peers do. */
  readonly problems: readonly OvpnError[];
}

/**
 * The rules between the peers of one VpnNetwork, kept up to date peer by peer; no change or question about
 * one peer costs more for the number of the others.
 *
 * A conflict is decided between two peers at a time: the older keeps what both claim (by creationTimestamp,
 * then by namespace and name), the younger has a problem. An address that the controller gave to a peer, or
 * confirmed, is that peer's however old others are: no two peers have one confirmed (status.allocation). A peer that is refused for one claim keeps its
 * other claims, so that the outcome does not depend on the order of events.
 */
export class NetworkIndex {
  #facts: NetworkFacts;
  readonly #entries = new Map<string, Entry>();
  readonly #addresses = new KeyClaims<string>();
  readonly #peerIds = new KeyClaims<number>();
  readonly #identities = new KeyClaims<string>();
  readonly #routes = { 4: new PrefixTrie(), 6: new PrefixTrie() };
  /** A default route means "everything else", so it meets nothing but another one of its family. */
  readonly #defaultRoutes = new KeyClaims<string>();

  constructor(network: VpnNetwork) {
    this.#facts = factsOf(network);
  }

  get network(): VpnNetwork {
    return this.#facts.network;
  }

  /** Takes a new version of the network; all peers are judged anew. */
  setNetwork(network: VpnNetwork): ObjectRef[] {
    const peers = [...this.#entries.values()].map(({ peer }) => peer);
    for (const entry of [...this.#entries.values()]) this.#remove(entry);
    this.#facts = factsOf(network);
    for (const peer of peers) this.#add(peer);
    return peers.map((peer) => claimantOf(peer).ref);
  }

  /** Takes a peer or its new version. Answers the peers whose problems may be others now, itself first. */
  set(peer: VpnPeer): ObjectRef[] {
    const { key, ref } = claimantOf(peer);
    const old = this.#entries.get(key);
    const changed = new Map<string, ObjectRef>([[key, ref]]);
    if (old !== undefined) this.#remove(old, changed);
    const entry = this.#add(peer);
    for (const other of this.#losersTo(entry)) changed.set(other.key, other.ref);
    return [...changed.values()];
  }

  /** Forgets a peer. Answers the peers whose problems may be others now: those that it kept from something. */
  delete(ref: ObjectRef): ObjectRef[] {
    const entry = this.#entries.get(keyOf(ref));
    const changed = new Map<string, ObjectRef>();
    if (entry !== undefined) this.#remove(entry, changed);
    return [...changed.values()];
  }

  /** The peers that are refused something because this one has it: none for what it is refused itself. */
  losersTo(ref: ObjectRef): ObjectRef[] {
    const entry = this.#entries.get(keyOf(ref));
    if (entry === undefined) return [];
    const held = this.#winners(entry).filter(({ winner }) => winner.key === entry.claimant.key);
    return held.flatMap(({ younger }) => younger().map((loser) => loser.ref));
  }

  /** The peers that have what this one asks for, too. */
  winnersOver(ref: ObjectRef): ObjectRef[] {
    const entry = this.#entries.get(keyOf(ref));
    if (entry === undefined) return [];
    const winners = this.#winners(entry).map(({ winner }) => winner);
    return winners.filter(({ key }) => key !== entry.claimant.key).map((winner) => winner.ref);
  }

  /** Why a peer may not be in force: everything wrong between it, the network and the other peers. */
  problemsOf(ref: ObjectRef): OvpnError[] {
    const entry = this.#entries.get(keyOf(ref));
    return entry === undefined ? [] : [...entry.problems, ...this.#conflictsOf(entry)];
  }

  #add(peer: VpnPeer): Entry {
    const claimant = claimantOf(peer);
    const entry = { peer, claimant, ...judge(peer, this.#facts) };
    this.#entries.set(claimant.key, entry);
    const { addresses, peerID, identity, routes } = entry.claims;
    for (const address of addresses) this.#addresses.add(address, addressClaimant(entry, address));
    if (peerID !== undefined) this.#peerIds.add(peerID, claimant);
    if (identity !== undefined) this.#identities.add(identity, claimant);
    for (const route of routes) {
      if (route.prefix === 0) this.#defaultRoutes.add(route.text, claimant);
      else this.#routes[route.family].add(route, claimant);
    }
    return entry;
  }

  #remove(entry: Entry, changed?: Map<string, ObjectRef>): void {
    const { claimant, claims } = entry;
    if (changed !== undefined) for (const other of this.#losersTo(entry)) changed.set(other.key, other.ref);
    this.#entries.delete(claimant.key);
    for (const address of claims.addresses) this.#addresses.remove(address, addressClaimant(entry, address));
    if (claims.peerID !== undefined) this.#peerIds.remove(claims.peerID, claimant);
    if (claims.identity !== undefined) this.#identities.remove(claims.identity, claimant);
    for (const route of claims.routes) {
      if (route.prefix === 0) this.#defaultRoutes.remove(route.text, claimant);
      else this.#routes[route.family].remove(route, claimant);
    }
  }

  #losersTo(entry: Entry): Claimant[] {
    return this.#winners(entry).flatMap(({ younger }) => younger());
  }

  /** For each thing that a peer claims: who has it, and who asks for it and is younger than the peer. */
  #winners(entry: Entry): { readonly winner: Claimant; readonly younger: () => readonly Claimant[] }[] {
    const { claimant, claims } = entry;
    const of = (winner: Claimant | undefined, younger: () => readonly Claimant[]) =>
      winner === undefined ? [] : [{ winner, younger }];
    const { peerID, identity } = claims;
    return [
      ...claims.addresses.flatMap((address) =>
        of(this.#addresses.oldest(address), () =>
          this.#addresses.youngerThan(address, addressClaimant(entry, address)),
        ),
      ),
      ...(peerID === undefined
        ? []
        : of(this.#peerIds.oldest(peerID), () => this.#peerIds.youngerThan(peerID, claimant))),
      ...(identity === undefined
        ? []
        : of(this.#identities.oldest(identity), () => this.#identities.youngerThan(identity, claimant))),
      ...claims.routes.flatMap((route) =>
        of(this.#oldestRoute(route)?.claimant, () =>
          route.prefix === 0
            ? this.#defaultRoutes.youngerThan(route.text, claimant)
            : this.#routes[route.family].youngerOverlaps(route, claimant),
        ),
      ),
    ];
  }

  /** For each claim the oldest peer that claims the same, when that is another one. */
  #conflictsOf({ peer, claimant, claims }: Entry): OvpnError[] {
    const object = formatRef(claimant.ref);
    const errors: OvpnError[] = [];
    const conflict = (name: ErrorName, field: string, what: string, winner: Claimant, theirs: string) => {
      if (winner.key === claimant.key) return;
      const problem = `${what} is taken by ${formatRef(winner.ref)} (${theirs}), which was there first`;
      errors.push(new OvpnError(name, problem, { object, field }));
    };
    const theirField = (winner: Claimant, list: 'addresses' | 'routes', text: string) =>
      `spec.${list}[${this.#entries.get(winner.key)?.peer.spec[list].indexOf(text) ?? 0}]`;
    for (const address of claims.addresses) {
      const winner = this.#addresses.oldest(address);
      const field = `spec.addresses[${peer.spec.addresses.indexOf(address)}]`;
      if (winner !== undefined) {
        conflict('AddressConflict', field, address, winner, theirField(winner, 'addresses', address));
      }
    }
    const idWinner = claims.peerID === undefined ? undefined : this.#peerIds.oldest(claims.peerID);
    if (idWinner !== undefined) {
      const field = 'spec.static.peerID';
      conflict('PeerIdConflict', field, `peer id ${claims.peerID}`, idWinner, field);
    }
    const identity = identityField(effectiveIdentity(peer) ?? {});
    const sameClient = claims.identity === undefined ? undefined : this.#identities.oldest(claims.identity);
    if (identity !== undefined && sameClient !== undefined) {
      const field = `spec.identity.${peer.spec.identity?.key === undefined ? identity.field : 'key'}`;
      conflict('IdentityConflict', field, JSON.stringify(identity.value), sameClient, field);
    }
    for (const route of claims.routes) {
      const field = `spec.routes[${peer.spec.routes.indexOf(route.text)}]`;
      const winner = this.#oldestRoute(route);
      if (winner === undefined) continue;
      const theirs = `${theirField(winner.claimant, 'routes', winner.text)}: ${winner.text}`;
      conflict('RouteConflict', field, route.text, winner.claimant, theirs);
    }
    return errors;
  }

  #oldestRoute(route: Cidr): { claimant: Claimant; text: string } | undefined {
    if (route.prefix !== 0) return this.#routes[route.family].oldestOverlap(route);
    const claimant = this.#defaultRoutes.oldest(route.text);
    return claimant === undefined ? undefined : { claimant, text: route.text };
  }
}

/** A peer as one that claims this address. */
function addressClaimant({ peer, claimant }: Entry, address: string): Claimant {
  return peer.status?.allocation?.addresses.includes(address) === true ? asHolder(claimant) : claimant;
}

function keyOf(ref: ObjectRef): string {
  return `${ref.namespace ?? ''}/${ref.name}`;
}

function factsOf(network: VpnNetwork): NetworkFacts {
  const { pools, nodes, allowedPeers, clusterAccess } = network.spec;
  const access = clusterAccess?.enabled === true ? clusterAccess : undefined;
  const placed = (list: readonly string[], field: string): Placed<Cidr>[] =>
    list.flatMap((text, index) => {
      const value = parseCidr(text);
      return value === undefined ? [] : [{ value, field: `${field}[${index}]` }];
    });
  const peerPools = placed(pools.peers, 'spec.pools.peers');
  return {
    network,
    object: formatRef({ kind: 'VpnNetwork', name: network.metadata.name }),
    peerPools,
    pools: [
      ...peerPools,
      ...placed(pools.pods, 'spec.pools.pods'),
      ...placed(access?.pods ?? [], 'spec.clusterAccess.pods'),
      ...placed(access?.services ?? [], 'spec.clusterAccess.services'),
    ],
    allowedRoutes: placed(allowedPeers.routes, '').map(({ value }) => value),
    nodeAddresses: new Map(
      nodes.flatMap((node, n) => node.addresses.map((text, a) => [text, `spec.nodes[${n}].addresses[${a}]`] as const)),
    ),
  };
}

/** What a peer may claim in a network, and its problems with the network itself. */
function judge(peer: VpnPeer, facts: NetworkFacts): Pick<Entry, 'claims' | 'problems'> {
  const { spec } = peer;
  const object = formatRef(claimantOf(peer).ref);
  const problems: OvpnError[] = [];
  const problem = (name: ErrorName, field: string, text: string) => {
    problems.push(new OvpnError(name, text, { object, field }));
  };
  if (spec.networkRef.name !== facts.network.metadata.name) {
    problem('ReferenceNotFound', 'spec.networkRef.name', `is not ${facts.object}`);
    return { claims: noClaims, problems };
  }
  if (!allowsNamespace(facts.network.spec.allowedPeers.namespaces, peer.metadata.namespace)) {
    const text = `${facts.object} takes no peers of this namespace (its spec.allowedPeers.namespaces)`;
    problem('NotAllowed', 'metadata.namespace', text);
    return { claims: noClaims, problems };
  }
  if (spec.identity !== undefined && facts.network.spec.pki === undefined) {
    problem('PkiMissing', 'spec.identity', `${facts.object} takes no peers that dial in, because it has no spec.pki`);
    return { claims: noClaims, problems };
  }
  if (spec.identity !== undefined && (spec.identity.key === undefined) === issues(facts.network)) {
    // Whatever else an identity says, only the names that the network's own CA gives are nobody else's.
    problem(
      'IdentityNotIssued',
      'spec.identity',
      issues(facts.network)
        ? `${facts.object} issues its certificates itself (spec.pki.builtIn), and they go by VpnKeys`
        : `${facts.object} issues no certificates, so there is no VpnKey for them`,
    );
    return { claims: noClaims, problems };
  }
  if (isStaticPeer(peer) && listenerOf(facts.network, peer) === undefined) {
    const { listener } = peer.spec.endpoint;
    const which = listener === undefined ? 'listener with protocol UDP' : `listener "${listener}" with protocol UDP`;
    problem('ReferenceNotFound', 'spec.endpoint.listener', `${facts.object} has no ${which}`);
  }
  const addresses = spec.addresses.filter((text, index) => {
    const address = parseAddress(text);
    const wrong = address === undefined ? undefined : addressProblem(address, facts);
    if (wrong !== undefined) problem(wrong[0], `spec.addresses[${index}]`, wrong[1]);
    return wrong === undefined;
  });
  const routes = spec.routes.flatMap((text, index) => {
    const route = parseCidr(text);
    const wrong = route === undefined ? undefined : routeProblem(route, facts);
    if (wrong !== undefined) problem(wrong[0], `spec.routes[${index}]`, wrong[1]);
    return route === undefined || wrong !== undefined ? [] : [route];
  });
  const identity = identityKey(effectiveIdentity(peer) ?? {});
  return {
    claims: {
      // Nearly always the same: no copy of it is kept.
      addresses: addresses.length === spec.addresses.length ? spec.addresses : addresses,
      peerID: spec.static?.peerID,
      identity,
      routes: routes.length === 0 ? noRoutes : routes,
    },
    problems: problems.length === 0 ? noProblems : problems,
  };
}

const noRoutes: readonly Cidr[] = [];
const noProblems: readonly OvpnError[] = [];

const issues = ({ spec }: VpnNetwork): boolean => spec.pki?.builtIn !== undefined;

type Wrong = readonly [ErrorName, string] | undefined;

function addressProblem(address: Address, facts: NetworkFacts): Wrong {
  const pool = facts.peerPools.find(({ value }) => contains(value, address));
  if (pool === undefined) {
    const pools = facts.peerPools.map(({ value }) => value.text).join(', ');
    return ['AddressOutsidePool', `${address.text} is outside spec.pools.peers of ${facts.object} (${pools})`];
  }
  const reserved = reservedIn(pool.value, address);
  if (reserved !== undefined) {
    return [
      'AddressConflict',
      `${address.text} is the ${reserved} address of ${pool.value.text} (${pool.field} of ${facts.object})`,
    ];
  }
  const node = facts.nodeAddresses.get(address.text);
  return node === undefined
    ? undefined
    : ['AddressConflict', `${address.text} is a node's address (${node} of ${facts.object})`];
}

function routeProblem(route: Cidr, facts: NetworkFacts): Wrong {
  if (!facts.allowedRoutes.some((allowed) => contains(allowed, route))) {
    const allowed = facts.allowedRoutes.map(({ text }) => text).join(', ');
    const which = allowed === '' ? 'which is empty' : allowed;
    return ['NotAllowed', `${route.text} is not inside spec.allowedPeers.routes of ${facts.object} (${which})`];
  }
  if (route.prefix === 0) return undefined;
  const pool = facts.pools.find(({ value }) => overlaps(value, route));
  return pool === undefined
    ? undefined
    : ['RouteConflict', `${route.text} overlaps ${pool.value.text} (${pool.field} of ${facts.object})`];
}
