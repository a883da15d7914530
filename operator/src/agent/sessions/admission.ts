import { formatRef, type ObjectRef } from '../../api/types.ts';
import type { AltName, PeerIdentity } from '../../openvpn/tls/peer-identity.ts';
import type { DesiredDialIn } from './desired-session.ts';

/**
 * Which VpnPeer a verified certificate stands for. A fingerprint is the narrowest statement, then a subject
 * alternative name, then the common name. No question costs more for the number of peers.
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
    const keys = [
      fingerprintKey(identity.fingerprint),
      ...identity.subjectAltNames.flatMap((name) => altNameKey(name) ?? []),
      ...(identity.commonName === '' ? [] : [`CN ${identity.commonName}`]),
    ];
    for (const key of keys) {
      const name = this.#byIdentity.get(key);
      const peer = name === undefined ? undefined : this.#peers.get(name);
      if (peer !== undefined) return peer;
    }
    return undefined;
  }
}

function keyOf({ identity }: DesiredDialIn): string {
  if (identity.fingerprint !== undefined) return fingerprintKey(identity.fingerprint);
  if (identity.subjectAltName !== undefined) {
    const [type = '', ...rest] = identity.subjectAltName.split(':');
    return nameKey(type, rest.join(':'));
  }
  return `CN ${identity.commonName ?? ''}`;
}

function fingerprintKey(fingerprint: string): string {
  return `FP ${fingerprint.replaceAll(':', '').toUpperCase()}`;
}

const altNameTypes = { dns: 'DNS', ip: 'IP', email: 'email', uri: 'URI', other: undefined } as const;

function altNameKey({ type, value }: AltName): string | undefined {
  const prefix = altNameTypes[type];
  return prefix === undefined ? undefined : nameKey(prefix, value);
}

/** Host names know no case (RFC 5280, section 4.2.1.6, by way of RFC 4343). */
function nameKey(type: string, value: string): string {
  return `${type} ${type === 'DNS' || type === 'IP' ? value.toLowerCase() : value}`;
}
