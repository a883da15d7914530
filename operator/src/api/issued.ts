import type { ObjectRef, VpnKey, VpnNetwork, VpnNetworkSpec, VpnPeer } from './types.ts';
import type { IdentityFields } from './certificate-names.ts';

/**
 * The names that follow from a VpnKey `issued` and from a network that issues certificates itself. They are computed
 * from names that the API server keeps unique, and never chosen: nobody can be issued the name of another.
 */

/** An X.509 common name has at most so many characters (RFC 5280, ub-common-name). */
export const maxCommonName = 64;

/** The common name in the certificates of a VpnKey `issued`: `<name>.<namespace>`. A namespace has no dots. */
export function issuedCommonName({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${name}.${namespace}`;
}

/**
 * The common name of the certificate by which the nodes of a network know each other. All of them have the same, as
 * all have the server's; the colon keeps it from being that of a VpnKey.
 */
export function meshCommonName(network: string): string {
  return `node:${network}`;
}

/** The Secret, in the operator's namespace, that holds what agents need of a network that issues certificates itself. */
export function issuedServerSecret(network: string): string {
  // A dot: the names of networks have none, so no other Secret of ours can have this name.
  return `${network}.pki`;
}

/** The Certificate, and the Secret of it, in the operator's namespace, of a network whose certificate cert-manager makes. */
export function certManagerSecret(network: string): string {
  return `${network}.tls`;
}

/** The Secret with the server's certificate: the one that is named, or the one that is made. */
export function serverSecretOf({ metadata, spec: { pki } }: VpnNetwork): string | undefined {
  if (pki === undefined) return undefined;
  if (pki.secretRef !== undefined) return pki.secretRef.name;
  return pki.issuerRef === undefined ? issuedServerSecret(metadata.name) : certManagerSecret(metadata.name);
}

/** Entries of Secrets, by the names that cert-manager and we give them. */
export const secretEntries = {
  certificate: 'tls.crt',
  privateKey: 'tls.key',
  ca: 'ca.crt',
  meshCertificate: 'mesh.crt',
  meshKey: 'mesh.key',
  serverWrapKey: 'tls-crypt-v2-server.key',
  clientWrapKey: 'tls-crypt-v2.key',
  profile: 'client.ovpn',
} as const;

/** How a network wraps control packets: as it says, or by itself where it issues the keys for that. */
export function networkWrap({ pki, controlChannel }: VpnNetworkSpec): 'None' | 'TLSAuth' | 'TLSCrypt' | 'TLSCryptV2' {
  return controlChannel.wrap ?? (pki?.builtIn === undefined ? 'None' : 'TLSCryptV2');
}

/** Whether the key for wrapping is made by the controller. */
export function hasIssuedWrapKey(spec: VpnNetworkSpec): boolean {
  return (
    spec.pki?.builtIn !== undefined && networkWrap(spec) === 'TLSCryptV2' && spec.controlChannel.secretRef === undefined
  );
}

/** The certificates that an identity stands for, with the name of a VpnKey replaced by what it issues. */
export function effectiveIdentity({ metadata, spec }: VpnPeer): IdentityFields | undefined {
  const { identity } = spec;
  if (identity?.key === undefined) return identity;
  return { commonName: issuedCommonName({ namespace: metadata.namespace, name: identity.key }) };
}

/** The VpnKey that a peer's identity names. */
export function identityKeyRef({ metadata, spec }: VpnPeer): (ObjectRef & { namespace: string }) | undefined {
  const name = spec.identity?.key;
  return name === undefined ? undefined : { kind: 'VpnKey', namespace: metadata.namespace, name };
}

/** The certificates of a VpnKey that are good for a network: none when it is revoked, or of another sort or network. */
export function validCertificates(key: VpnKey | undefined, network: string): readonly string[] {
  const issued = key?.spec.issued;
  if (issued === undefined || issued.revoked || issued.networkRef.name !== network) return [];
  return (key?.status?.certificates ?? []).map(({ fingerprint }) => fingerprint);
}
