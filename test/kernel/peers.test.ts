import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AF_INET, SOCK_STREAM, socket } from '../../operator/src/kernel/libc.ts';
import { inNamespace } from '../../operator/src/kernel/netns.ts';
import { Attr, Command, PeerAttr } from '../../operator/src/kernel/ovpn/uapi.ts';
import { setAddress } from '../../operator/src/kernel/rtnetlink/addresses.ts';
import { driverHere, type Namespace, rawRequest, refusal, Scene, tcpPair } from './support.ts';

const { transmitIds, checks } = driverHere();
let scene: Scene;
let ns: Namespace;
let device: number;
let udp: { readonly fd: number; readonly port: number };
const remote = { address: '127.0.0.1', port: 1194 };

beforeEach(() => {
  scene = new Scene();
  ns = scene.namespace();
  device = ns.device('mp', ['10.80.0.1/24', 'fd80::1/64']);
  udp = scene.udp(ns);
});
afterEach(async () => {
  await scene.close();
});

const newPeer = (settings: object = {}): Parameters<typeof ns.ovpn.requests.peerNew>[1] => ({
  id: 1,
  socket: udp.fd,
  remote,
  vpnIpv4: '10.80.0.2',
  ...settings,
});
const create = (settings: object = {}): void => {
  ns.ovpn.send(ns.ovpn.requests.peerNew(device, newPeer(settings)));
};
const refused = (settings: object): ReturnType<typeof refusal> =>
  refusal(ns, ns.ovpn.requests.peerNew(device, newPeer(settings)));

