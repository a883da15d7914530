import Type from 'typebox';
import { timestamp } from './condition.ts';
import { address, cidr, closed, label, objectName, oneOf, setOf, withRules } from './schema-kit.ts';

const maxUid = 64;

const holder = closed(
  {
    kind: oneOf(['VpnPeer', 'Node'], { description: 'What sort of object it is.' }),
    namespace: Type.Optional(label('The namespace of a VpnPeer.')),
    name: objectName('The name of the object.'),
    uid: Type.String({
      description: 'The uid of the object: one that was deleted and made anew is another holder.',
      minLength: 1,
      maxLength: maxUid,
    }),
  },
  { description: 'Who holds it. Immutable.' },
);

const fields = closed(
  {
    networkRef: closed(
      {
        name: label('The name of the VpnNetwork.'),
        uid: Type.String({ description: 'Its uid.', minLength: 1, maxLength: maxUid }),
      },
      { description: 'The VpnNetwork that it is claimed of. Immutable.' },
    ),
    holder,
    addresses: setOf(address('A VPN address.'), {
      description: 'The VPN addresses that a number stands for, out of spec.pools.peers: at most one per IP family.',
      default: [],
      maxItems: 2,
    }),
    podBlocks: setOf(cidr('A range of pod addresses.'), {
      description: 'The blocks of pod addresses, out of spec.pools.pods: at most one per IP family.',
      default: [],
      maxItems: 2,
    }),
  },
  { description: 'What is held, and by whom.' },
);

/** The spec of a VpnAllocation. Its name says what is claimed: NETWORK.NUMBER, or NETWORK.pods.INDEX for a block. */
export const vpnAllocationSpec = withRules(fields, [
  {
    cel: 'self == oldSelf',
    message: 'is immutable; an allocation is deleted and made anew',
    transition: true,
    offenders: (self, old) => (JSON.stringify(self) === JSON.stringify(old) ? [] : ['']),
  },
]);

/** The status of a VpnAllocation. */
export const vpnAllocationStatus = Type.Object(
  {
    releasedAt: Type.Optional(
      timestamp(
        'When the holder gave it up. Nobody else gets it for a while, so that nobody mistakes one for the other.',
      ),
    ),
  },
  { description: 'Whether it is still held.' },
);
