import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { NETLINK_ROUTE, NetlinkSocket } from '../../operator/src/kernel/netlink/socket.ts';
import { createNamespace, defaultNetnsFolder, deleteNamespace } from '../../operator/src/kernel/netns.ts';
import { deleteAddress, dumpAddresses, setAddress } from '../../operator/src/kernel/rtnetlink/addresses.ts';
import {
  deleteLink,
  dumpLinks,
  getLinkByName,
  newOvpnLink,
  newVeth,
  setLink,
} from '../../operator/src/kernel/rtnetlink/links.ts';
import {
  deleteRoute,
  dumpOurRoutes,
  effectiveMetric,
  lookupRoute,
  type Route,
  setRoute,
} from '../../operator/src/kernel/rtnetlink/routes.ts';
import { type Namespace, refusalOf, Scene, uniqueName } from './support.ts';

let scene: Scene;
let ns: Namespace;
beforeEach(() => {
  scene = new Scene();
  ns = scene.namespace();
});
afterEach(async () => {
  await scene.close();
});

describe('links', () => {
  test.each(['mp', 'p2p'] as const)('an ovpn device in %s mode is made as asked and told as made', (mode) => {
    ns.rt.request(newOvpnLink({ name: 'vpn0', mode, index: 1234, mtu: 1400 }));
    expect(getLinkByName(ns.rt, 'vpn0')).toStrictEqual({
      index: 1234,
      name: 'vpn0',
      up: false,
      mtu: 1400,
      mac: '',
      kind: 'ovpn',
      ovpnMode: mode,
      alias: undefined,
      peerIndex: undefined,
      // Point-to-point devices get theirs with their peer.
      carrier: mode === 'mp',
      loopback: false,
    });
    expect(refusalOf(() => ns.rt.request(newOvpnLink({ name: 'vpn0', mode }))).code).toBe('EEXIST');
    expect(refusalOf(() => ns.rt.request(newOvpnLink({ name: 'vpn1', mode, index: 1234 }))).code).toBe('EEXIST');
  });

  test('MTU has the bounds of the driver, 1416 without a wish', () => {
    ns.rt.request(newOvpnLink({ name: 'vpn0', mode: 'mp' }));
    const { index, mtu } = ns.link('vpn0');
    expect(mtu).toBe(1416);
    ns.rt.request(setLink(index, { mtu: 68 }));
    ns.rt.request(setLink(index, { mtu: 65451 }));
    expect(refusalOf(() => ns.rt.request(setLink(index, { mtu: 67 }))).code).toBe('EINVAL');
    expect(refusalOf(() => ns.rt.request(setLink(index, { mtu: 65452 }))).code).toBe('EINVAL');
    expect(ns.link('vpn0').mtu).toBe(65451);
  });

  test('changes are made one at a time, and a missing interface is refused', () => {
    ns.rt.request(newOvpnLink({ name: 'vpn0', mode: 'mp' }));
    const { index } = ns.link('vpn0');
    ns.rt.request(setLink(index, { alias: 'network corp/office' }));
    ns.rt.request(setLink(index, { up: true }));
    expect(ns.link('vpn0')).toMatchObject({ up: true, alias: 'network corp/office', mtu: 1416, carrier: true });
    ns.rt.request(setLink(index, { mtu: 1300 }));
    expect(ns.link('vpn0')).toMatchObject({ up: true, mtu: 1300 });
    ns.rt.request(setLink(index, { up: false }));
    expect(ns.link('vpn0').up).toBe(false);
    ns.rt.request(deleteLink(index));
    expect(getLinkByName(ns.rt, 'vpn0')).toBeUndefined();
    expect(refusalOf(() => ns.rt.request(deleteLink(index))).code).toBe('ENODEV');
    expect(refusalOf(() => ns.rt.request(setLink(index, { up: true }))).code).toBe('ENODEV');
  });

  test('a veth pair is made with both ends in place', () => {
    const other = scene.namespace();
    const fd = openSync(other.path, 'r');
    const pair = newVeth({
      name: 'host-end',
      mtu: 1400,
      mac: '02:00:00:00:00:01',
      peer: { name: 'eth0', namespaceFd: fd, mac: '02:00:00:00:00:02' },
    });
    ns.rt.request(pair);
    expect(refusalOf(() => ns.rt.request(pair)).code).toBe('EEXIST');
    closeSync(fd);
    const here = ns.link('host-end');
    const there = other.link('eth0');
    expect(here).toMatchObject({ kind: 'veth', mtu: 1400, mac: '02:00:00:00:00:01', peerIndex: there.index });
    expect(there).toMatchObject({ kind: 'veth', mtu: 1400, mac: '02:00:00:00:00:02', peerIndex: here.index });
    expect(there.carrier).toBe(false);
    ns.rt.request(setLink(here.index, { up: true }));
    other.rt.request(setLink(there.index, { up: true, mac: '02:00:00:00:00:03' }));
    expect(other.link('eth0')).toMatchObject({ carrier: true, mac: '02:00:00:00:00:03' });
    ns.rt.request(deleteLink(here.index));
    expect(getLinkByName(other.rt, 'eth0')).toBeUndefined();
  });

  test('all are listed', () => {
    ns.device('mp', [], 'vpn0');
    const links = dumpLinks(ns.rt);
    expect(links.map(({ name }) => name)).toStrictEqual(['lo', 'vpn0']);
    expect(links[0]).toMatchObject({ loopback: true, kind: undefined, mac: '00:00:00:00:00:00' });
  });
});