describe('PEER_NEW', () => {
  test('keeps what it is told, and PEER_GET tells it', () => {
    create({
      id: 0x123456,
      ...(transmitIds ? { txId: 0x654321 } : {}),
      local: '127.0.0.1',
      vpnIpv6: 'fd80::2',
      keepalive: { interval: 10, timeout: 60 },
    });
    expect(ns.ovpn.getPeer(device, 0x123456)).toStrictEqual({
      id: 0x123456,
      txId: transmitIds ? 0x654321 : 0x123456,
      remote,
      local: '127.0.0.1',
      localPort: udp.port,
      socketNetnsid: undefined,
      vpnIpv4: '10.80.0.2',
      vpnIpv6: 'fd80::2',
      keepalive: { interval: 10, timeout: 60 },
      vpn: { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n },
      link: { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n },
    });
  });

  test('takes an IPv6 remote', () => {
    const v6 = scene.udp(ns, '::');
    create({ socket: v6.fd, remote: { address: '2001:db8::9', port: 65535 } });
    expect(ns.ovpn.getPeer(device, 1)).toMatchObject({ remote: { address: '2001:db8::9', port: 65535 }, txId: 1 });
  });

  test('stores a v4-mapped remote as IPv4', () => {
    const v6 = scene.udp(ns, '::');
    create({ socket: v6.fd, remote: { address: '::ffff:192.0.2.9', port: 1194 } });
    expect(ns.ovpn.getPeer(device, 1)?.remote).toStrictEqual({ address: '192.0.2.9', port: 1194 });
  });

  test('takes a scope id with a link-local remote', () => {
    const v6 = scene.udp(ns, '::');
    const scopeId = ns.link('lo').index;
    create({ socket: v6.fd, remote: { address: 'fe80::9', port: 1194, scopeId } });
    // Older drivers take it, and forget it.
    const stored = checks ? { scopeId } : {};
    expect(ns.ovpn.getPeer(device, 1)?.remote).toStrictEqual({ address: 'fe80::9', port: 1194, ...stored });
  });

  test.each([
    ['a scope id with an IPv4 remote', { remote: { ...remote, scopeId: 1 } }, 'EINVAL'],
    ['an IPv6 local address with an IPv4 remote', { local: '::1' }, 'EINVAL'],
    ['no remote', { remote: undefined }, 'EINVAL'],
    ['port 0', { remote: { address: '192.0.2.1', port: 0 } }, 'ERANGE'],
    ['an id of 25 bits', { id: 0x1000000 }, 'ERANGE'],
    ['a transmit id of 25 bits', { txId: 0x1000000 }, transmitIds ? 'ERANGE' : 'EINVAL'],
    ['a multi-peer device without VPN address', { vpnIpv4: undefined }, 'EINVAL'],
  ])('refuses %s', (_name, settings, code) => {
    const error = refused(settings);
    expect(error.code).toBe(code);
    expect(ns.ovpn.dumpPeers(device)).toStrictEqual([]);
  });

  // Older drivers let all of these pass: what the agent plans is checked before.
  test.each([
    ['a keepalive over a day', { keepalive: { interval: 86401, timeout: 86401 } }, 'ERANGE'],
    ['a multicast VPN address', { vpnIpv4: '224.0.0.1' }, 'EADDRNOTAVAIL'],
    ['a loopback VPN address', { vpnIpv4: '127.0.0.5' }, 'EADDRNOTAVAIL'],
    ['the broadcast VPN address', { vpnIpv4: '255.255.255.255' }, 'EADDRNOTAVAIL'],
    ['a multicast IPv6 VPN address', { vpnIpv6: 'ff02::1' }, 'EADDRNOTAVAIL'],
    ['the IPv6 loopback as VPN address', { vpnIpv6: '::1' }, 'EADDRNOTAVAIL'],
  ])(`${checks ? 'refuses' : 'does not notice'} %s`, (_name, settings, code) => {
    if (checks) expect(refused(settings).code).toBe(code);
    else create(settings);
    expect(ns.ovpn.dumpPeers(device)).toHaveLength(checks ? 0 : 1);
  });

  test('refuses one keepalive value without the other, and a missing socket', () => {
    const half = rawRequest(ns, Command.PeerNew, (writer) => {
      writer.u32(Attr.Ifindex, device);
      writer.nest(Attr.Peer, () => {
        writer.u32(PeerAttr.Id, 1);
        writer.bytes(PeerAttr.RemoteIpv4, Buffer.from([127, 0, 0, 1]));
        writer.port(PeerAttr.RemotePort, 1194);
        writer.u32(PeerAttr.Socket, udp.fd);
        writer.bytes(PeerAttr.VpnIpv4, Buffer.from([10, 80, 0, 2]));
        writer.u32(PeerAttr.KeepaliveInterval, 10);
      });
    });
    expect(refusal(ns, half)).toMatchObject({ code: 'EINVAL', kernelText: expect.stringContaining('keepalive') });

    const missing = rawRequest(ns, Command.PeerNew, (writer) => {
      writer.u32(Attr.Ifindex, device);
      writer.nest(Attr.Peer, () => {
        writer.u32(PeerAttr.Id, 1);
      });
    });
    expect(refusal(ns, missing)).toMatchObject({ code: 'EINVAL', missing: PeerAttr.Socket });
  });

  test('refuses a descriptor that is no socket with ENOTSOCK and the true reason in the text', () => {
    expect(refused({ socket: 100_000 })).toMatchObject({ code: 'ENOTSOCK', kernelText: expect.stringContaining('-9') });
  });

  test('refuses a socket of another device', () => {
    create();
    const other = ns.device('mp');
    const error = refusal(ns, ns.ovpn.requests.peerNew(other, newPeer({ id: 2 })));
    expect(error).toMatchObject({ code: 'ENOTSOCK', kernelText: expect.stringContaining('-16') });
  });

  test('shares one socket between the peers of a device', () => {
    create();
    create({ id: 2, vpnIpv4: '10.80.0.3', remote: { address: '127.0.0.1', port: 1195 } });
    expect(ns.ovpn.dumpPeers(device).map(({ id }) => id)).toStrictEqual([1, 2]);
  });

  test('refuses an id in use', () => {
    create();
    expect(refused({ vpnIpv4: '10.80.0.9' }).code).toBe('EEXIST');
  });

  test(`${checks ? 'refuses' : 'does not notice'} a VPN address in use`, () => {
    create({ vpnIpv6: 'fd80::2' });
    const again = [{ id: 2 }, { id: 3, vpnIpv4: '10.80.0.9', vpnIpv6: 'fd80::2' }];
    for (const settings of again) {
      if (checks) expect(refused(settings).code).toBe('EADDRINUSE');
      else create(settings);
    }
    expect(ns.ovpn.dumpPeers(device)).toHaveLength(checks ? 1 : 3);
  });

  test('refuses an interface that is missing or of another kind', () => {
    expect(refusal(ns, ns.ovpn.requests.peerNew(99_999, newPeer())).code).toBe('ENODEV');
    expect(refusal(ns, ns.ovpn.requests.peerNew(ns.link('lo').index, newPeer())).code).toBe('EINVAL');
  });

  test('refuses unknown attributes, un-nested nests and top-level rubbish (strict checking)', () => {
    const base = (
      extra: (writer: Parameters<Parameters<typeof rawRequest>[2]>[0]) => void,
    ): ReturnType<typeof refusal> => refusal(ns, rawRequest(ns, Command.PeerGet, extra));
    const unknownInside = base((writer) => {
      writer.u32(Attr.Ifindex, device);
      writer.nest(Attr.Peer, () => {
        writer.u32(PeerAttr.Id, 1);
        writer.u32(99, 1);
      });
    });
    expect(unknownInside).toMatchObject({ code: 'EINVAL', offset: 16 + 4 + 8 + 4 + 8 });
    const unknownTop = base((writer) => {
      writer.u32(Attr.Ifindex, device);
      writer.u32(9, 1);
    });
    expect(unknownTop).toMatchObject({ code: 'EINVAL', offset: 28 });
    const flat = base((writer) => {
      writer.u32(Attr.Ifindex, device);
      writer.bytes(Attr.Peer, Buffer.from([8, 0, 1, 0, 1, 0, 0, 0]));
    });
    expect(flat).toMatchObject({ code: 'EINVAL', kernelText: 'NLA_F_NESTED is missing' });
    expect(base(() => undefined)).toMatchObject({ code: 'EINVAL', missing: Attr.Ifindex });
  });
});

