import type { Request } from '../kernel/netlink/socket.ts';
import type { NewPeer } from '../kernel/ovpn/codec.ts';
import type { OvpnRequests } from '../kernel/ovpn/family.ts';

/**
 * What makes a peer in the kernel: its keepalive comes by a request of its own. Given with PEER_NEW, the driver
 * queues its worker before the peer is in the tables (drivers/net/ovpn/netlink.c, ovpn_nl_peer_new_doit); a worker
 * that runs first finds no peer and does not come again, and then nothing is pinged and nothing expires.
 */
export function newPeer(requests: OvpnRequests, ifindex: number, peer: NewPeer): Request[] {
  const { keepalive, ...rest } = peer;
  const made = requests.peerNew(ifindex, rest);
  return keepalive === undefined || keepalive.interval === 0
    ? [made]
    : [made, requests.peerSet(ifindex, { id: peer.id, keepalive })];
}
