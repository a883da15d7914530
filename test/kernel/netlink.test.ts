import { readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DumpInterrupted, NetlinkError } from '../../operator/src/kernel/netlink/error.ts';
import { greatestAttribute, resolveFamily } from '../../operator/src/kernel/netlink/generic.ts';
import { NLM_F_DUMP_INTR } from '../../operator/src/kernel/netlink/message.ts';
import {
  NETLINK_GENERIC,
  NETLINK_ROUTE,
  NetlinkSocket,
  type Request,
} from '../../operator/src/kernel/netlink/socket.ts';
import { OvpnFamily } from '../../operator/src/kernel/ovpn/family.ts';
import { PeerAttr } from '../../operator/src/kernel/ovpn/uapi.ts';
import { dumpLinks, newOvpnLink } from '../../operator/src/kernel/rtnetlink/links.ts';
import { dumpOurRoutes, setRoute } from '../../operator/src/kernel/rtnetlink/routes.ts';
import { driverHere, expediteGracePeriods, type Namespace, Scene } from './support.ts';

let scene: Scene;
let ns: Namespace;
beforeEach(() => {
  scene = new Scene();
  ns = scene.namespace();
});
afterEach(async () => {
  await scene.close();
});

const vpnAddress = (id: number): string => `10.80.${id >> 8}.${id & 255}`;
const peers = (device: number, socket: number, ids: readonly number[]): Request[] =>
  ids.map((id) =>
    ns.ovpn.requests.peerNew(device, {
      id,
      socket,
      remote: { address: '127.0.0.1', port: 1000 + id },
      vpnIpv4: vpnAddress(id),
    }),
  );
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

describe('families', () => {
  test('are resolved with their groups; an unknown one is undefined', () => {
    const socket = NetlinkSocket.open(NETLINK_GENERIC);
    const family = resolveFamily(socket, 'ovpn')!;
    expect(family.id).toBeGreaterThan(16);
    expect([...family.groups.keys()]).toStrictEqual(['peers']);
    expect(family.groups.get('peers')).toBe(ns.ovpn.notificationGroup);
    expect(resolveFamily(socket, 'no-such-family')).toBeUndefined();
    expect(() => resolveFamily(socket, 'a-name-longer-than-the-kernel-takes')).toThrow(NetlinkError);
    socket.close();
    socket.close();
  });

  test('tell by their policies which attributes the kernel knows', () => {
    const socket = NetlinkSocket.open(NETLINK_GENERIC);
    try {
      expect(greatestAttribute(socket, 'ovpn') >= PeerAttr.TxId).toBe(driverHere().transmitIds);
      expect(greatestAttribute(socket, 'nlctrl')).toBeLessThan(PeerAttr.TxId);
      expect(() => greatestAttribute(socket, 'no-such-family')).toThrow(NetlinkError);
    } finally {
      socket.close();
    }
  });
});

// What tests ask of a driver depends on what it can: on the kernel that all of them run on, that is everything.
(process.env['LAB_KERNEL'] === 'uml' ? test : test.skip)("the lab's everyday kernel has all that a driver may", () => {
  expect(driverHere()).toStrictEqual({ transmitIds: true, checks: true });
});

describe('batches', () => {
  test('thousands of requests keep their order, and the refused ones are where they were', () => {
    expediteGracePeriods();
    const device = ns.device('mp');
    const { fd } = scene.udp(ns);
    const count = 4000;
    const requests = peers(device, fd, range(count));
    const bad = new Map<number, [Request, string]>([
      [0, [ns.ovpn.requests.peerDel(device, 99_999), 'ENOENT']],
      [1500, [ns.ovpn.requests.peerNew(99_999, { id: 1, socket: fd }), 'ENODEV']],
      [
        2345,
        [ns.ovpn.requests.peerNew(device, { id: 5000, socket: fd, remote: { address: '::1', port: 1 } }), 'EINVAL'],
      ],
      [3999, [ns.ovpn.requests.keySwap(device, 77_777), 'ENOENT']],
    ]);
    for (const [index, [request]] of bad) requests[index] = request;
    const outcomes = ns.ovpn.batch(requests);
    expect(outcomes).toHaveLength(count);
    expect(outcomes.flatMap((outcome, index) => (outcome.ok ? [] : [[index, outcome.error.code]]))).toStrictEqual(
      [...bad].map(([index, [, code]]) => [index, code]),
    );
    const refused = outcomes[2345]!;
    expect(refused.ok ? '' : refused.error.message).toContain('ovpn PEER_NEW 5000 on interface index');
    const listed = ns.ovpn.dumpPeers(device).map(({ id }) => id);
    expect(listed).toHaveLength(count - bad.size);
    expect(new Set(listed).size).toBe(count - bad.size);
    expect(ns.ovpn.counters.writes).toBe(count);

    // Reads in bulk come back whole, too.
    const keys = ns.ovpn.getKeys(device, listed);
    expect(keys.size).toBe(listed.length);
    expect(ns.ovpn.batch(listed.map((id) => ns.ovpn.requests.peerDel(device, id))).every(({ ok }) => ok)).toBe(true);
    expect(ns.ovpn.dumpPeers(device)).toStrictEqual([]);
  });

  test('an empty batch is nothing', () => {
    expect(ns.ovpn.batch([])).toStrictEqual([]);
  });

  test('a request that cannot be written sends nothing and leaves the socket usable', () => {
    const device = ns.device('mp');
    const { fd } = scene.udp(ns);
    const requests = peers(device, fd, [1, 2]);
    requests.push({
      type: ns.ovpn.familyId,
      describe: () => 'broken',
      write: () => {
        throw new RangeError('cannot be written');
      },
    });
    expect(() => ns.ovpn.batch(requests)).toThrow('cannot be written');
    expect(ns.ovpn.dumpPeers(device)).toStrictEqual([]);
    expect(ns.ovpn.batch(requests.slice(0, 2)).every(({ ok }) => ok)).toBe(true);
  });
});