describe('PEER_NEW in point-to-point mode', () => {
  test('refuses a VPN address and replaces the peer without an error', () => {
    const p2p = ns.device('p2p');
    const other = scene.udp(ns);
    const peer = { id: 1, socket: other.fd, remote };
    expect(refusal(ns, ns.ovpn.requests.peerNew(p2p, { ...peer, vpnIpv4: '10.80.0.2' })).code).toBe('EINVAL');
    ns.ovpn.send(ns.ovpn.requests.peerNew(p2p, peer));
    ns.ovpn.send(ns.ovpn.requests.peerNew(p2p, { ...peer, id: 2 }));
    expect(ns.ovpn.dumpPeers(p2p).map(({ id }) => id)).toStrictEqual([2]);
  });
});

describe('TCP sockets', () => {
  test('takes an established one, and refuses it with a remote or for a second peer', () => {
    const { server } = tcpPair(scene, ns);
    expect(refused({ socket: server }).code).toBe('EINVAL');
    create({ socket: server, remote: undefined });
    expect(ns.ovpn.getPeer(device, 1)).toMatchObject({ id: 1, vpnIpv4: '10.80.0.2' });
    const second = refused({ id: 2, vpnIpv4: '10.80.0.3', socket: server, remote: undefined });
    expect(second).toMatchObject({ code: 'ENOTSOCK', kernelText: expect.stringContaining('-16') });
  });

  test('refuses one that is not connected', () => {
    const idle = scene.ownFd(inNamespace(ns.path, () => socket(AF_INET, SOCK_STREAM, 0)));
    expect(refused({ socket: idle, remote: undefined }).code).toMatch(/ENOTSOCK|EINVAL/);
  });
});

