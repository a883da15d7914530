import { Acceptance } from './acceptance.ts';
import { Allocation } from './allocation/allocation.ts';
import { ExpiryWarnings } from './expiry/expiry.ts';
import { MaterialCopies } from './material/material-copies.ts';
import { CertManager } from './pki/cert-manager.ts';
import { IssuedKeys } from './pki/issued-keys.ts';
import { NetworkPki } from './pki/network-pki.ts';
import { NodeStatus } from './node-status.ts';
import type { ReconcilerFactory } from './reconciler.ts';
import { NetworkSummary } from './summary.ts';

/** All that the controller does, in no particular order: each keeps to its own objects and fields. */
export const reconcilers: readonly ReconcilerFactory[] = [
  (context) => new Acceptance(context),
  (context) => new Allocation(context),
  (context) => new MaterialCopies(context),
  (context) => new NetworkPki(context),
  (context) => new CertManager(context),
  (context) => new IssuedKeys(context),
  (context) => new NetworkSummary(context),
  (context) => new NodeStatus(context),
  (context) => new ExpiryWarnings(context),
];
