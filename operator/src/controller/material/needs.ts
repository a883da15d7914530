import type { VpnKey, VpnNetwork, VpnPeer } from '../../api/types.ts';

/** Which entries of which Secrets the agents need. Pure. */

/** Entries of one Secret that one object refers to. */
export interface Need {
  readonly namespace: string;
  readonly name: string;
  readonly entries: readonly string[];
}

/** What is read of a Secret with a certificate, as cert-manager writes it, with an optional CRL. */
const tlsEntries = ['tls.crt', 'tls.key', 'ca.crt', 'ca.crl'];

/** The Secrets of a network: in the operator's own namespace. */
export function needsOfNetwork({ spec }: VpnNetwork, namespace: string): Need[] {
  const { pki, controlChannel } = spec;
  return [
    ...(pki?.secretRef === undefined ? [] : [{ namespace, name: pki.secretRef.name, entries: tlsEntries }]),
    ...entryNeed(pki?.crlSecretRef, namespace),
    ...entryNeed(controlChannel.secretRef, namespace),
  ];
}

/** The Secret of a key: in its own namespace. */
export function needsOfKey({ metadata, spec }: VpnKey): Need[] {
  const { namespace } = metadata;
  return [
    ...(spec.static === undefined
      ? []
      : [{ namespace, name: spec.static.secretRef.name, entries: [spec.static.secretRef.key] }]),
    ...(spec.tls === undefined ? [] : [{ namespace, name: spec.tls.secretRef.name, entries: tlsEntries }]),
  ];
}

/** The Secret that a peer itself refers to, besides its key. */
export function needsOfPeer({ metadata, spec }: VpnPeer): Need[] {
  return entryNeed(spec.controlChannel?.secretRef, metadata.namespace);
}

function entryNeed(ref: { readonly name: string; readonly key: string } | undefined, namespace: string): Need[] {
  return ref === undefined ? [] : [{ namespace, name: ref.name, entries: [ref.key] }];
}
