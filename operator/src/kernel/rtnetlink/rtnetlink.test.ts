import { readFileSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { MalformedMessage, type Message, NLMSG_DONE, parseMessages, RequestWriter } from '../netlink/message.ts';
import type { NetlinkSocket, Request } from '../netlink/socket.ts';
import { dumpAddresses, setAddress } from './addresses.ts';
import { dumpLinks, newOvpnLink, newVeth, setLink } from './links.ts';
import { dumpOurRoutes, effectiveMetric, formatRoute, setRoute } from './routes.ts';

interface Exchange {
  readonly request: string;
  readonly replies: readonly string[];
}
const { recorded } = JSON.parse(
  readFileSync(new URL('../../../../test/fixtures/netlink/rtnl.json', import.meta.url), 'utf8'),
) as { recorded: Record<string, Exchange> };

const NLM_F_ACK = 4;
function bytes(request: Request): string {
  const writer = new RequestWriter();
  writer.begin(request.type, (request.flags ?? 0) | NLM_F_ACK);
  writer.sequence(1);
  request.write(writer);
  writer.end();
  return writer.view().toString('hex');
}
const messages = (...names: readonly string[]): Message[] =>
  names
    .flatMap((name) => recorded[name]!.replies)
    .flatMap((hex) => parseMessages(Buffer.from(hex, 'hex')))
    .filter(({ type }) => type !== NLMSG_DONE);

/** Answers every dump with the same messages. */
const fake = (answers: readonly Message[]): NetlinkSocket =>
  ({
    dump: <T>(_request: Request, parse: (message: Message) => T | undefined): T[] =>
      answers.map(parse).filter((value) => value !== undefined),
  }) as unknown as NetlinkSocket;

describe('requests have the bytes that a kernel took', () => {
  test.each<[string, Request]>([
    ['newMp', newOvpnLink({ name: 'rec-mp', mode: 'mp', index: 4711, mtu: 1400 })],
    ['newP2p', newOvpnLink({ name: 'rec-p2p', mode: 'p2p' })],
    [
      'newVeth',
      newVeth({
        name: 'rec-veth',
        mtu: 1400,
        mac: '02:00:00:00:00:01',
        peer: { name: 'rec-peer', namespaceFd: 100_000 },
      }),
    ],
    ['setLink', setLink(4711, { up: true, alias: 'recorded' })],
    ['setAddressV4', setAddress(4711, '10.81.0.1/24')],
    ['setAddressV6', setAddress(4711, 'fd81::1/64')],
    [
      'setRouteV4',
      setRoute({
        destination: '10.82.0.0/16',
        type: 'unicast',
        gateway: '10.81.0.2',
        index: 4711,
        metric: 50,
        mtu: 1300,
      }),
    ],
    [
      'setRouteV6',
      setRoute({ destination: 'fd82::/64', type: 'unicast', gateway: 'fd81::2', index: 4711, metric: 1024 }),
    ],
    ['setUnreachable', setRoute({ destination: '10.83.0.0/16', type: 'unreachable', metric: 4000 })],
  ])('%s', (name, request) => {
    expect(bytes(request)).toBe(recorded[name]!.request);
  });

  test('a hardware address of another form is refused', () => {
    expect(() => bytes(setLink(1, { mac: '02:00:00' }))).toThrow(TypeError);
  });
});

describe('recorded dumps', () => {
  test('links', () => {
    const links = dumpLinks(fake(messages('links')));
    const byName = new Map(links.map((link) => [link.name, link]));
    expect(byName.get('rec-mp')).toMatchObject({
      index: 4711,
      kind: 'ovpn',
      ovpnMode: 'mp',
      mtu: 1400,
      up: true,
      alias: 'recorded',
      mac: '',
      carrier: true,
    });
    expect(byName.get('rec-p2p')).toMatchObject({
      kind: 'ovpn',
      ovpnMode: 'p2p',
      mtu: 1416,
      up: false,
      carrier: false,
    });
    expect(byName.get('under')).toMatchObject({ kind: 'veth', mtu: 1500, up: true, carrier: true, peerIndex: 2 });
    expect(byName.get('under')?.mac).toMatch(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
    expect(byName.get('lo')).toMatchObject({ loopback: true, kind: undefined });
  });

  test('addresses', () => {
    const addresses = dumpAddresses(fake(messages('addresses')));
    expect(addresses).toContainEqual({ index: 4711, address: '10.81.0.1/24', tentative: false, scope: 0 });
    expect(addresses).toContainEqual({ index: 4711, address: 'fd81::1/64', tentative: false, scope: 0 });
  });

  test('routes of ours only', () => {
    const routes = dumpOurRoutes(fake(messages('routesV4', 'routesV6')));
    // Asked once per family, the fake answers with everything twice.
    expect(routes.slice(0, routes.length / 2).map(formatRoute)).toStrictEqual([
      '10.82.0.0/16 via 10.81.0.2 dev 4711 metric 50',
      'unreachable 10.83.0.0/16 metric 4000',
      'fd82::/64 via fd81::2 dev 4711 metric 1024',
    ]);
    expect(routes[0]).toMatchObject({ mtu: 1300 });
  });
});

describe('parsers are total', () => {
  const parsers = [dumpLinks, dumpAddresses, dumpOurRoutes];
  const types = [16, 20, 24];
  const refuses = (parse: () => unknown): void => {
    try {
      parse();
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
    }
  };

  test('on any bytes', () => {
    fc.assert(
      fc.property(fc.constantFrom(0, 1, 2), fc.uint8Array({ maxLength: 200 }), (which, data) => {
        const payload = Buffer.from(data);
        refuses(() => parsers[which]!(fake([{ type: types[which]!, flags: 0, sequence: 1, port: 0, payload }])));
      }),
      { numRuns: 3000 },
    );
  });

  test('on recorded messages with bytes changed or cut', () => {
    const samples = messages('links', 'addresses', 'routesV4', 'routesV6');
    fc.assert(
      fc.property(
        fc.constantFrom(...samples),
        fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { maxLength: 4 }),
        fc.nat(2000),
        (sample, changes, cut) => {
          const payload = Buffer.from(sample.payload.subarray(0, Math.max(1, cut % (sample.payload.length + 1))));
          for (const [at, value] of changes) payload[at % payload.length] = value;
          for (const parse of parsers) refuses(() => parse(fake([{ ...sample, payload }])));
        },
      ),
      { numRuns: 3000 },
    );
  });
});

describe('metrics', () => {
  test('IPv6 stores 0 as 1024', () => {
    expect(effectiveMetric('10.0.0.0/8', 0)).toBe(0);
    expect(effectiveMetric('fd00::/8', 0)).toBe(1024);
    expect(effectiveMetric('fd00::/8', 7)).toBe(7);
  });
});