describe('PEER_SET', () => {
  const set = (settings: object): void => {
    ns.ovpn.send(ns.ovpn.requests.peerSet(device, { id: 1, ...settings }));
  };
  const setRefused = (settings: object): ReturnType<typeof refusal> =>
    refusal(ns, ns.ovpn.requests.peerSet(device, { id: 1, ...settings }));

  test('changes remote, keepalive and VPN addresses, one at a time', () => {
    create({ vpnIpv6: 'fd80::2' });
    set({ remote: { address: '127.0.0.2', port: 1195 } });
    expect(ns.ovpn.getPeer(device, 1)?.remote).toStrictEqual({ address: '127.0.0.2', port: 1195 });
    set({ keepalive: { interval: 5, timeout: 30 } });
    expect(ns.ovpn.getPeer(device, 1)?.keepalive).toStrictEqual({ interval: 5, timeout: 30 });
    set({ keepalive: { interval: 0, timeout: 0 } });
    expect(ns.ovpn.getPeer(device, 1)?.keepalive).toStrictEqual({ interval: 0, timeout: 0 });
    set({ vpnIpv4: '10.80.0.3' });
    expect(ns.ovpn.getPeer(device, 1)).toMatchObject({ vpnIpv4: '10.80.0.3', vpnIpv6: 'fd80::2' });
    expect(ns.ovpn.getPeer(device, 1)).toMatchObject({ remote: { address: '127.0.0.2', port: 1195 }, txId: 1 });
  });

  test(`${transmitIds ? 'changes' : 'knows no'} transmit id`, () => {
    create();
    if (transmitIds) set({ txId: 77 });
    else expect(setRefused({ txId: 77 })).toMatchObject({ code: 'EINVAL', kernelText: 'Unknown attribute type' });
    expect(ns.ovpn.getPeer(device, 1)).toMatchObject({ id: 1, txId: transmitIds ? 77 : 1, vpnIpv4: '10.80.0.2' });
  });

  test('clears one family of VPN addresses', () => {
    create({ vpnIpv6: 'fd80::2' });
    set({ vpnIpv4: '0.0.0.0' });
    expect(ns.ovpn.getPeer(device, 1)).toMatchObject({ vpnIpv4: undefined, vpnIpv6: 'fd80::2' });
    // Older drivers clear the last one, too.
    if (checks) expect(setRefused({ vpnIpv6: '::' }).code).toBe('EINVAL');
    // The address that was given up is free again.
    create({ id: 2, remote: { address: '127.0.0.1', port: 1195 } });
  });

  test('refuses a peer that is not there, an address in use and a socket', () => {
    expect(setRefused({ vpnIpv4: '10.80.0.3' }).code).toBe('ENOENT');
    create();
    create({ id: 2, vpnIpv4: '10.80.0.3', remote: { address: '127.0.0.1', port: 1195 } });
    if (checks) {
      expect(setRefused({ vpnIpv4: '10.80.0.3' }).code).toBe('EADDRINUSE');
      expect(setRefused({ vpnIpv4: '127.0.0.1' }).code).toBe('EADDRNOTAVAIL');
    }
    expect(setRefused({ socket: udp.fd }).code).toBe('EINVAL');
  });
});

describe('PEER_GET and PEER_DEL', () => {
  test('know no peer that is not there', () => {
    expect(ns.ovpn.getPeer(device, 1)).toBeUndefined();
    expect(refusal(ns, ns.ovpn.requests.peerDel(device, 1)).code).toBe('ENOENT');
    create();
    ns.ovpn.send(ns.ovpn.requests.peerDel(device, 1));
    expect(ns.ovpn.getPeer(device, 1)).toBeUndefined();
    // Id and address are free at once.
    create();
  });

  test('a dump of a missing device is an error, not an empty table', () => {
    expect(() => ns.ovpn.dumpPeers(99_999)).toThrow(expect.objectContaining({ code: 'ENODEV' }));
    expect(ns.ovpn.dumpPeers(device)).toStrictEqual([]);
  });

  test('the socket namespace is told when it is another one', () => {
    const other = scene.namespace();
    other.rt.request(setAddress(other.link('lo').index, '192.0.2.1/32'));
    const foreign = scene.udp(other);
    create({ socket: foreign.fd });
    expect(ns.ovpn.getPeer(device, 1)?.socketNetnsid).not.toBeUndefined();
  });
});
