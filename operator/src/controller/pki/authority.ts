import { createPrivateKey, X509Certificate } from 'node:crypto';
import type { ConditionReason } from '../../api/conditions.ts';
import { issuedServerSecret, secretEntries } from '../../api/issued.ts';
import type { Secret, VpnNetwork } from '../../api/types.ts';
import { keyOf, type Index, type Tracked } from '../../cluster/informer.ts';
import { describe } from '../../errors.ts';
import { pemBlocks } from '../../openvpn/tls/pem.ts';
import { parseServerKey } from '../../openvpn/wrap/key-file.ts';
import type { View } from '../caches.ts';
import { planCa } from './ca-plan.ts';
import { isMadeHere, isPair, signingKeyProblem, type KeyPair } from './certificates.ts';
import { damageOf, type NetworkCa, readCas } from './network-ca.ts';
import { caNamespace, ownerAnnotation, textOf } from './secret-store.ts';

/**
 * Who signs for a network: the CA that the controller made for it, or one that a person put into a Secret. What is
 * damaged or lost is refused and never replaced, because no client would know the next CA.
 */

export const dayMs = 86_400_000;

export type Issuing = VpnNetwork & { spec: { pki: { builtIn: NonNullable<Builtin> } } };
type Builtin = NonNullable<VpnNetwork['spec']['pki']>['builtIn'];

/** Who is trusted, and who signs what. */
export interface Authority {
  /** The one that is newest last. */
  readonly trusted: readonly { readonly cert: string; readonly notAfter: number }[];
  /** Undefined before the first CA is made. */
  readonly signsClients: KeyPair | undefined;
  readonly signsServer: KeyPair | undefined;
  /** A further CA is to be made. */
  readonly create: boolean;
  /** When something changes by time alone. */
  readonly nextAt: number;
}

/** The CA of a network cannot be used: a state to show, not a failure to try again. */
export class CaUnusable extends Error {
  readonly reason: ConditionReason;

