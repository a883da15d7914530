import Type, { type Static, type TSchema } from 'typebox';
import { commonNamePattern, fingerprintPattern } from './certificate-names.ts';
import { hostNamePattern, isHostName, numericEndPattern } from './host-name.ts';
import { isHostAddress, parseAddress, parseCidr } from './ip.ts';

/**
 * A rule that types and ranges cannot express. The CEL text goes into the CRD for the API server; the
 * function is the same rule for manifests from a folder. `rule-cases.ts` holds both to the same answers.
 */
export interface Rule<T> {
  /** The rule for the API server; absent where its cost budget forbids it, so only our parser enforces it. */
  readonly cel?: string;
  /** What is wrong and what to write instead: shown by the API server and by our parser. */
  readonly message: string;
  /**
   * Our parser's message, made from the offending value. The API server's is fixed: a messageExpression
   * that formats an address is beyond the cost budget of a list.
   */
  readonly explain?: (offender: unknown) => string;
  /** A rule about a change of the object: it is asked only with the old value in hand. */
  readonly transition?: true;
  /** Paths of the offending places relative to the value (`''` is the value itself, `.timeoutSeconds`, `[0]`). */
  readonly offenders: (self: T, old: T) => readonly string[];
}

export const rulesKey = 'x-kubernetes-validations';

/** How a string is written in normalised form, and how a list of such strings is sorted. */
export const textKey = 'x-ovpn-text';
export type TextForm = 'address' | 'cidr' | 'host' | 'fingerprint' | 'altName';

/** Keywords of ours that steer the parser and never reach a CRD. */
export const privateKeys: ReadonlySet<string> = new Set([textKey]);

/** Attaches rules to a schema that was made for it (the schema is changed in place, so that its type stays). */
export function withRules<S extends TSchema>(schema: S, rules: readonly Rule<Static<S>>[]): S {
  return Object.assign(schema, { [rulesKey]: rules });
}

/** A closed object: fields that it does not list are errors. */
export function closed<P extends Record<string, TSchema>>(
  properties: P,
  options: { description: string; default?: object },
) {
  return Type.Object(properties, { ...options, additionalProperties: false });
}

/** A string of a fixed set of values. */
export function oneOf<const V extends string[]>(
  values: readonly [...V],
  options: { description: string; default?: V[number] },
) {
  return Type.Enum<V>(values, { type: 'string', ...options });
}

/** A list in which the order says nothing and nothing stands twice. */
export function setOf<S extends TSchema>(
  items: S,
  options: { description: string; default?: readonly unknown[]; minItems?: number; maxItems: number },
) {
  return Type.Array(items, { ...options, 'x-kubernetes-list-type': 'set' });
}

/** A list in which the order counts. */
export function listOf<S extends TSchema>(
  items: S,
  options: { description: string; default?: readonly unknown[]; minItems?: number; maxItems: number },
) {
  return Type.Array(items, { ...options, 'x-kubernetes-list-type': 'atomic' });
}

