import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { netmask, netmaskLength } from './address.ts';
import {
  encodeMessage,
  formatAuthFailed,
  formatHalt,
  formatRestart,
  maxMessageBytes,
  MessageFramer,
  parseControlMessage,
} from './control-message.ts';
import { tlsDataKeys } from './data-keys.ts';
import { decodeKeyMethod, encodeKeyMethod, keyMaterialBytes, maxKeyMethodBytes, type Role } from './key-method.ts';
import { splitWords } from './option-words.ts';
import { foreignFraming, formatOptionsString } from './options-string.ts';
import { formatPeerInfo, hasProtocol, parsePeerInfo, protocolBits } from './peer-info.ts';
import { printable, ProtocolFault } from './protocol-fault.ts';
import { formatPush, maxPushBytes, type PushedOptions, pushedSession, PushReader } from './push.ts';
import { chooseCipher, negotiate, pushedProtocol } from './requirements.ts';

const noNul = fc.string({ maxLength: 200 }).filter((text) => !text.includes('\0'));
const anyRole = fc.constantFrom<Role>('client', 'server');
const anyMessage = fc.record({ options: noNul, username: noNul, password: noNul, peerInfo: noNul });

describe('key method 2', () => {
  test('has the bytes of the format', () => {
    const bytes = encodeKeyMethod(
      'server',
      { options: 'V4', username: '', password: '', peerInfo: '' },
      Buffer.alloc(64, 7),
    );
    expect(bytes.toString('hex')).toBe(`0000000002${'07'.repeat(64)}0003563400${'0000'.repeat(3)}`);
  });

  test('reads back what was written, from any first part only when whole', () => {
    fc.assert(
      fc.property(anyRole, anyMessage, fc.nat(), (sender, message, cut) => {
        const bytes = encodeKeyMethod(sender, message, Buffer.alloc(keyMaterialBytes(sender), 1));
        const rest = Buffer.from('PUSH_REQUEST\0');
        expect(decodeKeyMethod(sender, Buffer.concat([bytes, rest]))).toEqual({ message, length: bytes.length });
        const part = decodeKeyMethod(sender, bytes.subarray(0, cut % bytes.length));
        expect(part === undefined || part.length === cut % bytes.length).toBe(true);
      }),
    );
  });

  test('the strings after the options may be missing, and a lone NUL is an empty string', () => {
    const head = Buffer.concat([Buffer.from([0, 0, 0, 0, 2]), Buffer.alloc(64)]);
    const options = Buffer.from('0003563400', 'hex');
    expect(decodeKeyMethod('server', Buffer.concat([head, options]))?.message.options).toBe('V4');
    expect(decodeKeyMethod('server', Buffer.concat([head, options, Buffer.from('000100', 'hex')]))?.message).toEqual({
      options: 'V4',
      username: '',
      password: '',
      peerInfo: '',
    });
  });

  test.each([
    ['another start', Buffer.from('GET / HTTP/1.1')],
    ['key method 1', Buffer.from([0, 0, 0, 0, 1])],
    [
      'a string without its NUL',
      Buffer.concat([Buffer.from([0, 0, 0, 0, 2]), Buffer.alloc(64), Buffer.from('\0\x02ab')]),
    ],
    ['a NUL inside', Buffer.concat([Buffer.from([0, 0, 0, 0, 2]), Buffer.alloc(64), Buffer.from('\0\x03a\0\0')])],
    ['too long', Buffer.concat([Buffer.from([0, 0, 0, 0, 2]), Buffer.alloc(64), Buffer.from([0xff, 0xff])])],
  ])('%s is refused', (_, bytes) => {
    expect(() => decodeKeyMethod('server', bytes)).toThrow(ProtocolFault);
  });

  test('any bytes give a message, a wait or a fault, and the wait is bounded', () => {
    fc.assert(
      fc.property(anyRole, fc.uint8Array({ maxLength: 300 }), fc.boolean(), (sender, junk, withHead) => {
        const head = withHead ? Buffer.concat([Buffer.from([0, 0, 0, 0, 2]), Buffer.alloc(112)]) : Buffer.alloc(0);
        try {
          decodeKeyMethod(sender, Buffer.concat([head, junk]));
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolFault);
        }
      }),
    );
    const endless = Buffer.alloc(maxKeyMethodBytes);
    Buffer.from([0, 0, 0, 0, 2]).copy(endless);
    endless.writeUInt16BE(0x1f00, 69);
    endless[69 + 0x1f00 + 1] = 0;
    expect(() => decodeKeyMethod('server', endless)).toThrow(ProtocolFault);
  });
});

