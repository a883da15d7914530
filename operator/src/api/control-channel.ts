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
  wrap: Type.Optional(
    oneOf(['None', 'TLSAuth', 'TLSCrypt', 'TLSCryptV2'], {
      description:
        'How control packets are wrapped; the same on both ends. Without it TLSCryptV2 where pki.builtIn is given, which makes the keys, and else None.',
    }),
  ),
  maxKeyAgeDays: Type.Optional(
    integer(
      'For TLSCryptV2: the days after which a client key is refused, counted from the time of issue that OpenVPN writes into it. A key without that time is refused, too.',
      1,
      36500,
    ),
  ),
};

interface Fields {
  wrap?: string;
  secretRef?: unknown;
  keyDirection?: unknown;
  digest?: unknown;
}

const onlyTlsAuth = 'keyDirection and digest must be left out when wrap is not TLSAuth';

function tlsAuthOffenders(self: Fields): string[] {
  return self.wrap === 'TLSAuth'
    ? []
    : (['keyDirection', 'digest'] as const).filter((name) => self[name] !== undefined).map((name) => `.${name}`);
}

const secretNeeded = 'secretRef is needed to wrap control packets: name the Secret that holds the key';

/** Of a peer that is dialled: there is always a `wrap`. */
const rules: readonly Rule<Fields>[] = [
  {
    cel: "self.wrap == 'None' || has(self.secretRef)",
    message: secretNeeded,
    offenders: (self) => (self.wrap === 'None' || self.secretRef !== undefined ? [] : ['.secretRef']),
  },
  {
    cel: "self.wrap != 'None' || !has(self.secretRef)",
    message: 'secretRef must be left out when wrap is None; or say in wrap how the key is used',
    offenders: (self) => (self.wrap !== 'None' || self.secretRef === undefined ? [] : ['.secretRef']),
  },
  {
    cel: "self.wrap == 'TLSAuth' || !(has(self.keyDirection) || has(self.digest))",
    message: onlyTlsAuth,
    offenders: tlsAuthOffenders,
  },
];

/** Of a network, where `wrap` may be left out. */
const networkRules: readonly Rule<Fields & { maxKeyAgeDays?: unknown }>[] = [
  {
    // For TLSCryptV2 the network's own rule asks.
    cel: "!has(self.wrap) || self.wrap in ['None', 'TLSCryptV2'] || has(self.secretRef)",
    message: secretNeeded,
    offenders: (self) =>
      self.wrap === undefined || ['None', 'TLSCryptV2'].includes(self.wrap) || self.secretRef !== undefined
        ? []
        : ['.secretRef'],
  },
  {
    cel: "(has(self.wrap) && self.wrap != 'None') || !has(self.secretRef)",
    message: 'secretRef must be left out when wrap is None or left out; or say in wrap how the key is used',
    offenders: (self) =>
      (self.wrap !== undefined && self.wrap !== 'None') || self.secretRef === undefined ? [] : ['.secretRef'],
  },
  {
    cel: "(has(self.wrap) && self.wrap == 'TLSAuth') || !(has(self.keyDirection) || has(self.digest))",
    message: onlyTlsAuth,
    offenders: tlsAuthOffenders,
  },
  {
    cel: "!has(self.wrap) || self.wrap == 'TLSCryptV2' || !has(self.maxKeyAgeDays)",
    message: 'maxKeyAgeDays must be left out when wrap is not TLSCryptV2: other keys say nothing of their age',
    offenders: (self) =>
      self.wrap === undefined || self.wrap === 'TLSCryptV2' || self.maxKeyAgeDays === undefined
        ? []
        : ['.maxKeyAgeDays'],
  },
];

/** The control channel of a network's listeners. */
export const networkControlChannel = withRules(
  closed(networkFields, {
    description:
      'How the control packets of peers that dial in are wrapped. The Secret is in the namespace ovpn-system; for TLSCryptV2 none is needed where pki.builtIn is given.',
    default: {},
  }),
  networkRules,
);

/** The control channel of a peer that is dialled. */
export const peerControlChannel = withRules(
  closed(fields, {
    description:
      "How control packets are wrapped, as the remote has it; without it they are not. The Secret is in the peer's namespace.",
  }),
  rules,
);
