import Type from 'typebox';
import { timestamp } from './condition.ts';
import { closed, label, objectName, oneOf, withRules } from './schema-kit.ts';

const holder = closed(
  {
    kind: oneOf(['VpnPeer', 'Node'], { description: 'What sort of object it is.' }),
    namespace: Type.Optional(label('The namespace of a VpnPeer.')),
    name: objectName('The name of the object.'),
  },
  { description: 'Who holds it, by name: one that was deleted and made anew holds it again. Immutable.' },
);

const fields = closed(
  {
    networkRef: closed(
      {
        name: label('The name of the VpnNetwork.'),
      },
      { description: 'The VpnNetwork that it is claimed of. Immutable.' },
    ),
    holder,
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
