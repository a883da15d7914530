import { certificateKeys, identityKey } from '../../api/certificate-names.ts';
import { compareAge } from '../../api/claims.ts';
import { formatRef, type ObjectRef } from '../../api/types.ts';
import type { PeerIdentity } from '../../openvpn/tls/peer-identity.ts';
import type { DesiredDialIn } from './desired-session.ts';

/**
 * Which VpnPeer a verified certificate stands for. One certificate can meet the identities of several, by its name,
 * its alternative names and its fingerprint, all of which are public; then the oldest VpnPeer has it, as in every
 * conflict (api/rules.ts), so that nobody takes a client over by describing it anew. No question costs more for the
 * number of peers.
 */
export class Admission {
  readonly #peers = new Map<string, DesiredDialIn>();
  readonly #byIdentity = new Map<string, string>();

  get size(): number {
    return this.#peers.size;
  }

  get(ref: ObjectRef): DesiredDialIn | undefined {
    return this.#peers.get(formatRef(ref));
  }

  /** By the text of its reference. */
  named(name: string): DesiredDialIn | undefined {
    return this.#peers.get(name);
  }

  set(peer: DesiredDialIn): void {
    this.delete(peer.ref);
    this.#peers.set(formatRef(peer.ref), peer);
    this.#byIdentity.set(keyOf(peer), formatRef(peer.ref));
  }

  delete(ref: ObjectRef): void {
    const name = formatRef(ref);
    const present = this.#peers.get(name);
    if (present === undefined) return;
    this.#peers.delete(name);
    // Another peer may have taken the identity over meanwhile.
    if (this.#byIdentity.get(keyOf(present)) === name) this.#byIdentity.delete(keyOf(present));
  }

  /** The peer that a certificate stands for. */
  find(identity: PeerIdentity): DesiredDialIn | undefined {
    return this.all(identity)[0];
  }

  /** All peers whose identities a certificate meets: first the one that it stands for. */
  all(identity: PeerIdentity): DesiredDialIn[] {
    const peers = certificateKeys(identity).flatMap((key) => {
      const name = this.#byIdentity.get(key);
      return (name === undefined ? undefined : this.#peers.get(name)) ?? [];
    });
    return peers.sort((one, other) => compareAge(one.claimant, other.claimant));
  }
}

function keyOf({ identity }: DesiredDialIn): string {
  return identityKey(identity) ?? '';
}
