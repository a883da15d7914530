import { isDeepStrictEqual } from 'node:util';
import {
  encodeMessage,
  formatAuthFailed,
  maxMessageBytes,
  MessageFramer,
  parseControlMessage,
} from '../../../operator/src/openvpn/negotiate/control-message.ts';
import {
  decodeKeyMethod,
  encodeKeyMethod,
  keyMaterialBytes,
  maxKeyMethodBytes,
  type Role,
} from '../../../operator/src/openvpn/negotiate/key-method.ts';
import { pushWord, splitWords } from '../../../operator/src/openvpn/negotiate/option-words.ts';
import { formatOptionsString } from '../../../operator/src/openvpn/negotiate/options-string.ts';
import { formatPeerInfo, parsePeerInfo } from '../../../operator/src/openvpn/negotiate/peer-info.ts';
import { formatPush, pushedSession, PushReader } from '../../../operator/src/openvpn/negotiate/push.ts';
import { negotiate, pushedProtocol } from '../../../operator/src/openvpn/negotiate/requirements.ts';
import { errors, parsed, require, type Target } from '../target.ts';

const { ProtocolFault, OvpnError } = errors;
const ciphers = ['AES-256-GCM', 'AES-128-GCM', 'CHACHA20-POLY1305'] as const;

const peerInfoOfOpenvpn = [
  'IV_VER=2.6.14',
  'IV_PLAT=linux',
  'IV_TCPNL=1',
  'IV_MTU=1600',
  'IV_NCP=2',
  'IV_CIPHERS=AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305',
  'IV_PROTO=990',
  'IV_LZO_STUB=1',
  'IV_COMP_STUB=1',
  'IV_COMP_STUBv2=1',
  'UV_NAME=x',
  '',
].join('\n');
const peerInfoWords = [
  'IV_PROTO=',
  'IV_CIPHERS=',
  'IV_MTU=',
  'IV_NCP=',
  '999999999',
  '__proto__=',
  '\n',
  '\r\n',
  ':',
  '=\u00e2\u0080\u00a8',
];

/** Byte 0: whose message it is. */
export const keyMethod: Target = {
  name: 'key-method',
  input: 'whose message it is, then a key method 2 message and what follows it',
  maxBytes: 3 * maxKeyMethodBytes,
  words: ['\0\0\0\0\x02', '\0\0', '\0\x01\0', '\xff\xff', '\x1f\xff', ...peerInfoWords],
  run: (input) => {
    const sender: Role = ((input[0] ?? 0) & 1) === 0 ? 'client' : 'server';
    const bytes = input.subarray(1);
    const decoded = parsed(() => decodeKeyMethod(sender, bytes), ProtocolFault);
    if (decoded === undefined) {
      return;
    }
    const { message, length } = decoded;
    require(length <= bytes.length && length <= maxKeyMethodBytes, `reads ${length} bytes`);
    parsePeerInfo(message.peerInfo);
    // Bytes that are no UTF-8 become longer and may not fit any more; and a lone NUL is the same as nothing.
    const again = parsed(() => encodeKeyMethod(sender, message, Buffer.alloc(keyMaterialBytes(sender))), RangeError);
    const reread = again === undefined ? undefined : parsed(() => decodeKeyMethod(sender, again), ProtocolFault);
    require(reread === undefined || isDeepStrictEqual(reread.message, message), 'reads differently after encoding');
  },
  seeds: () => {
    const options = formatOptionsString({ role: 'client', transport: 'udp', family: 4, tunMtu: 1500 });
    const message = { options, username: 'user', password: 'secret', peerInfo: peerInfoOfOpenvpn };
    const material = Buffer.alloc(112, 0x55);
    const whole = encodeKeyMethod('client', message, material);
    return {
      client: Buffer.concat([Buffer.of(0), whole]),
      'client-without-names': Buffer.concat([
        Buffer.of(0),
        encodeKeyMethod('client', { ...message, username: '', password: '' }, material),
      ]),
      'client-then-message': Buffer.concat([Buffer.of(0), whole, Buffer.from('PUSH_REQUEST\0')]),
      'longest-of-all': Buffer.concat([
        Buffer.of(0),
        encodeKeyMethod('client', { ...message, peerInfo: 'x'.repeat(7900) }, material),
      ]),
      'longer-than-that': Buffer.concat([
        Buffer.of(0),
        encodeKeyMethod('client', { ...message, peerInfo: 'x'.repeat(9000) }, material),
      ]),
      'server-options-only': Buffer.concat([
        Buffer.of(1, 0, 0, 0, 0, 2),
        Buffer.alloc(64, 1),
        Buffer.from('\0\x03V4\0'),
      ]),
    };
  },
};

