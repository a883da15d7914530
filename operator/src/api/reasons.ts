import type { ErrorName, OvpnError } from '../errors.ts';
import type { ConditionReason } from './conditions.ts';

const reasons: Partial<Record<ErrorName, ConditionReason>> = {
  SecretMissing: 'SecretNotFound',
  KeyMaterialInvalid: 'KeyInvalid',
  KeySpent: 'KeySpent',
  KernelRefused: 'KernelRefused',
  NotAllowed: 'NotAllowed',
  RouteConflict: 'Conflict',
  AddressConflict: 'Conflict',
  PeerIdConflict: 'Conflict',
  CertificateInvalid: 'KeyInvalid',
  IdentityConflict: 'Conflict',
  PkiMissing: 'NotAllowed',
  AddressPending: 'Pending',
  ForwardingDisabled: 'ForwardingDisabled',
};

/** The reason of a condition that an error is behind. */
export function reasonOf({ name }: OvpnError, otherwise: ConditionReason): ConditionReason {
  return reasons[name] ?? otherwise;
}