  constructor(reason: ConditionReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** What the controller made for one network and keeps where agents cannot read. */
export interface OwnSecret {
  readonly cas: readonly NetworkCa[];
  readonly wrapKey: string | undefined;
  /** The Secret to replace; undefined when there is none. */
  readonly present: Tracked<Secret> | undefined;
}

export function isIssuing(network: VpnNetwork): network is Issuing {
  return network.spec.pki?.builtIn !== undefined;
}

/** The lifetimes that a network wants. Milliseconds. */
export function lifetimesOf({ spec }: VpnNetwork): { readonly caMs: number; readonly certificateMs: number } {
  const { caDays = 3650, certificateDays = 365 } = spec.pki?.builtIn ?? {};
  return { caMs: caDays * dayMs, certificateMs: certificateDays * dayMs };
}

/** Whether a Secret was written for this very network, and not for an earlier one of its name. */
export function isOf(secret: Tracked<Secret> | undefined, uid: string): boolean {
  return secret?.meta.annotations[ownerAnnotation] === uid;
}

/**
 * What the Secret of a network's own CA holds; nothing when it is that of an earlier network of the name.
 *
 * @throws CaUnusable when it is damaged, somebody else's, or lacks a CA that agents trust by the server's Secret
 */
export function readOwn({ caches, namespace }: Cluster, network: string, uid: string, now: number): OwnSecret {
  const where = `Secret ${caNamespace(namespace)}/${network}`;
  const server = `${namespace}/${issuedServerSecret(network)}`;
  const remedy = `restore it from a backup; or, for a new CA, of which all clients need a new profile, delete it and then Secret ${server}`;
  const present = caches.caSecrets.get(keyOf({ namespace: caNamespace(namespace), name: network }));
  const annotation = present?.meta.annotations[ownerAnnotation];
  if (present !== undefined && annotation === undefined) {
    const remedies = [
      'if it is a CA of yours for pki.builtIn.caSecretRef, name it otherwise than the network',
      `if it is the network's own, annotate it with ${ownerAnnotation}=${uid}`,
      'else delete it',
    ];
    throw new CaUnusable('Conflict', `${where} is somebody else's; ${remedies.join('; ')}`);
  }
  const mine = annotation === uid;
  const text = mine ? textOf(present?.value?.data) : {};
  const wrapKey = text[secretEntries.serverWrapKey];
  const damage = mine && present?.value === undefined ? 'cannot be read' : (damageOf(text) ?? wrapKeyDamage(wrapKey));
  if (damage !== undefined) throw new CaUnusable('KeyInvalid', `${where} is damaged: it ${damage}; ${remedy}`);
  const cas = readCas(text);
  const lost = inForce(caches, namespace, network, uid, now).some(
    (cert) => !cas.some((ca) => sameCertificate(ca.cert, cert)),
  );
  if (lost) {
    const what = mine ? `${where} no longer has a CA that is in force` : `${where} with the CA is gone`;
    throw new CaUnusable('SecretNotFound', `${what}; ${remedy}`);
  }
  return { cas, wrapKey, present };
}

interface Cluster {
  readonly caches: View;
  /** The operator's own namespace. */
  readonly namespace: string;
}

/**
 * Who signs for a network now.
 *
 * @throws CaUnusable
 */
export function authorityOf(cluster: Cluster, network: Issuing, uid: string, now: number): Authority {
  const { caSecretRef } = network.spec.pki.builtIn;
  if (caSecretRef !== undefined) return givenAuthority(cluster, caSecretRef.name, now);
  return planCa(readOwn(cluster, network.metadata.name, uid, now).cas, now, lifetimesOf(network));
}

/** A person's CA: `tls.crt` and `tls.key` sign, `ca.crt` has the way up to the root, and former CAs still trusted. */
function givenAuthority({ caches, namespace }: Cluster, name: string, now: number): Authority {
  const where = { namespace: caNamespace(namespace), name };
  const of = `Secret ${keyOf(where)}`;
  const secret = caches.caSecrets.get(keyOf(where));
  if (secret === undefined) {
    throw new CaUnusable('SecretNotFound', `there is no ${of}; put the CA there as tls.crt and tls.key`);
  }
  const { certificate, privateKey, ca } = secretEntries;
  const { [certificate]: chain = '', [privateKey]: key = '', [ca]: further = '' } = textOf(secret.value?.data);
  const refuse = (what: string): never => {
    throw new CaUnusable('KeyInvalid', `${of}: ${what}`);
  };
  const [cert, ...others] = blocksOf(chain);
  if (cert === undefined) return refuse('tls.crt is no certificate in PEM');
  const all = new Map<string, X509Certificate>();
  for (const pem of [...blocksOf(further), ...others, cert]) {
    try {
      const parsed = new X509Certificate(pem);
      // What signs comes last, also when ca.crt has it, too.
      all.delete(parsed.fingerprint256);
      all.set(parsed.fingerprint256, parsed);
    } catch (error) {
      return refuse(`a certificate of tls.crt or ca.crt cannot be read: ${describe(error)}`);
    }
  }
  const certificates = [...all.values()];
  const signing = certificates.at(-1);
  if (signing === undefined || !signing.ca) return refuse('tls.crt is not the certificate of a CA');
  if (certificates.some((one) => !one.ca)) return refuse('ca.crt has a certificate that is none of a CA');
  if (!isPair(cert, key)) return refuse('tls.key is not the private key of tls.crt, in PEM and without a passphrase');
  const problem = signingKeyProblem(createPrivateKey(key));
  if (problem !== undefined) return refuse(`tls.key ${problem}`);
  if (signing.validToDate.getTime() <= now) return refuse(`its CA expired at ${signing.validToDate.toISOString()}`);
  if (!reachesRoot(signing, certificates)) {
    return refuse('its CA is not self-signed, and ca.crt lacks the way up to the root; clients could not check it');
  }
  const trusted = certificates
    .map((one) => ({ cert: `${one.toString().trimEnd()}\n`, notAfter: one.validToDate.getTime() }))
    .filter(({ notAfter }) => notAfter > now);
  const pair = { cert, key };
  return {
    trusted,
    signsClients: pair,
    signsServer: pair,
    create: false,
    nextAt: Math.min(...trusted.map(({ notAfter }) => notAfter)),
  };
}

function reachesRoot(from: X509Certificate, among: readonly X509Certificate[]): boolean {
  let at: X509Certificate = from;
  for (let step = 0; step < among.length; step += 1) {
    if (at.checkIssued(at)) return true;
    const above = among.find((one) => one !== at && at.checkIssued(one) && at.verify(one.publicKey));
    if (above === undefined) return false;
    at = above;
  }
  return false;
}

/** The CAs of our own making that agents trust by the server's Secret. */
function inForce(caches: View, namespace: string, network: string, uid: string, now: number): string[] {
  const server = caches.secrets.get(keyOf({ namespace, name: issuedServerSecret(network) }));
  if (!isOf(server, uid)) return [];
  return blocksOf(textOf(server?.value?.data)[secretEntries.ca] ?? '').filter((cert) => isMadeHere(network, cert, now));
}

function wrapKeyDamage(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  try {
    parseServerKey(text, {});
    return undefined;
  } catch {
    return `has no key for tls-crypt-v2 in ${secretEntries.serverWrapKey}`;
  }
}

/** The certificates of a text in PEM, one each. */
function blocksOf(text: string): string[] {
  return pemBlocks(text, 'CERTIFICATE').map((block) => block.text);
}

function sameCertificate(one: string, other: string): boolean {
  return one.replaceAll(/\s/g, '') === other.replaceAll(/\s/g, '');
}

/** Tells of each change of a Secret that a network signs with, or that was made for it. */
export function onSecretOfNetwork({ caches }: Cluster, tell: (network: string) => void): void {
  const byCa: Index<VpnNetwork> = caches.networks.index(({ value }) => {
    const name = value?.spec.pki?.builtIn?.caSecretRef?.name;
    return name === undefined ? [] : [name];
  });
  for (const cache of [caches.secrets, caches.caSecrets]) {
    cache.onChange((now, before) => {
      const { name, annotations } = (now ?? before)?.meta ?? {};
      // Also one that never was ours, or no longer is: it stands where ours should be.
      const network = name?.replace(/\.pki$/, '');
      const concerned = cache === caches.caSecrets || annotations?.[ownerAnnotation] !== undefined || network !== name;
      if (network !== undefined && concerned && caches.networks.get(network) !== undefined) tell(network);
    });
  }
  caches.caSecrets.onChange((now, before) => {
    for (const { key } of byCa.get((now ?? before)?.meta.name ?? '')) tell(key);
  });
}
