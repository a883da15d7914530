import { conditionReasons, type ConditionReason, findCondition } from '../../api/conditions.ts';
import { peerKind } from '../../api/peer-kind.ts';
import { type Condition, type ObjectRef, refOf, type VpnKey, type VpnNetwork, type VpnPeer } from '../../api/types.ts';
import { isMesh } from '../../api/vpn-network.ts';

/** What of the objects is not well, by what their status says: pure. */

/** One thing that is not well. */
export interface Finding {
  readonly object: ObjectRef;
  /** Of a node of a network: its name. */
  readonly node?: string;
  /** The type of the condition that says so; none where an object has no status, or a node speaks for itself. */
  readonly condition?: string;
  readonly reason: string;
  readonly message: string;
  readonly remedy: string;
  /** Since when. */
  readonly since?: string;
  /** The condition was written for an older generation of the object. */
  readonly stale?: boolean;
}

/** Conditions that are well when they do not hold. */
const inverted: ReadonlySet<string> = new Set(['Expiring', 'Contested']);

/** What follows from the others, or from nobody being connected. */
const effects: ReadonlySet<string> = new Set(['Connected', 'Programmed', 'Ready']);

/** Of a peer that dials in: nobody does now, or another condition or the network says why nobody can. */
const idle: ReadonlySet<string> = new Set<ConditionReason>([
  'WaitingForClient',
  'Disconnected',
  'Connecting',
  'Suspended',
  'Pending',
]);

const remedies: Partial<Readonly<Record<string, string>>> = {
  NoNodes: 'correct spec.nodeSelector of the VpnNetwork, or label a Node so that it fits',
  NodesNotReady: 'see what its nodes say, and their logs: `kubectl ovpn logs --node NODE`',
  PoolFull: 'give the VpnNetwork another range in spec.pools.peers, or delete VpnPeers that nobody needs',
  Pending: 'wait a moment; if it stays, look at `kubectl ovpn logs --controller`',
  Connecting: 'see that the server runs and can be reached from the node, and what its log says of us',
  NetworkNotFound: 'create the VpnNetwork, or correct spec.networkRef.name',
  KeyNotFound: 'create the VpnKey in the same namespace, or correct spec.keyRef.name',
  SecretNotFound: 'create the Secret that the VpnKey names',
  ExpiresSoon: 'renew the certificate or the CRL before that',
  Expired: 'renew the certificate or the CRL',
  NotAllowed: 'have the owner of the VpnNetwork allow it in spec.allowedPeers',
  Conflict: 'change one of the two, or delete it',
  CertManagerNotFound: 'install cert-manager, or use another way of spec.pki',
};
const anyRemedy = 'read the message; docs/troubleshooting.md goes on from symptoms';
const staleRemedy =
  'wait a moment; if it stays, the node that speaks for it is away or its agent is: `kubectl ovpn logs --node NODE`';

/** What is not well with a network, from its nodes up. */
export function networkFindings(network: VpnNetwork): Finding[] {
  const object = refOf(network);
  const { status } = network;
  const nodes = status?.nodes ?? [];
  return [
    ...conditionFindings(object, network, true),
    ...nodes.flatMap(({ name, ready, message }): Finding[] => {
      if (ready) return [];
      const said = withRemedy(message ?? 'its agent does not say why', 'NodesNotReady');
      return [{ object, node: name, reason: 'NotReady', ...said }];
    }),
    ...(isMesh(network.spec) ? nodes : []).flatMap(({ name, ready, mesh }): Finding[] => {
      if (!ready || mesh === undefined || mesh.connected >= mesh.neighbours) return [];
      const message = `is connected to ${mesh.connected} of the ${mesh.neighbours} other nodes of the mesh`;
      const remedy = 'see that the nodes reach each other at the port of a UDP listener: docs/mesh.md';
      return [{ object, node: name, reason: 'MeshIncomplete', message, remedy }];
    }),
  ];
}

