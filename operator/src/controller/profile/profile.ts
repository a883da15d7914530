import { OvpnError, type Where } from '../../errors.ts';
import type { dataCiphers } from '../../api/data-ciphers.ts';

/**
 * The file of a client: all that stock OpenVPN needs to dial in, certificates and keys inside of it. 2.6 and 2.7 take
 * it without a warning, so it has no option that either calls old (`persist-key`, which 2.7 ignores because it always
 * does that).
 */

/** Where a client finds the network. */
export interface Remote {
  /** An IP address or a host name. */
  readonly address: string;
  readonly port: number;
  readonly protocol: 'UDP' | 'TCP';
}

/** How the control packets are wrapped, with the key as its file holds it. */
export type ProfileWrap =
  | { readonly kind: 'None' }
  | { readonly kind: 'TLSCrypt' | 'TLSCryptV2'; readonly key: string }
  | {
      readonly kind: 'TLSAuth';
      readonly key: string;
      /** Of the client, so the other one than the network's. */
      readonly direction?: 'Normal' | 'Inverse' | undefined;
      readonly digest?: string | undefined;
    };

export interface ProfileSettings {
  /** Tried in this order, round and round. */
  readonly remotes: readonly [Remote, ...Remote[]];
  /** The CA of the server's certificate; while it changes, the old one and the new one. PEM. */
  readonly ca: string;
  /** The client's certificate and key in PEM. Without them the user has to put in what was issued elsewhere. */
  readonly identity?: { readonly certificate: string; readonly key: string } | undefined;
  /** The common name that the server's certificate must have; without it any server of the CA will do. */
  readonly serverName?: string | undefined;
  readonly wrap: ProfileWrap;
  /** In the order in which the client prefers them. */
  readonly dataCiphers: readonly (typeof dataCiphers)[number][];
  readonly minTLSVersion: '1.2' | '1.3';
  /** What the error messages name as the place of the material. */
  readonly where?: Where;
}

/** A client gives up on a remote after so many seconds without an answer when there is another one to try. */
const connectSeconds = 10;

/**
 * The text of a `.ovpn` file. It is secret when it holds a key.
 *
 * Of certificates and keys only the PEM blocks are taken over: text between them could close the block of the file and
 * become options, which can run programs on the client.
 *
 * @throws OvpnError CertificateInvalid, KeyMaterialInvalid for material without such blocks; InvalidField for a name or
 *   an address that a configuration cannot hold. No message shows the material.
 */
export function renderProfile(settings: ProfileSettings): string {
  const { remotes, ca, identity, serverName, wrap, dataCiphers: ciphers, minTLSVersion, where = {} } = settings;
  const lines = [
    'client',
    'dev tun',
    ...remotes.map((remote) => remoteLine(remote, where)),
    ...(remotes.length > 1 ? [`connect-timeout ${connectSeconds}`] : []),
    'nobind',
    'persist-tun',
    // OpenVPN passes over it with a remote of TCP, where the end of the connection says the same.
    ...(remotes.some(({ protocol }) => protocol === 'UDP') ? ['explicit-exit-notify 1'] : []),
    'remote-cert-tls server',
    ...(serverName === undefined ? [] : [`verify-x509-name ${quote(serverName, 'name of the server', where)} name`]),
    `tls-version-min ${minTLSVersion}`,
    `data-ciphers ${ciphers.join(':')}`,
    // Says nothing that is not agreed on anyway; without it OpenVPN remarks that it has no cipher of old times.
    ...ciphers.slice(0, 1).map((cipher) => `cipher ${cipher}`),
    ...wrapOptions(wrap),
    'verb 3',
    ...block('ca', certificates(ca, where)),
    ...(identity === undefined
      ? ['# Put in your own certificate and private key, in blocks like the one above: <cert> and <key>.']
      : [
          ...block('cert', certificates(identity.certificate, where)),
          ...block(
            'key',
            pemBlocks(identity.key, /^((EC|RSA) )?PRIVATE KEY$/, 'private key', 'CertificateInvalid', where),
          ),
        ]),
    ...wrapBlock(wrap, where),
  ];
  return `${lines.join('\n')}\n`;
}

function remoteLine({ address, port, protocol }: Remote, where: Where): string {
  if (!/^[A-Za-z0-9.:-]+$/.test(address)) {
    throw new OvpnError('InvalidField', `${JSON.stringify(address)} is no address that a client can be given`, where);
  }
  return `remote ${address} ${port} ${protocol === 'UDP' ? 'udp' : 'tcp'}`;
}

/** A word of a configuration file, in double quotes: in there only the backslash and the quote are special. */
function quote(text: string, what: string, where: Where): string {
  if (text === '' || /\p{Cc}/u.test(text)) {
    throw new OvpnError('InvalidField', `the ${what} is empty or has control characters`, where);
  }
  return `"${text.replaceAll(/["\\]/g, '\\$&')}"`;
}

function wrapOptions(wrap: ProfileWrap): string[] {
  if (wrap.kind !== 'TLSAuth') return [];
  const { direction, digest } = wrap;
  return [
    ...(direction === undefined ? [] : [`key-direction ${direction === 'Normal' ? 0 : 1}`]),
    ...(digest === undefined ? [] : [`auth ${digest}`]),
  ];
}

function wrapBlock(wrap: ProfileWrap, where: Where): string[] {
  const take = (label: RegExp) =>
    pemBlocks(wrap.kind === 'None' ? '' : wrap.key, label, wrap.kind, 'KeyMaterialInvalid', where);
  switch (wrap.kind) {
    case 'None':
      return [];
    case 'TLSAuth':
      return block('tls-auth', take(/^OpenVPN Static key V1$/));
    case 'TLSCrypt':
      return block('tls-crypt', take(/^OpenVPN Static key V1$/));
    case 'TLSCryptV2':
      return block('tls-crypt-v2', take(/^OpenVPN tls-crypt-v2 client key$/));
  }
}

function block(name: string, content: readonly string[]): string[] {
  return [`<${name}>`, ...content, `</${name}>`];
}

function certificates(text: string, where: Where): string[] {
  return pemBlocks(text, /^CERTIFICATE$/, 'certificate', 'CertificateInvalid', where);
}

/** The lines of the blocks with a label; base64 or hexadecimal digits, and nothing else, stand inside of one. */
function pemBlocks(
  text: string,
  label: RegExp,
  what: string,
  error: 'CertificateInvalid' | 'KeyMaterialInvalid',
  where: Where,
): string[] {
  const blocks = [
    ...text.matchAll(/^-----BEGIN ([A-Za-z0-9 -]+)-----\r?\n([A-Za-z0-9+/=\s]+?)\r?\n-----END \1-----/gm),
  ];
  const lines = blocks
    .filter(([, name = '']) => label.test(name))
    .flatMap(([, name = '', body = '']) => [
      `-----BEGIN ${name}-----`,
      ...body.split(/\s+/).filter((line) => line !== ''),
      `-----END ${name}-----`,
    ]);
  if (lines.length === 0) throw new OvpnError(error, `has no ${what} in PEM for a client's profile`, where);
  return lines;
}