describe('dumps', () => {
  test('tell thousands of peers, each once', () => {
    expediteGracePeriods();
    const device = ns.device('mp');
    const { fd } = scene.udp(ns);
    ns.ovpn.batch(peers(device, fd, range(2000)));
    const dump = ns.ovpn.dumpPeers(device);
    expect(dump.map(({ id }) => id).sort((x, y) => x - y)).toStrictEqual(range(2000));
    for (const peer of dump) expect(peer.vpnIpv4).toBe(vpnAddress(peer.id));
  });

  test('one whose reader fails leaves the socket ready for the next', () => {
    for (const i of range(150)) ns.rt.request(newOvpnLink({ name: `dev${i}`, mode: 'p2p' }));
    const request: Request = {
      type: 18, // RTM_GETLINK
      describe: () => 'links',
      write: (writer) => {
        writer.raw(Buffer.alloc(16));
      },
    };
    expect(() =>
      ns.rt.dump(request, () => {
        throw new Error('reader failed');
      }),
    ).toThrow('reader failed');
    // The kernel runs one dump per socket: a half-read one would make this EBUSY.
    expect(dumpLinks(ns.rt)).toHaveLength(151);
    expect(ns.link('dev1').name).toBe('dev1');
  });

  test('one that is interrupted by a change is read again', () => {
    for (const i of range(150)) ns.rt.request(newOvpnLink({ name: `dev${i}`, mode: 'p2p' }));
    const writer = NetlinkSocket.open(NETLINK_ROUTE, ns.path);
    const index = ns.link('dev1').index;
    let attempts = 0;
    let flagged = 0;
    const names = ns.rt.dump(
      {
        type: 18,
        describe: () => 'links',
        write: (out) => {
          attempts++;
          out.raw(Buffer.alloc(16));
        },
      },
      (message) => {
        if ((message.flags & NLM_F_DUMP_INTR) !== 0) flagged++;
        // In the middle of the first two tries a link goes and another comes.
        if (attempts <= 2 && message.payload.readInt32LE(4) === index) {
          writer.request(newOvpnLink({ name: `late${attempts}`, mode: 'p2p' }));
        }
        return message.payload.readInt32LE(4);
      },
    );
    writer.close();
    expect(flagged).toBeGreaterThan(0);
    expect(attempts).toBe(3);
    expect(names).toHaveLength(153);
  });

  test('one that never holds still is given up with its own error', () => {
    for (const i of range(150)) ns.rt.request(newOvpnLink({ name: `dev${i}`, mode: 'p2p' }));
    const writer = NetlinkSocket.open(NETLINK_ROUTE, ns.path);
    const index = ns.link('dev1').index;
    let mtu = 1200;
    expect(() =>
      ns.rt.dump(
        {
          type: 18,
          describe: () => 'list restless links',
          write: (out) => {
            out.raw(Buffer.alloc(16));
          },
        },
        (message) => {
          if (message.payload.readInt32LE(4) === index)
            writer.request(newOvpnLink({ name: `late${mtu++}`, mode: 'p2p' }));
          return 1;
        },
      ),
    ).toThrow(DumpInterrupted);
    writer.close();
  });

  test('thousands of routes', () => {
    const index = ns.device('mp', ['10.80.0.1/16']);
    const routes = range(3000).map((i) =>
      setRoute({
        destination: `172.${16 + (i >> 8)}.${i & 255}.0/24`,
        type: 'unicast',
        gateway: '10.80.0.2',
        index,
        metric: 0,
      }),
    );
    expect(ns.rt.batch(routes).every(({ ok }) => ok)).toBe(true);
    expect(new Set(dumpOurRoutes(ns.rt).map(({ destination }) => destination)).size).toBe(3000);
  });
});

describe('sockets', () => {
  test('read and write counters tell what was sent', () => {
    const family = OvpnFamily.open(ns.path);
    const start = { ...family.counters };
    const device = ns.device('mp');
    family.getPeer(device, 1);
    family.dumpPeers(device);
    expect(family.counters.reads - start.reads).toBe(2);
    expect(family.counters.writes).toBe(0);
    family.batch([family.requests.peerDel(device, 1)]);
    expect(family.counters.writes).toBe(1);
    family.close();
  });

  test('no descriptor leaks from a hundred of them', () => {
    const before = readdirSync('/proc/self/fd').length;
    for (let i = 0; i < 100; i++) OvpnFamily.open(ns.path).close();
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });
});