/** As a stock OpenVPN 2.6.14 client sends it. */
const stock = [
  'IV_VER=2.6.14',
  'IV_PLAT=linux',
  'IV_TCPNL=1',
  'IV_MTU=1600',
  'IV_NCP=2',
  'IV_CIPHERS=AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305',
  'IV_PROTO=990',
  'UV_NAME=a=b',
  '',
].join('\n');

describe('peer-info', () => {
  test('of a stock client', () => {
    const info = parsePeerInfo(stock);
    expect(info).toMatchObject({ protocols: 990, maxTunMtu: 1600, version: '2.6.14', platform: 'linux' });
    expect(info.ciphers).toEqual(['AES-256-GCM', 'AES-128-GCM', 'CHACHA20-POLY1305']);
    expect(info.values.get('UV_NAME')).toBe('a=b');
    expect(hasProtocol(info, protocolBits.tlsKeyExport)).toBe(true);
    expect(hasProtocol(info, protocolBits.epochData)).toBe(false);
  });

  test('IV_NCP=2 stands for two ciphers', () => {
    expect(parsePeerInfo('IV_NCP=2\n').ciphers).toEqual(['AES-256-GCM', 'AES-128-GCM']);
    expect(parsePeerInfo('').ciphers).toEqual([]);
  });

  test('our own can be read back and never announces the epoch format or push updates', () => {
    const text = formatPeerInfo({
      version: '2.6.0',
      ciphers: ['AES-256-GCM', 'CHACHA20-POLY1305'],
      dynamicTlsCrypt: true,
      maxTunMtu: 9000,
      extra: { UV_NODE: 'a\nIV_PROTO=0' },
    });
    const info = parsePeerInfo(text);
    expect(info.ciphers).toEqual(['AES-256-GCM', 'CHACHA20-POLY1305']);
    expect(info.maxTunMtu).toBe(9000);
    const bits = [1, 2, 3, 6, 7, 8, 9].reduce((sum, bit) => sum + 2 ** bit, 0);
    expect(info.protocols).toBe(bits);
  });

  test('is total and bounded', () => {
    fc.assert(
      fc.property(fc.array(fc.string(), { maxLength: 200 }), (lines) => {
        expect(parsePeerInfo(lines.join('\n')).values.size).toBeLessThanOrEqual(64);
      }),
    );
    const many = parsePeerInfo(Array.from({ length: 1000 }, (_, i) => `UV_${i}=${'x'.repeat(1000)}`).join('\n'));
    expect(many.values.size).toBe(64);
    expect(many.values.get('UV_0')?.length).toBeLessThan(300);
    expect(parsePeerInfo('UV_A=a\u001b[31mred\n').values.get('UV_A')).toBe('a?[31mred');
  });
});

test('the options string names role and transport', () => {
  expect(formatOptionsString({ role: 'client', transport: 'udp', family: 4, tunMtu: 1500 })).toBe(
    'V4,dev-type tun,tun-mtu 1500,proto UDPv4,key-method 2,tls-client',
  );
  expect(formatOptionsString({ role: 'server', transport: 'tcp', family: 6, tunMtu: 1400 })).toBe(
    'V4,dev-type tun,tun-mtu 1400,proto TCPv6_SERVER,key-method 2,tls-server',
  );
});

test.each([
  [
    'V4,dev-type tun,link-mtu 1550,tun-mtu 1500,proto UDPv4,comp-lzo,mtu-dynamic,tls-client',
    ['comp-lzo or compress', 'fragment'],
  ],
  ['V4,dev-type tun,tun-mtu 1500,proto UDPv4,cipher AES-256-GCM,tls-client', []],
  ['comp-lzo 1', ['comp-lzo or compress']],
  ['no-comp-lzo,comp', []],
  ['', []],
])('what changes the form of data packets is found in the options string %p', (options, found) => {
  expect(foreignFraming(options)).toEqual(found);
});

