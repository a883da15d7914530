import { isDeepStrictEqual } from 'node:util';
import { certManagerSecret } from '../../api/issued.ts';
import type { ConditionReason } from '../../api/conditions.ts';
import type { VpnNetwork } from '../../api/types.ts';
import { asRecord } from '../../cluster/json.ts';
import { materialLabel, sourceAnnotation } from '../../cluster/material-secret.ts';
import { type Owner, ownerAnnotation } from './secret-store.ts';

/** What is asked of cert-manager, and what it answers (cert-manager.io/v1, Certificate). Pure. */

type Issuer = NonNullable<NonNullable<VpnNetwork['spec']['pki']>['issuerRef']>;

/** The spec of the Certificate for a network's server. Its Secret says itself that it is material for the agents. */
export function certificateSpec(namespace: string, { name, uid }: Owner, issuer: Issuer): Record<string, unknown> {
  const secretName = certManagerSecret(name);
  return {
    secretName,
    secretTemplate: {
      labels: { [materialLabel]: 'true' },
      annotations: { [sourceAnnotation]: `${namespace}/${secretName}`, [ownerAnnotation]: uid },
    },
    // Clients check it by this name (`verify-x509-name`).
    commonName: name,
    usages: ['digital signature', 'server auth'],
    privateKey: { algorithm: 'ECDSA', size: 256, rotationPolicy: 'Always' },
    issuerRef: { name: issuer.name, kind: issuer.kind, group: issuer.group },
  };
}

/** The Certificate, new or with what is there of it: fields that others have set stay. */
export function certificateObject(
  namespace: string,
  owner: Owner,
  issuer: Issuer,
  found?: unknown,
): Record<string, unknown> {
  const present = asRecord(found) ?? {};
  const metadata = asRecord(present['metadata']) ?? {};
  return {
    ...present,
    apiVersion: 'cert-manager.io/v1',
    kind: 'Certificate',
    metadata: {
      ...metadata,
      namespace,
      name: certManagerSecret(owner.name),
      labels: { ...asRecord(metadata['labels']), 'app.kubernetes.io/managed-by': 'ovpn-operator' },
      annotations: { ...asRecord(metadata['annotations']), [ownerAnnotation]: owner.uid },
      ownerReferences: [{ ...owner, controller: true, blockOwnerDeletion: false }],
    },
    spec: { ...asRecord(present['spec']), ...certificateSpec(namespace, owner, issuer) },
  };
}

/** Whether a Certificate asks for what is wanted, for this owner. */
export function isAsWanted(found: unknown, namespace: string, owner: Owner, issuer: Issuer): boolean {
  const { metadata, spec } = asRecord(found) ?? {};
  const present = asRecord(spec) ?? {};
  const wanted = Object.entries(certificateSpec(namespace, owner, issuer));
  return (
    asRecord(asRecord(metadata)?.['annotations'])?.[ownerAnnotation] === owner.uid &&
    wanted.every(([field, value]) => isDeepStrictEqual(present[field], value))
  );
}

/** What is to be said of a certificate. */
export interface Answer {
  readonly ready: boolean;
  readonly reason: ConditionReason;
  readonly message: string;
}

/**
 * What cert-manager says of a Certificate.
 *
 * @param entries those of the Secret; undefined when it is not there
 */
export function answerOf(certificate: unknown, where: string, entries: readonly string[] | undefined): Answer {
  const { metadata, status } = asRecord(certificate) ?? {};
  const conditions = asRecord(status)?.['conditions'];
  const list = Array.isArray(conditions) ? (conditions as unknown[]).map(asRecord) : [];
  const ready = list.find((condition) => condition?.['type'] === 'Ready');
  const generation = asRecord(metadata)?.['generation'];
  const observed = ready?.['observedGeneration'];
  const isOld = typeof observed === 'number' && typeof generation === 'number' && observed < generation;
  if (ready === undefined || isOld) {
    const message = `cert-manager has said nothing of Certificate ${where} yet; where that lasts, see that it runs`;
    return { ready: false, reason: 'Pending', message };
  }
  if (ready['status'] !== 'True') {
    const [reason, message] = [ready['reason'], ready['message']].map((part) => (typeof part === 'string' ? part : ''));
    return {
      ready: false,
      reason: 'Pending',
      message: `cert-manager says of Certificate ${where}: ${reason}: ${message}`,
    };
  }
  if (entries === undefined) {
    return {
      ready: false,
      reason: 'SecretNotFound',
      message: `Certificate ${where} is ready, and its Secret is not there`,
    };
  }
  if (!entries.includes('ca.crt')) {
    const remedy = 'use an issuer that does, such as one of kind CA or Vault, or spec.pki.secretRef';
    const message = `the issuer gives no CA (ca.crt) with Certificate ${where}, so clients cannot be checked; ${remedy}`;
    return { ready: false, reason: 'Invalid', message };
  }
  return { ready: true, reason: 'Ready', message: `the server's certificate is that of Certificate ${where}` };
}