export const peerInfo: Target = {
  name: 'peer-info',
  input: 'the text of peer-info',
  maxBytes: maxKeyMethodBytes,
  words: peerInfoWords,
  run: (input) => {
    const info = parsePeerInfo(input.toString('utf8'));
    require(info.values.size <= 64 && info.ciphers.length <= 32, 'holds more than its limits');
    for (const value of info.values.values()) {
      require(!/[\p{Cc}\p{Zl}\p{Zp}]/u.test(value) && value.length <= 259, 'has a value that is not printable');
    }
    const choice = negotiate(ciphers, info);
    if ('refusal' in choice) {
      require(formatAuthFailed({ reason: choice.refusal }).length < maxMessageBytes, 'a refusal is too long');
    } else {
      pushedProtocol(info, true);
    }
  },
  hold: (inputs) => inputs.slice(0, 200).map((input) => parsePeerInfo(input.toString('utf8'))),
  maxHeldBytes: 200 * 64 * 1024,
  seeds: () => ({
    openvpn: Buffer.from(peerInfoOfOpenvpn),
    'openvpn-2.4': Buffer.from('IV_VER=2.4.0\nIV_NCP=2\nIV_PROTO=2\n'),
    own: Buffer.from(formatPeerInfo({ version: '0.1', ciphers, dynamicTlsCrypt: true, maxTunMtu: 1600 })),
  }),
};

const messageWords = [
  ...['PUSH_REQUEST', 'PUSH_REPLY,', 'AUTH_FAILED', 'AUTH_PENDING,timeout ', 'RESTART,[N]', 'HALT,', 'EXIT', 'INFO,'],
  ...['INFO_PRE,', 'TEMP[backoff 10,advance addr]:', 'SESSION:', '[', ']', ',', '\0', 'CRV1:', ' '],
];

/** Byte 0 says how the rest is cut into records. */
export const controlMessages: Target = {
  name: 'control-message',
  input: 'size of records, then the plaintext of TLS: messages that end in NUL',
  maxBytes: 20_000,
  words: messageWords,
  run: (input) => {
    const framer = new MessageFramer();
    feedMessages(framer, input);
  },
  hold: (inputs) =>
    inputs.slice(0, 10).map((input) => {
      const framer = new MessageFramer();
      feedMessages(framer, input);
      return framer;
    }),
  // A short rest may be a view of one of Node's pools of 64 KiB.
  maxHeldBytes: 10 * (maxMessageBytes + 2 * 65_536),
  seeds: () => {
    const messages = [
      ...['PUSH_REQUEST', 'AUTH_FAILED', 'AUTH_FAILED,TEMP[backoff 42,advance no]:busy', 'AUTH_FAILED,SESSION:gone'],
      ...['AUTH_PENDING,timeout 30', 'RESTART,[N]moved', 'HALT,go', 'EXIT', 'INFO,x', 'OTHER,y', 'PUSH_REPLY,ping 1'],
    ];
    return {
      'one-record': Buffer.concat([Buffer.of(0), ...messages.map(encodeMessage)]),
      'without-end': Buffer.concat([Buffer.of(100), Buffer.alloc(2 * maxMessageBytes, 'x')]),
      'by-nine': Buffer.concat([Buffer.of(9), ...messages.map(encodeMessage)]),
      long: Buffer.concat([Buffer.of(200), Buffer.alloc(maxMessageBytes, 'x'), Buffer.of(0), Buffer.from('EXIT\0')]),
    };
  },
};

function feedMessages(framer: MessageFramer, input: Buffer): void {
  const stream = input.subarray(1);
  const recordBytes = (input[0] ?? 0) === 0 ? stream.length : (input[0] ?? 1);
  const texts: string[] = [];
  for (let at = 0; at < stream.length; at += recordBytes) {
    const record = stream.subarray(at, at + recordBytes);
    const messages = parsed(() => framer.push(record), ProtocolFault);
    if (messages === undefined) {
      return;
    }
    texts.push(...messages);
    const kept = stream.subarray(0, at + recordBytes);
    require(kept.length - (kept.lastIndexOf(0) + 1) <= maxMessageBytes, 'keeps more of a message than one may have');
  }
  for (const text of texts) {
    require(Buffer.byteLength(text) <= 3 * maxMessageBytes &&
      !text.includes('\0'), 'a message is longer than its limit');
    const message = parseControlMessage(text);
    const shown = JSON.stringify({ ...message, options: '' });
    require(shown.length < 2000, 'a message is shown at any length');
  }
  const again = Buffer.concat(texts.map(encodeMessage));
  require(isDeepStrictEqual(
    parsed(() => new MessageFramer().push(again), ProtocolFault) ?? texts,
    texts,
  ), 'framing differs');
}