describe('what a client must bring', () => {
  test("the server's order decides the cipher", () => {
    expect(chooseCipher(['CHACHA20-POLY1305', 'AES-128-GCM'], ['AES-128-GCM', 'CHACHA20-POLY1305'])).toBe(
      'CHACHA20-POLY1305',
    );
    expect(negotiate(['AES-128-GCM'], parsePeerInfo(stock))).toEqual({ cipher: 'AES-128-GCM' });
  });

  test.each([
    ['IV_VER=2.3.18\nIV_PROTO=0', 'this OpenVPN 2.3.18 has no data packets with a peer id; use OpenVPN 2.6 or newer'],
    [
      'IV_VER=2.5.9\nIV_PROTO=6\nIV_NCP=2',
      'this OpenVPN 2.5.9 has no TLS key export (tls-ekm); use OpenVPN 2.6 or newer',
    ],
    [
      'IV_PROTO=990\nIV_CIPHERS=AES-256-CBC:BF-CBC',
      'no common data cipher: the server allows AES-256-GCM, the client AES-256-CBC:BF-CBC',
    ],
    ['IV_PROTO=990', 'no common data cipher: the server allows AES-256-GCM, the client none'],
  ])('%j is refused in words', (info, refusal) => {
    expect(negotiate(['AES-256-GCM'], parsePeerInfo(info))).toEqual({ refusal });
  });

  test('flags follow what it announced', () => {
    expect(pushedProtocol(parsePeerInfo(stock), true)).toEqual({
      protocolFlags: ['cc-exit', 'tls-ekm', 'dyn-tls-crypt'],
      keyDerivation: undefined,
    });
    expect(pushedProtocol(parsePeerInfo(stock), false).protocolFlags).toEqual(['cc-exit', 'tls-ekm']);
    expect(pushedProtocol(parsePeerInfo('IV_PROTO=10'), true)).toEqual({ protocolFlags: [], keyDerivation: 'tls-ekm' });
  });
});

describe('data keys', () => {
  const exported = Uint8Array.from({ length: 256 }, (_, i) => i);

  test('lie where the format has them', () => {
    const server = tlsDataKeys(exported, 'server', 'AES-128-GCM');
    expect([...server.encrypt.cipherKey]).toEqual([...exported.slice(128, 144)]);
    expect([...server.encrypt.nonceTail]).toEqual([...exported.slice(192, 200)]);
    expect([...server.decrypt.cipherKey]).toEqual([...exported.slice(0, 16)]);
    expect([...server.decrypt.nonceTail]).toEqual([...exported.slice(64, 72)]);
  });

  test.each([['AES-128-GCM'], ['AES-192-GCM'], ['AES-256-GCM'], ['CHACHA20-POLY1305']] as const)(
    '%s: what one side encrypts the other decrypts',
    (cipher) => {
      const [client, server] = [tlsDataKeys(exported, 'client', cipher), tlsDataKeys(exported, 'server', cipher)];
      expect(client.encrypt).toEqual(server.decrypt);
      expect(client.decrypt).toEqual(server.encrypt);
    },
  );

  test('come from all 256 bytes only', () => {
    expect(() => tlsDataKeys(exported.subarray(1), 'client', 'AES-256-GCM')).toThrow(RangeError);
  });
});

const read = (messages: readonly string[]): ReturnType<PushReader['add']>[] => {
  const reader = new PushReader();
  return messages.map((message) => {
    const parsed = parseControlMessage(message);
    return parsed.kind === 'push-reply' ? reader.add(parsed.options) : undefined;
  });
};

/** The reply that a stock client took. */
const pushed: PushedOptions = {
  routeGateway: '10.8.0.1',
  topology: 'subnet',
  pingSeconds: 1,
  pingRestartSeconds: 20,
  ifconfig: { address: '10.8.0.2', second: '255.255.255.0' },
  peerId: 7,
  cipher: 'AES-256-GCM',
  protocolFlags: ['cc-exit', 'tls-ekm', 'dyn-tls-crypt'],
  tunMtu: 1400,
};