/** A list of objects that are told apart by one of their fields. */
export function mapOf<S extends TSchema>(
  items: S,
  key: string,
  options: { description: string; default?: readonly unknown[]; minItems?: number; maxItems: number },
) {
  return Type.Array(items, { ...options, 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': [key] });
}

const maxAddressLength = 39;
const maxCidrLength = 43;

/** An IP address, with further rules about it. */
export function address(description: string, ...rules: Rule<string>[]) {
  return withRules(
    Type.String({ description, minLength: 2, maxLength: maxAddressLength, [textKey]: 'address' satisfies TextForm }),
    [
      {
        cel: 'isIP(self)',
        message: 'must be an IPv4 or IPv6 address, without a zone and not an IPv4 address written as IPv6',
        offenders: (self) => (parseAddress(self) === undefined ? [''] : []),
      },
      ...rules,
    ],
  );
}

/** The rule that a socket can use the address. */
export function hostAddress(message: string): Rule<string> {
  return {
    cel: '!isIP(self) || ip(self).isGlobalUnicast() || ip(self).isLoopback() || (ip(self).family() == 4 && ip(self).isLinkLocalUnicast())',
    message,
    offenders: (self) => (parseAddress(self) === undefined || isHostAddress(self) ? [] : ['']),
  };
}

/** An address range in CIDR notation whose host bits are zero. */
export function cidr(description: string) {
  return withRules(
    Type.String({ description, minLength: 4, maxLength: maxCidrLength, [textKey]: 'cidr' satisfies TextForm }),
    [
      {
        cel: 'isCIDR(self)',
        message: 'must be an address range in CIDR notation such as 10.8.0.0/24 or fd00:8::/64',
        offenders: (self) => (parseCidr(self) === undefined ? [''] : []),
      },
      {
        // The address as a range of its own must hold the first address of the range: Kubernetes 1.31 counts a plain
        // comparison of ranges as unbounded.
        cel: "!isCIDR(self) || cidr(self.split('/')[0] + (cidr(self).ip().family() == 4 ? '/32' : '/128')).containsIP(cidr(self).masked().ip())",
        message: 'has bits set behind the prefix; write the first address of the range',
        explain: (self) =>
          `has bits set behind the prefix; write the first address of the range: ${parseCidr(String(self))?.text ?? ''}`,
        offenders: (self) => (parseCidr(self)?.hasHostBits === true ? [''] : []),
      },
    ],
  );
}

/** At most one IPv4 and one IPv6 entry in a list of addresses. */
export const oneAddressPerFamily: Rule<string[]> = {
  cel: perFamily('isIP(a)', 'ip(a)'),
  message: 'must hold at most one IPv4 and one IPv6 address; remove the others',
  offenders: (self) => repeatedFamilies(self.map((text) => parseAddress(text)?.family)),
};

/** At most one IPv4 and one IPv6 entry in a list of ranges. */
export const oneCidrPerFamily: Rule<string[]> = {
  cel: perFamily('isCIDR(a)', 'cidr(a).ip()'),
  message: 'must hold at most one IPv4 and one IPv6 range; remove the others',
  offenders: (self) => repeatedFamilies(self.map((text) => parseCidr(text)?.family)),
};

function perFamily(valid: string, ip: string): string {
  return [4, 6].map((family) => `self.filter(a, ${valid} && ${ip}.family() == ${family}).size() <= 1`).join(' && ');
}

function repeatedFamilies(families: readonly (number | undefined)[]): string[] {
  return families.flatMap((family, index) =>
    family !== undefined && families.indexOf(family) < index ? [`[${index}]`] : [],
  );
}

/** DNS-1123 label: lower case letters, digits and hyphens. */
export const labelPattern = '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$';
/** DNS-1123 subdomain: labels with dots between them. */
export const subdomainPattern = '^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$';
const secretKeyPattern = '^[-._a-zA-Z0-9]+$';
const labelValuePattern = '^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$';
export const labelKeyPattern =
  /^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/;

/** What a pattern of ours asks for, in plain words. */
export function formWords(pattern: string | undefined): string {
  const words: Record<string, string> = {
    [labelPattern]: 'lower case letters, digits and hyphens, beginning and ending with a letter or digit',
    [subdomainPattern]: 'lower case letters, digits, hyphens and dots, beginning and ending with a letter or digit',
    [hostNamePattern]: 'letters, digits, hyphens and dots, as in cluster.local',
    [commonNamePattern]: 'printable characters, without a space at the beginning or end',
    [fingerprintPattern]: '64 hexadecimal digits (a SHA-256 fingerprint), with or without a colon after every two',
    [secretKeyPattern]: 'letters, digits, hyphens, dots and underscores',
    [labelValuePattern]: 'letters, digits, hyphens, dots and underscores, beginning and ending with a letter or digit',
  };
  return words[pattern ?? ''] ?? `what matches ${pattern ?? 'nothing'}`;
}

/** A name of at most 63 characters, as of a listener or a namespace. */
export function label(description: string) {
  return Type.String({ description, minLength: 1, maxLength: 63, pattern: labelPattern });
}

/** The name of an object of Kubernetes. */
export function objectName(description: string) {
  return Type.String({ description, minLength: 1, maxLength: 253, pattern: subdomainPattern });
}

/** A key inside a Secret. */
export function secretKey(description: string, fallback: string) {
  return Type.String({ description, minLength: 1, maxLength: 253, pattern: secretKeyPattern, default: fallback });
}

/** The value of a label. */
export function labelValue(description?: string) {
  return Type.String({
    ...(description === undefined ? {} : { description }),
    maxLength: 63,
    pattern: labelValuePattern,
  });
}

/** Labels that an object must carry. */
export function labels(description: string) {
  return withRules(
    Type.Record(Type.String(), labelValue(), {
      description,
      maxProperties: 32,
      default: {},
    }),
    [
      {
        // Without CEL: the API server knows no bound for the length of a map's keys, so any rule about them is too dear.
        message: 'must have label names as keys, such as "kubernetes.io/hostname" or "zone"',
        offenders: (self) =>
          Object.keys(self)
            .filter((key) => key.length > 317 || !labelKeyPattern.test(key))
            .map((key) => `[${JSON.stringify(key)}]`),
      },
    ],
  );
}

/** An IP address or a DNS name, with further rules about it. */
export function host(description: string, ...rules: Rule<string>[]) {
  return withRules(Type.String({ description, minLength: 1, maxLength: 253, [textKey]: 'host' satisfies TextForm }), [
    {
      cel: `isIP(self) || (self.matches('${hostNamePattern}') && !self.matches('${numericEndPattern}'))`,
      message:
        'must be an IPv4 or IPv6 address, without a zone and not an IPv4 address written as IPv6, or a host name',
      offenders: (self) => (parseAddress(self) !== undefined || isHostName(self) ? [] : ['']),
    },
    ...rules,
  ]);
}

/** A DNS domain. */
export function domain(description: string) {
  return Type.String({
    description,
    minLength: 1,
    maxLength: 253,
    pattern: hostNamePattern,
    [textKey]: 'host' satisfies TextForm,
  });
}

/** Nothing stands twice in a list in which the order counts. */
export const noRepetition: Rule<string[]> = {
  cel: 'self.all(a, self.exists_one(b, a == b))',
  message: 'must not hold anything twice; remove the repetition',
  offenders: (self) => self.flatMap((text, index) => (self.indexOf(text) < index ? [`[${index}]`] : [])),
};

/** Of some optional fields one is there, and no other. */
export function exactlyOneOf<K extends string>(...fields: [K, ...K[]]): Rule<Partial<Record<K, unknown>>> {
  return {
    cel: `[${fields.map((field) => `has(self.${field})`).join(', ')}].exists_one(given, given)`,
    message: `must have exactly one of ${fields.slice(0, -1).join(', ')} and ${fields.at(-1) ?? ''}`,
    offenders: (self) => (fields.filter((field) => self[field] !== undefined).length === 1 ? [] : ['']),
  };
}

/** An integer with inclusive bounds. */
export function integer(description: string, minimum: number, maximum: number, fallback?: number) {
  return Type.Integer({ description, minimum, maximum, ...(fallback === undefined ? {} : { default: fallback }) });
}