const push26 =
  'route-gateway 10.8.0.1,topology subnet,ping 10,ping-restart 60,ifconfig 10.8.0.2 255.255.255.0,peer-id 0,' +
  'cipher AES-256-GCM,protocol-flags cc-exit tls-ekm dyn-tls-crypt,tun-mtu 1500';
const pushFull =
  'route 192.168.7.0 255.255.255.0 vpn_gateway 5,route-ipv6 2001:db8::/32 default 7,redirect-gateway def1,' +
  'dhcp-option DNS 10.0.0.1,dns server 0 address 10.96.0.10 [fd00::1]:53,dns server -3 resolve-domains a.example,' +
  'dns search-domains a.example b.example,ifconfig-ipv6 fd00::2/64 fd00::1,auth-token "a\\"b c",auth-token-user dXNlcg==,' +
  "key-derivation tls-ekm,comp-lzo no,compress stub-v2,fragment 1400,setenv 'a b',explicit-exit-notify";

/** Parts of a push as the framer would give them, divided by NUL. */
export const push: Target = {
  name: 'push',
  input: 'the texts of PUSH_REPLY messages, divided by NUL',
  maxBytes: 100_000,
  // One input is many messages, each of which has at most 4096 bytes.
  maxMilliseconds: 250,
  words: [
    ...push26.split(','),
    ...pushFull.split(','),
    ...['\0', ',', 'push-continuation 2', ',push-continuation 1', '"', "'", '\\', ' ', '/', '::', '255.255.255.255'],
  ],
  run: (input) => {
    readPushes(new PushReader(), input);
  },
  hold: (inputs) =>
    inputs.slice(0, 10).map((input) => {
      const reader = new PushReader();
      readPushes(reader, input);
      return reader;
    }),
  maxHeldBytes: 10 * 8 * PushReader.maxBytes,
  seeds: () => ({
    'openvpn-2.6': Buffer.from(push26),
    full: Buffer.from(pushFull.replace('comp-lzo no,compress stub-v2,fragment 1400,', '')),
    impossible: Buffer.from(pushFull),
    parts: Buffer.from(`${push26.replaceAll(',', ',push-continuation 2\0')},push-continuation 1`),
  }),
};

function readPushes(reader: PushReader, input: Buffer): void {
  const texts = input.toString('utf8').split('\0', 200);
  // The framer lets through none that is empty or longer.
  for (const text of texts.filter((one) => one !== '')) {
    const received = parsed(() => reader.add(text.slice(0, maxMessageBytes)), ProtocolFault);
    if (received === undefined) {
      continue;
    }
    const { options, ignored } = received;
    require(ignored.every((line) => line.length <= 70), 'an ignored option is shown at any length');
    parsed(() => pushedSession(options, ciphers), ProtocolFault);
    const lines = parsed(() => formatPush(options), OvpnError);
    if (lines === undefined) {
      continue;
    }
    const again = new PushReader();
    const replies = lines.map((line) => parsed(() => again.add(line.slice('PUSH_REPLY,'.length)), ProtocolFault));
    // A user that is no UTF-8 becomes another one.
    const [reread, expected] = [replies.at(-1)?.options ?? {}, options].map((one) => ({ ...one, authTokenUser: '' }));
    require(reread !== undefined && expected !== undefined, 'both are there');
    require(sameOptions(reread, expected), 'a push reads differently after formatting');
  }
}

/** Without what has two forms: an empty list and none at all. */
function sameOptions(one: object, other: object): boolean {
  const meaning = (options: object): [string, unknown][] =>
    Object.entries(options)
      .filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0))
      .toSorted(([a], [b]) => a.localeCompare(b));
  return isDeepStrictEqual(meaning(one), meaning(other));
}

export const optionWords: Target = {
  name: 'option-words',
  input: 'one option',
  maxBytes: 20_000,
  words: ['"', "'", '\\', ' ', '\\"', "''", '\t', '\n'],
  run: (input) => {
    const words = splitWords(input.toString('utf8'));
    require(words.join('').length <= input.length, 'made more of it than there was');
    // Each once: a refusal is dear, and twenty thousand quotes are ten thousand empty words.
    for (const word of new Set(words)) {
      const pushed = parsed(() => pushWord(word, 'x'), OvpnError);
      require(pushed === undefined || isDeepStrictEqual(splitWords(pushed), [word]), 'a pushed word reads differently');
    }
  },
  seeds: () => ({
    words: Buffer.from(`dns server 0 'a b' "c \\" d" e\\ f`),
    plain: Buffer.from('ifconfig 10.0.0.1 10.0.0.2'),
  }),
};