describe('addresses', () => {
  test('come and go, and adding again changes nothing', () => {
    const index = ns.device('mp', [], 'vpn0');
    for (const address of ['10.80.0.1/24', 'fd80::1/64']) {
      ns.rt.request(setAddress(index, address));
      ns.rt.request(setAddress(index, address));
    }
    const mine = (): string[] =>
      dumpAddresses(ns.rt).flatMap((a) => (a.index === index && a.scope === 0 ? [a.address] : []));
    expect(mine()).toStrictEqual(['10.80.0.1/24', 'fd80::1/64']);
    // Ours are set without duplicate detection; the device's own link-local address is the kernel's business.
    expect(dumpAddresses(ns.rt).some(({ tentative, scope }) => tentative && scope === 0)).toBe(false);
    expect(dumpAddresses(ns.rt)).toContainEqual({ index: 1, address: '127.0.0.1/8', tentative: false, scope: 254 });
    for (const address of ['10.80.0.1/24', 'fd80::1/64']) ns.rt.request(deleteAddress(index, address));
    expect(mine()).toStrictEqual([]);
    expect(refusalOf(() => ns.rt.request(deleteAddress(index, '10.80.0.1/24'))).code).toBe('EADDRNOTAVAIL');
    expect(refusalOf(() => ns.rt.request(setAddress(9999, '10.80.0.1/24'))).code).toBe('ENODEV');
  });
});

