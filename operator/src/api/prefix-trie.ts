import { ClaimList, compareAge, type Claimant } from './claims.ts';
import type { Cidr } from './ip.ts';

/** A claim to a range. */
export interface PrefixClaim {
  readonly claimant: Claimant;
  readonly text: string;
}

class Node {
  text = '';
  readonly own = new ClaimList();
  readonly children: [Node | undefined, Node | undefined] = [undefined, undefined];
  /** The oldest and the youngest claim of this node and all below it. */
  oldest: PrefixClaim | undefined;
  youngest: Claimant | undefined;

  get empty(): boolean {
    return this.oldest === undefined;
  }

  update(): void {
    const { oldest, youngest } = this.own;
    this.oldest = oldest === undefined ? undefined : { claimant: oldest, text: this.text };
    this.youngest = youngest;
    for (const child of this.children) {
      this.oldest = older(this.oldest, child?.oldest);
      const other = child?.youngest;
      if (other !== undefined && (this.youngest === undefined || compareAge(this.youngest, other) < 0)) {
        this.youngest = other;
      }
    }
  }
}

/**
 * Claims to ranges of one IP family in a binary trie, one level per bit. Each node knows the oldest and
 * youngest claim below it, so that a question costs the length of the prefix however many peers there
 * are, and even for a range that holds all others.
 */
export class PrefixTrie {
  readonly #root = new Node();

  add(cidr: Cidr, claimant: Claimant): void {
    const path = [this.#root];
    let node = this.#root;
    for (let depth = 0; depth < cidr.prefix; depth++) {
      const side = bitAt(cidr, depth);
      node = node.children[side] ??= new Node();
      path.push(node);
    }
    node.text = cidr.text;
    node.own.add(claimant);
    for (const visited of path.reverse()) visited.update();
  }

  remove(cidr: Cidr, claimant: Claimant): void {
    const path = this.#path(cidr);
    if (path.length <= cidr.prefix) return;
    path.at(-1)?.own.remove(claimant);
    for (const [depth, visited] of [...path.entries()].reverse()) {
      visited.update();
      const parent = path[depth - 1];
      if (visited.empty && parent !== undefined) parent.children[bitAt(cidr, depth - 1)] = undefined;
    }
  }

  /** The oldest claim to a range that holds this one or lies in it. */
  oldestOverlap(cidr: Cidr): PrefixClaim | undefined {
    let oldest: PrefixClaim | undefined;
    for (const [depth, node] of this.#path(cidr).entries()) {
      const { oldest: own } = node.own;
      if (depth === cidr.prefix) oldest = older(oldest, node.oldest);
      else if (own !== undefined) oldest = older(oldest, { claimant: own, text: node.text });
    }
    return oldest;
  }

  /** Everyone younger than the claimant with a claim that overlaps; subtrees without one are not entered. */
  youngerOverlaps(cidr: Cidr, claimant: Claimant): Claimant[] {
    const path = this.#path(cidr);
    const found = path.slice(0, cidr.prefix).flatMap((node) => node.own.youngerThan(claimant));
    const below = [path[cidr.prefix]];
    for (let node = below.pop(); node !== undefined; node = below.pop()) {
      if (node.youngest === undefined || compareAge(node.youngest, claimant) <= 0) continue;
      found.push(...node.own.youngerThan(claimant));
      below.push(...node.children.filter((child) => child !== undefined));
    }
    return found;
  }

  /** The nodes from the root towards a range, as far as there are any. */
  #path(cidr: Cidr): Node[] {
    const path = [this.#root];
    let node: Node | undefined = this.#root;
    for (let depth = 0; depth < cidr.prefix; depth++) {
      node = node.children[bitAt(cidr, depth)];
      if (node === undefined) break;
      path.push(node);
    }
    return path;
  }
}

function older(one: PrefixClaim | undefined, other: PrefixClaim | undefined): PrefixClaim | undefined {
  if (one === undefined || other === undefined) return one ?? other;
  return compareAge(one.claimant, other.claimant) <= 0 ? one : other;
}

function bitAt(cidr: Cidr, index: number): 0 | 1 {
  return (((cidr.bytes[index >> 3] ?? 0) >> (7 - (index & 7))) & 1) === 1 ? 1 : 0;
}