const full: PushedOptions = {
  ...pushed,
  ifconfigIpv6: { address: 'fd00::2', length: 64, gateway: 'fd00::1' },
  routes: [
    { network: { address: '10.0.0.0', length: 8 }, gateway: undefined, metric: undefined },
    { network: { address: '192.0.2.7', length: 32 }, gateway: 'net_gateway', metric: 5 },
  ],
  routesIpv6: [{ network: { address: 'fd01::', length: 48 }, gateway: undefined, metric: 9 }],
  redirectGateway: ['def1', 'ipv6'],
  pingExitSeconds: 30,
  keyDerivation: 'tls-ekm',
  dhcpOptions: [{ type: 'DNS', value: '10.8.0.1' }],
  dnsServers: [{ priority: 1, addresses: ['10.8.0.1', 'fd00::1'], resolveDomains: ['example.org'] }],
  dnsSearchDomains: ['example.org', 'example.com'],
  authToken: 'SESS_ID_AT_x',
  authTokenUser: 'Jürgen, with a comma',
};

describe('the push', () => {
  test('is written as a stock client takes it', () => {
    expect(formatPush(pushed)).toEqual([
      'PUSH_REPLY,route-gateway 10.8.0.1,topology subnet,ping 1,ping-restart 20,ifconfig 10.8.0.2 255.255.255.0,' +
        'peer-id 7,cipher AES-256-GCM,protocol-flags cc-exit tls-ekm dyn-tls-crypt,tun-mtu 1400',
    ]);
  });

  test('every option is read back', () => {
    const result = read(formatPush(full)).at(-1);
    expect(result?.ignored).toEqual([]);
    expect(result?.options).toEqual(full);
  });

  test('a long one goes in parts of at most 1024 bytes, whatever its length', () => {
    fc.assert(
      fc.property(fc.nat(300), (count) => {
        const routes = Array.from({ length: count }, (_, i) => ({
          network: { address: `10.${i % 256}.0.0`, length: 16 },
          gateway: undefined,
          metric: i,
        }));
        const messages = formatPush({ ...pushed, routes });
        for (const message of messages) {
          expect(encodeMessage(message).length).toBeLessThanOrEqual(maxPushBytes);
        }
        const results = read(messages);
        expect(results.slice(0, -1).every((result) => result === undefined)).toBe(true);
        expect(results.at(-1)?.options.routes).toEqual(routes);
      }),
      { numRuns: 30 },
    );
  });

  test.each(['a,b', 'a b', '', 'a\nb', 'a"b', "a'b", 'a\\b', 'a\0b'])('%j cannot become another option', (value) => {
    expect(() => formatPush({ dhcpOptions: [{ type: 'DOMAIN', value }] })).toThrow(/cannot be pushed/);
  });

  test('an option longer than a part is refused', () => {
    expect(() => formatPush({ authToken: 'x'.repeat(1100) })).toThrow(/longer than the .* bytes of one push/);
  });

  test('quotes, comments of names and unknown options of a server are understood or passed over', () => {
    const text =
      'route "10.1.0.0" 255.255.0.0 vpn_gateway default,route 10.2.0.1,route-ipv6 fd00::/8 default,block-outside-dns,' +
      'setenv opt secret,dns server -3 transport plain,,  ';
    const result = new PushReader().add(text);
    expect(result?.options.routes).toEqual([
      { network: { address: '10.1.0.0', length: 16 }, gateway: undefined, metric: undefined },
      { network: { address: '10.2.0.1', length: 32 }, gateway: undefined, metric: undefined },
    ]);
    expect(result?.options.dnsServers).toEqual([{ priority: -3, addresses: [], resolveDomains: [] }]);
    expect(result?.ignored).toEqual(['block-outside-dns', 'setenv']);
  });

  test('the longest push of all, about one DNS server, takes no longer than another', () => {
    const reader = new PushReader();
    const part = `${'dns server 0 address a b c d e f g h i j,'.repeat(100)}push-continuation 2`;
    const parts = Math.floor(PushReader.maxBytes / part.length) - 1;
    const before = process.cpuUsage();
    for (let i = 0; i < parts; i++) {
      expect(reader.add(part)).toBeUndefined();
    }
    expect(reader.add('ping 1')?.options.dnsServers?.[0]?.addresses).toHaveLength(parts * 1000);
    // Copying the list for each line took more than a second.
    const { user, system } = process.cpuUsage(before);
    expect(user + system).toBeLessThan(500_000);
  });

  test.each([
    'ifconfig 10.0.0.1',
    'ifconfig 10.0.0.1 host',
    'ifconfig-ipv6 fd00::1/129',
    'ifconfig-ipv6 10.0.0.1/8',
    'route 10.0.0.0 255.0.255.0',
    'route 10.0.0.0 255.0.0.0 elsewhere',
    'route-ipv6 10.0.0.0/8',
    'route-gateway dhcp',
    'topology ring',
    'peer-id 16777215',
    'peer-id -1',
    'ping 1e9',
    'tun-mtu 65536',
    'comp-lzo no',
    'compress',
  ])('"%s" is refused', (option) => {
    expect(() => new PushReader().add(`ping 1,${option}`)).toThrow(ProtocolFault);
  });

  test('any text gives options or a fault, and an endless push ends', () => {
    const anyText = fc.oneof(
      fc.string({ maxLength: 200 }),
      fc
        .array(fc.tuple(fc.constantFrom('ifconfig', 'route', 'dns server', 'dns', 'ping', 'peer-id'), fc.string()))
        .map((options) => options.map((option) => option.join(' ')).join(',')),
    );
    fc.assert(
      fc.property(anyText, (text) => {
        try {
          new PushReader().add(text);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolFault);
        }
      }),
    );
    const reader = new PushReader();
    const part = `${'route 10.0.0.0 255.0.0.0,'.repeat(40)}push-continuation 2`;
    expect(() => {
      for (let i = 0; i < 10_000; i++) {
        reader.add(part);
      }
    }).toThrow(/pushed more than/);
  });

  test.each([
    [{ peerId: undefined }, 'peer-id'],
    [{ protocolFlags: ['cc-exit'] }, 'tls-ekm'],
    [{ protocolFlags: ['tls-ekm', 'aead-epoch'] }, 'aead-epoch'],
    [{ cipher: undefined }, 'no cipher'],
    [{ cipher: 'AES-256-CBC' }, 'AES-256-CBC'],
  ])('%j makes no session', (change, words) => {
    expect(() => pushedSession({ ...pushed, ...change }, ['AES-256-GCM'])).toThrow(words);
  });

  test('what a session needs of it', () => {
    expect(pushedSession(pushed, ['AES-256-GCM'])).toEqual({
      cipher: 'AES-256-GCM',
      peerId: 7,
      exitMessage: true,
      dynamicTlsCrypt: true,
    });
    expect(
      pushedSession({ ...pushed, protocolFlags: undefined, keyDerivation: 'tls-ekm' }, ['AES-256-GCM']),
    ).toMatchObject({ exitMessage: false, dynamicTlsCrypt: false });
  });
});