describe('routes', () => {
  const blank = { gateway: undefined, index: undefined, source: undefined, mtu: undefined };

  test('a namespace without any route has none of ours', () => {
    // Loopback is not even up: the kernel makes its main table with the first route (net/ipv4/fib_frontend.c).
    const name = uniqueName('kt-');
    createNamespace(name);
    const rt = NetlinkSocket.open(NETLINK_ROUTE, join(defaultNetnsFolder, name));
    scene.onClose(() => {
      rt.close();
      deleteNamespace(name);
    });
    expect(dumpOurRoutes(rt)).toStrictEqual([]);
    expect(lookupRoute(rt, '192.0.2.1')).toBeUndefined();
    expect(dumpAddresses(rt)).toStrictEqual([]);
  });

  test('are set, replaced, listed and deleted in both families', () => {
    const index = ns.device('mp', ['10.80.0.1/24', 'fd80::1/64'], 'vpn0');
    const routes: Route[] = [
      { ...blank, destination: '10.1.0.0/16', type: 'unicast', gateway: '10.80.0.2', index, metric: 0 },
      { ...blank, destination: '10.2.0.0/16', type: 'unicast', index, metric: 50, source: '10.80.0.1', mtu: 1300 },
      { ...blank, destination: '10.3.0.0/16', type: 'unreachable', metric: 4000 },
      { ...blank, destination: '0.0.0.0/0', type: 'unicast', gateway: '10.80.0.3', index, metric: 7 },
      { ...blank, destination: 'fd01::/64', type: 'unicast', gateway: 'fd80::2', index, metric: 1024 },
      { ...blank, destination: 'fd02::/64', type: 'unreachable', metric: 4000 },
      { ...blank, destination: '::/0', type: 'unicast', index, metric: 9 },
    ];
    ns.rt.batch(routes.map(setRoute)).forEach((outcome) => {
      expect(outcome).toMatchObject({ ok: true });
    });
    const byDestination = (list: readonly Route[]): Route[] =>
      [...list].sort((x, y) => x.destination.localeCompare(y.destination));
    expect(byDestination(dumpOurRoutes(ns.rt))).toStrictEqual(byDestination(routes));
    const moved = { ...routes[0]!, gateway: '10.80.0.9' };
    ns.rt.request(setRoute(moved));
    expect(dumpOurRoutes(ns.rt).filter(({ destination }) => destination === '10.1.0.0/16')).toStrictEqual([moved]);
    for (const route of [moved, ...routes.slice(1)]) ns.rt.request(deleteRoute(route));
    expect(dumpOurRoutes(ns.rt)).toStrictEqual([]);
    expect(refusalOf(() => ns.rt.request(deleteRoute(moved))).code).toBe('ESRCH');
  });

  test('what others made is neither listed nor deleted', async () => {
    const index = ns.device('mp', ['10.80.0.1/24'], 'vpn0');
    await ns.exec('ip', 'route', 'add', '10.5.0.0/16', 'dev', 'vpn0');
    await ns.exec('ip', 'route', 'add', '10.6.0.0/16', 'dev', 'vpn0', 'proto', '79', 'table', '100');
    expect(dumpOurRoutes(ns.rt)).toStrictEqual([]);
    const theirs: Route = { ...blank, destination: '10.5.0.0/16', type: 'unicast', index, metric: 0 };
    expect(refusalOf(() => ns.rt.request(deleteRoute(theirs))).code).toBe('ESRCH');
  });

  test('IPv6 turns metric 0 into 1024', () => {
    const index = ns.device('mp', ['fd80::1/64'], 'vpn0');
    ns.rt.request(setRoute({ destination: 'fd01::/64', type: 'unicast', index, metric: 0 }));
    expect(dumpOurRoutes(ns.rt)[0]?.metric).toBe(effectiveMetric('fd01::/64', 0));
  });

  test('a next hop outside every prefix needs onLink', () => {
    const index = ns.device('mp', ['10.80.0.1/24'], 'vpn0');
    const route: Route = { destination: '10.1.0.0/16', type: 'unicast', gateway: '10.200.0.1', index, metric: 0 };
    expect(refusalOf(() => ns.rt.request(setRoute(route))).code).toBe('ENETUNREACH');
    ns.rt.request(setRoute({ ...route, onLink: true }));
    expect(dumpOurRoutes(ns.rt)).toMatchObject([{ gateway: '10.200.0.1' }]);
  });

  test('the route to an address is looked up', () => {
    expect(lookupRoute(ns.rt, '10.1.2.3')).toBeUndefined();
    expect(lookupRoute(ns.rt, 'fd01::1')).toBeUndefined();
    const index = ns.device('mp', ['10.80.0.1/24', 'fd80::1/64'], 'vpn0');
    ns.rt.request(
      setRoute({ destination: '10.1.0.0/16', type: 'unicast', gateway: '10.80.0.2', index, metric: 0, mtu: 1300 }),
    );
    expect(lookupRoute(ns.rt, '10.1.2.3')).toMatchObject({
      gateway: '10.80.0.2',
      index,
      source: '10.80.0.1',
      mtu: 1300,
    });
    expect(lookupRoute(ns.rt, 'fd80::5')).toMatchObject({ index, type: 'unicast' });
    ns.rt.request(setRoute({ destination: '10.3.0.0/16', type: 'unreachable', metric: 5 }));
    ns.rt.request(setRoute({ destination: 'fd03::/64', type: 'unreachable', metric: 5 }));
    expect(lookupRoute(ns.rt, '10.3.0.1')).toBeUndefined();
    expect(lookupRoute(ns.rt, 'fd03::1')).toBeUndefined();
  });
});
