import type { NetworkListener, VpnNetwork, VpnPeer, VpnPeerSpec } from './types.ts';

/** A peer with a static key, one that calls us, or one that we call. */
export type PeerKind = 'static' | 'dial-in' | 'dial-out';

type With<K extends keyof VpnPeerSpec> = Omit<VpnPeer, 'spec'> & {
  readonly spec: VpnPeerSpec & Required<Pick<VpnPeerSpec, K>>;
};

/** A peer without a control channel: both ends hold one key. */
export type StaticPeer = With<'endpoint' | 'keyRef' | 'static'>;
/** A client of OpenVPN that dials in. */
export type DialInPeer = With<'identity'>;
/** A server of OpenVPN that is dialled. */
export type DialOutPeer = With<'endpoint' | 'keyRef'>;

/** The kind of a peer that has passed the checks. */
export function peerKind({ spec }: VpnPeer): PeerKind {
  if (spec.static !== undefined) return 'static';
  return spec.identity !== undefined ? 'dial-in' : 'dial-out';
}

export function isStaticPeer(peer: VpnPeer): peer is StaticPeer {
  return peerKind(peer) === 'static' && peer.spec.endpoint !== undefined && peer.spec.keyRef !== undefined;
}

export function isDialInPeer(peer: VpnPeer): peer is DialInPeer {
  return peerKind(peer) === 'dial-in';
}

export function isDialOutPeer(peer: VpnPeer): peer is DialOutPeer {
  return peerKind(peer) === 'dial-out' && peer.spec.endpoint !== undefined && peer.spec.keyRef !== undefined;
}

/** The listener that a peer with a static key sends from: the one it names, else the first; of UDP in any case. */
export function listenerOf(network: VpnNetwork, { spec }: StaticPeer): NetworkListener | undefined {
  return network.spec.listeners.find(
    ({ name, protocol }) => protocol === 'UDP' && name === (spec.endpoint.listener ?? name),
  );
}
