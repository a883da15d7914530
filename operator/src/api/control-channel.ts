import Type from 'typebox';
import { closed, integer, objectName, oneOf, secretKey, withRules, type Rule } from './schema-kit.ts';

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

const networkFields = {
  ...fields,
  maxKeyAgeDays: Type.Optional(
    integer(
      'For TLSCryptV2: the days after which a client key is refused, counted from the time of issue that OpenVPN writes into it. A key without that time is refused, too.',
      1,
      36500,
    ),
  ),
};

interface Fields {
  wrap: string;
  secretRef?: unknown;
  keyDirection?: unknown;
  digest?: unknown;
}

const rules: readonly Rule<Fields>[] = [
  {
    cel: "self.wrap == 'None' || has(self.secretRef)",
    message: 'secretRef is needed to wrap control packets: name the Secret that holds the key',
    offenders: (self) => (self.wrap === 'None' || self.secretRef !== undefined ? [] : ['.secretRef']),
  },
  {
    cel: "self.wrap != 'None' || !has(self.secretRef)",
    message: 'secretRef must be left out when wrap is None; or say in wrap how the key is used',
    offenders: (self) => (self.wrap !== 'None' || self.secretRef === undefined ? [] : ['.secretRef']),
  },
  {
    cel: "self.wrap == 'TLSAuth' || !(has(self.keyDirection) || has(self.digest))",
    message: 'keyDirection and digest must be left out when wrap is not TLSAuth',
    offenders: (self) =>
      self.wrap === 'TLSAuth'
        ? []
        : (['keyDirection', 'digest'] as const).filter((name) => self[name] !== undefined).map((name) => `.${name}`),
  },
];

const keyAgeNeedsClientKeys: Rule<Fields & { maxKeyAgeDays?: unknown }> = {
  cel: "self.wrap == 'TLSCryptV2' || !has(self.maxKeyAgeDays)",
  message: 'maxKeyAgeDays must be left out when wrap is not TLSCryptV2: other keys say nothing of their age',
  offenders: (self) => (self.wrap === 'TLSCryptV2' || self.maxKeyAgeDays === undefined ? [] : ['.maxKeyAgeDays']),
};

/** The control channel of a network's listeners: by default nothing is wrapped. */
export const networkControlChannel = withRules(
  closed(networkFields, {
    description:
      'How the control packets of peers that dial in are wrapped; the Secret is in the namespace ovpn-system.',
    default: {},
  }),
  [...rules, keyAgeNeedsClientKeys],
);

/** The control channel of a peer that is dialled. */
export const peerControlChannel = withRules(
  closed(fields, {
    description:
      "How control packets are wrapped, as the remote has it; without it they are not. The Secret is in the peer's namespace.",
  }),
  rules,
);