describe('control messages', () => {
  const failure = { session: false, temporary: false, backoffSeconds: undefined, advance: undefined };

  test.each([
    ['AUTH_FAILED', { ...failure, reason: '' }],
    ['AUTH_FAILED,no such user', { ...failure, reason: 'no such user' }],
    ['AUTH_FAILED,SESSION:token is over', { ...failure, session: true, reason: 'token is over' }],
    ['AUTH_FAILED,TEMP', { ...failure, temporary: true, reason: '' }],
    ['AUTH_FAILED,TEMP:later', { ...failure, temporary: true, reason: 'later' }],
    [
      'AUTH_FAILED,TEMP[backoff 42,advance no]:later',
      { ...failure, temporary: true, backoffSeconds: 42, advance: 'no', reason: 'later' },
    ],
    ['AUTH_FAILED,TEMPERATURE', { ...failure, reason: 'TEMPERATURE' }],
    ['AUTH_FAILED,CRV1:R:id:user:question', { ...failure, reason: 'CRV1:R:id:user:question' }],
  ])('%s', (text, expected) => {
    expect(parseControlMessage(text)).toEqual({ kind: 'auth-failed', failure: expected });
  });

  test.each([
    ['PUSH_REQUEST', { kind: 'push-request' }],
    ['PUSH_REPLY', { kind: 'push-reply', options: '' }],
    ['PUSH_REPLY,ping 1,topology subnet', { kind: 'push-reply', options: 'ping 1,topology subnet' }],
    ['AUTH_PENDING', { kind: 'auth-pending', timeoutSeconds: undefined }],
    ['AUTH_PENDING,timeout 30', { kind: 'auth-pending', timeoutSeconds: 30 }],
    ['RESTART', { kind: 'restart', reason: '', nextRemote: false }],
    ['RESTART,going away', { kind: 'restart', reason: 'going away', nextRemote: false }],
    ['RESTART,[N]other server', { kind: 'restart', reason: 'other server', nextRemote: true }],
    ['HALT,no more', { kind: 'halt', reason: 'no more' }],
    ['EXIT', { kind: 'exit' }],
    ['INFO,hello\u001b', { kind: 'info', text: 'hello?' }],
    ['PUSH_UPDATE,route 1', { kind: 'other', name: 'PUSH_UPDATE' }],
    ['', { kind: 'other', name: '' }],
  ])('%j', (text, expected) => {
    expect(parseControlMessage(text)).toEqual(expected);
  });

  test('what is written is read back', () => {
    expect(parseControlMessage(formatRestart('bye', { nextRemote: true }))).toMatchObject({
      reason: 'bye',
      nextRemote: true,
    });
    expect(formatRestart()).toBe('RESTART');
    expect(formatHalt('x')).toBe('HALT,x');
    expect(formatAuthFailed({})).toBe('AUTH_FAILED');
    expect(formatAuthFailed({ reason: 'later', temporary: true, backoffSeconds: 5 })).toBe(
      'AUTH_FAILED,TEMP[backoff 5]:later',
    );
    expect(parseControlMessage(formatAuthFailed({ reason: 'TEMPORARY housing' }))).toMatchObject({
      failure: { temporary: false, reason: '-TEMPORARY housing' },
    });
    expect(formatAuthFailed({ reason: 'two\nlines\0' })).toBe('AUTH_FAILED,two?lines?');
  });

  test('are cut from the stream at their NULs, however it arrives', () => {
    const anyMessages = fc.array(
      fc.string({ minLength: 1, maxLength: 30 }).filter((text) => !text.includes('\0')),
      { maxLength: 10 },
    );
    fc.assert(
      fc.property(anyMessages, fc.integer({ min: 1, max: 50 }), (messages, size) => {
        const stream = Buffer.concat(messages.map(encodeMessage));
        const framer = new MessageFramer();
        const got: string[] = [];
        for (let i = 0; i < stream.length; i += size) {
          got.push(...framer.push(stream.subarray(i, i + size)));
        }
        expect(got).toEqual(messages);
      }),
    );
    const endless = new MessageFramer();
    endless.push(Buffer.alloc(maxMessageBytes, 'a'));
    expect(() => endless.push(Buffer.from('b'))).toThrow(ProtocolFault);
  });

  test('are parsed whatever they hold', () => {
    fc.assert(fc.property(fc.string(), (text) => void parseControlMessage(`AUTH_FAILED,TEMP[${text}`)));
    fc.assert(fc.property(fc.string(), (text) => void parseControlMessage(text)));
  });
});

describe('small forms', () => {
  test('netmasks and prefix lengths are each other', () => {
    for (let length = 0; length <= 32; length++) {
      expect(netmaskLength(netmask(length))).toBe(length);
    }
    expect(netmaskLength('255.0.255.0')).toBeUndefined();
    expect(netmaskLength('x')).toBeUndefined();
  });

  test('words are split as configuration files do', () => {
    expect(splitWords(`a  'b c' "d \\"e\\"" f\\ g`)).toEqual(['a', 'b c', 'd "e"', 'f g']);
    expect(splitWords('')).toEqual([]);
  });

  test('printable keeps a text on its line', () => {
    expect(printable('a\r\nb\u2028c\u202e')).toBe('a??b?c?');
    expect(printable('x'.repeat(300)).length).toBe(259);
  });
});
