import Type from 'typebox';
import { closed, objectName, oneOf, secretKey } from './schema-kit.ts';

/** How control packets are wrapped, as OpenVPN's options tls-auth, tls-crypt and tls-crypt-v2 do it. */
const fields = {
  wrap: oneOf(['None', 'TLSAuth', 'TLSCrypt', 'TLSCryptV2'], {
    description: 'How control packets are wrapped; the same on both ends.',
    default: 'None',
  }),
  secretRef: Type.Optional(
    closed(
      {
        name: objectName('The name of the Secret.'),
        key: secretKey('The key inside the Secret.', 'wrap.key'),
      },
      { description: 'The Secret that holds the key in the format of OpenVPN. Needed unless wrap is None.' },
    ),
  ),
  keyDirection: Type.Optional(
    oneOf(['Normal', 'Inverse'], {
      description:
        'For TLSAuth: which half of the key signs. The two ends take opposite ones; without it both share one.',
    }),
  ),
  digest: Type.Optional(
    oneOf(['SHA1', 'SHA256', 'SHA512'], {
      description: 'For TLSAuth: the digest, which OpenVPN calls auth; without it SHA1.',
    }),
  ),
};

/** The control channel of a network's listeners: without one nothing is wrapped. */
export const networkControlChannel = closed(fields, {
  description: 'How the control packets of dial-in peers are wrapped.',
  default: {},
});

/** The control channel of a peer that is dialled. */
export const peerControlChannel = closed(fields, {
  description: 'How control packets are wrapped, as the remote has it; without it they are not.',
});
