import { findCondition } from '../../api/conditions.ts';
import { peerKind, type PeerKind } from '../../api/peer-kind.ts';
import { age, bytes } from '../units.ts';
import type { Seen } from './read.ts';
import { isUp } from './view.ts';

/** One peer as `kubectl ovpn peers` shows it. */
export interface PeerState {
  readonly namespace: string;
  readonly name: string;
  readonly network?: string;
  readonly kind?: PeerKind;
  /** `Connected`, for one with a static key `Ready`; else the reason why it is not. */
  readonly state: string;
  /** The Node that has it. */
  readonly node?: string;
  readonly addresses: readonly string[];
  readonly endpoint?: string;
  readonly connectedSince?: string;
  readonly lastHandshake?: string;
  readonly cipher?: string;
  readonly tlsVersion?: string;
  readonly peerID?: number;
  readonly routes: readonly string[];
  readonly rxBytes?: number;
  readonly txBytes?: number;
  /** Why it is not connected, or the last thing that went wrong. */
  readonly message?: string;
}

/** What is shown of one peer; of one that is not understood its name. Pure. */
export function peerState({ ref, resource, problem }: Seen<'VpnPeer'>): PeerState {
  const named = { namespace: ref.namespace ?? '', name: ref.name };
  if (resource === undefined) {
    return { ...named, state: 'NotUnderstood', addresses: [], routes: [], message: problem ?? '' };
  }
  const { spec, status = {} } = resource;
  const { endpoint, lastHandshake, cipher, tlsVersion, peerID, traffic, lastError } = status;
  const ready = findCondition(status.conditions, 'Ready');
  const up = isUp(resource);
  const node = status.holder?.node ?? status.node;
  const message =
    ready?.status === 'True' ? lastError : ready?.message === '' ? lastError : (ready?.message ?? lastError);
  return given({
    ...named,
    network: spec.networkRef.name,
    kind: peerKind(resource),
    state:
      ready === undefined
        ? 'Pending'
        : ready.status !== 'True'
          ? ready.reason
          : spec.static === undefined
            ? 'Connected'
            : 'Ready',
    node,
    addresses: status.addresses ?? status.allocation?.addresses ?? spec.addresses,
    endpoint,
    connectedSince: up ? status.since : undefined,
    lastHandshake,
    cipher,
    tlsVersion,
    peerID,
    routes: spec.routes,
    rxBytes: traffic?.rxBytes,
    txBytes: traffic?.txBytes,
    message,
  });
}

type Given<T> = { readonly [K in keyof T]: Exclude<T[K], undefined> };

/** Without the fields that are undefined. */
function given<T extends object>(fields: T): Given<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Given<T>;
}

/** The columns of the table. */
export function peerHeader(namespaced: boolean, wide: boolean): string[] {
  return [
    ...(namespaced ? ['NAMESPACE'] : []),
    ...['NAME', 'NETWORK', 'KIND', 'STATE', 'NODE', 'ADDRESSES', 'ENDPOINT', 'SINCE', 'RX', 'TX'],
    ...(wide ? ['HANDSHAKE', 'CIPHER', 'TLS', 'ID', 'ROUTES', 'MESSAGE'] : []),
  ];
}

/**
 * A line of the table.
 *
 * @param now milliseconds since 1970
 */
export function peerRow(peer: PeerState, namespaced: boolean, wide: boolean, now: number): string[] {
  const ago = (time: string | undefined): string => (time === undefined ? '-' : age(now - Date.parse(time)));
  const volume = (count: number | undefined): string => (count === undefined ? '-' : bytes(count));
  return [
    ...(namespaced ? [peer.namespace] : []),
    ...[
      peer.name,
      peer.network ?? '-',
      peer.kind ?? '-',
      peer.state,
      peer.node ?? '-',
      peer.addresses.join(',') || '-',
    ],
    ...[peer.endpoint ?? '-', ago(peer.connectedSince), volume(peer.rxBytes), volume(peer.txBytes)],
    ...(wide
      ? [
          ...[ago(peer.lastHandshake), peer.cipher ?? '-', peer.tlsVersion ?? '-', String(peer.peerID ?? '-')],
          ...[peer.routes.join(',') || '-', peer.message === undefined || peer.message === '' ? '-' : peer.message],
        ]
      : []),
  ];
}
