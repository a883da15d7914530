import { formatRef } from '../api/types.ts';
import { OvpnError } from '../errors.ts';
import type { NetlinkError } from '../kernel/netlink/error.ts';
import type { DesiredPeer } from './desired.ts';
import { kernelRefused } from './key-rotation.ts';

/** What the kernel says of an attribute that is not in its policy (lib/nlattr.c, __nla_validate_parse). */
const unknownAttribute = 'Unknown attribute type';

/**
 * A refusal of PEER_NEW or PEER_SET, told about the peer. Of their attributes only the transmit id came after the
 * driver's first version (Linux 7.1), so an unknown one is that.
 */
export function peerRefused(peer: Pick<DesiredPeer, 'ref' | 'id' | 'txId'>, error: NetlinkError): OvpnError {
  if (peer.txId === peer.id || error.code !== 'EINVAL' || error.kernelText !== unknownAttribute)
    return kernelRefused(peer.ref, error);
  return new OvpnError(
    'KernelRefused',
    `is ${peer.txId}, another id than peerID (${peer.id}), and this kernel's ovpn driver has one id for both directions`,
    { object: formatRef(peer.ref), field: 'spec.static.remotePeerID' },
    { cause: error, remedy: 'choose the same peerID at both ends, or boot Linux 7.1 or newer' },
  );
}