/** What is not well with a peer; that nobody dials in is no fault. */
export function peerFindings(peer: VpnPeer): Finding[] {
  const object = refOf(peer);
  const ready = findCondition(peer.status?.conditions, 'Ready');
  const rests = peer.spec.suspend || (peerKind(peer) === 'dial-in' && ready !== undefined && idle.has(ready.reason));
  const found = conditionFindings(object, peer, true, ({ type }) => rests && effects.has(type));
  const { lastError } = peer.status ?? {};
  // The condition of a peer that is dialled says what goes on; why it did not work is what helps.
  if (lastError === undefined) return found;
  return found.map((finding) =>
    finding.reason === conditionReasons.Connecting && !finding.message.includes(lastError)
      ? { ...finding, ...withRemedy(`${finding.message}; last: ${lastError}`, finding.reason) }
      : finding,
  );
}

/** What is not well with a key. Of one that nobody uses nothing is said, which is well. */
export function keyFindings(key: VpnKey): Finding[] {
  // What was revoked on purpose is as it should be.
  const isDue = ({ reason }: Condition): boolean => key.spec.issued?.revoked === true && reason === 'Revoked';
  return conditionFindings(refOf(key), key, key.spec.issued !== undefined, isDue);
}

/**
 * @param mustSpeak whether somebody always has something to say of such an object
 * @param passedOver conditions that are no fault
 */
function conditionFindings(
  object: ObjectRef,
  { metadata, status }: VpnNetwork | VpnPeer | VpnKey,
  mustSpeak: boolean,
  passedOver: (condition: Condition) => boolean = () => false,
): Finding[] {
  const conditions: readonly Condition[] = status?.conditions ?? [];
  const ready = findCondition(conditions, 'Ready');
  const stale = ({ observedGeneration }: Condition): boolean =>
    observedGeneration !== undefined && metadata.generation !== undefined && observedGeneration < metadata.generation;
  const found: Finding[] = conditions
    // What Ready says is what another condition says, where that is the reason.
    .toSorted((one, other) => Number(one.type === 'Ready') - Number(other.type === 'Ready'))
    .filter((condition) => !isWell(condition) && !passedOver(condition))
    .map((condition) => ({
      object,
      condition: condition.type,
      reason: condition.reason,
      ...withRemedy(condition.message, condition.reason),
      since: condition.lastTransitionTime,
      ...(stale(condition) ? { stale: true } : {}),
    }));
  const waits = ({ condition = '', reason }: Finding): boolean =>
    effects.has(condition) && reason === conditionReasons.Pending;
  const hasCause = found.some((finding) => !waits(finding));
  const distinct = found.filter(
    (finding, index) =>
      !(hasCause && waits(finding)) &&
      !found.slice(0, index).some(({ reason, message }) => reason === finding.reason && message === finding.message),
  );
  if (ready === undefined) {
    if (!mustSpeak || distinct.length > 0) return distinct;
    const message = 'nobody has said anything of it yet';
    return [{ object, reason: 'Pending', ...withRemedy(message, 'Pending') }];
  }
  if (!stale(ready) || distinct.some((finding) => finding.stale === true)) return distinct;
  const message = `what is said of it is of generation ${ready.observedGeneration ?? 0}, and it has generation ${metadata.generation ?? 0}`;
  return [
    ...distinct,
    {
      object,
      condition: 'Ready',
      reason: 'Stale',
      message,
      remedy: staleRemedy,
      since: ready.lastTransitionTime,
      stale: true,
    },
  ];
}

function isWell({ type, status }: Condition): boolean {
  return status === (inverted.has(type) ? 'False' : 'True');
}

/** The message without the remedy at its end, as errors.ts writes it, and the remedy; of others that of the reason. */
function withRemedy(text: string, reason: string): Pick<Finding, 'message' | 'remedy'> {
  const [, message, remedy, code] = /^([^]*?); to mend it: ([^]*) (\[OVPN\d+\])$/.exec(text) ?? [];
  if (message !== undefined && remedy !== undefined) return { message: `${message} ${code ?? ''}`.trimEnd(), remedy };
  return { message: text, remedy: remedies[reason] ?? anyRemedy };
}
