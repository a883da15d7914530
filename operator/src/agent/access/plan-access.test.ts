import { describe, expect, test } from '@jest/globals';
import { parseResource } from '../../api/parse.ts';
import type { VpnNetwork, VpnPeer } from '../../api/types.ts';
import { networkManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { membershipsOf, planAccess, toldOfCluster } from './plan-access.ts';

function parse(manifest: object): unknown {
  const result = parseResource(manifest, 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource;
}
const network = (clusterAccess?: object): VpnNetwork =>
  parse(networkManifest('offices', clusterAccess === undefined ? {} : { clusterAccess })) as VpnNetwork;
/** What is undefined of the spec is not there. */
const peer = (spec: object = {}, labels: object = {}, namespace = 'team-a'): VpnPeer =>
  parse(JSON.parse(JSON.stringify(peerManifest('office', spec, { namespace, labels }))) as object) as VpnPeer;
const dialIn = { static: undefined, endpoint: undefined, keyRef: undefined, identity: { commonName: 'alice' } };
const dialOut = { static: undefined, addresses: undefined };

const whole = { pods: ['10.244.0.0/16'], services: ['10.96.0.0/12', 'fd96::/112'] };
const dns = { servers: ['10.96.0.10'], domains: ['cluster.local'] };
const dev = { selector: { matchLabels: { team: 'dev' } } };

describe('what passes', () => {
  test('nothing without clusterAccess, or when it is off', () => {
    expect(planAccess(network())).toBeUndefined();
    expect(planAccess(network({ ...whole, enabled: false, allow: [{}] }))).toBeUndefined();
  });

  test('an empty rule is about everything and for everybody', () => {
    expect(planAccess(network({ ...whole, allow: [{}] }))).toEqual({
      ranges: ['10.96.0.0/12', 'fd96::/112', '10.244.0.0/16'],
      rules: [
        {
          members: undefined,
          to: [
            { cidr: '10.96.0.0/12', ports: undefined },
            { cidr: 'fd96::/112', ports: undefined },
            { cidr: '10.244.0.0/16', ports: undefined },
          ],
        },
      ],
    });
  });

  test('ports and ranges of them, and the DNS for all whom a rule lets in', () => {
    const to = [{ cidr: '10.96.0.5/32', ports: [{ port: 443 }, { protocol: 'UDP', port: 8000, endPort: 8088 }] }];
    expect(planAccess(network({ ...whole, dns, allow: [{}, { peers: dev, to }] }))?.rules[1]).toEqual({
      members: 1,
      to: [
        { cidr: '10.96.0.5/32', ports: { protocol: 'TCP', first: 443, last: 443 } },
        { cidr: '10.96.0.5/32', ports: { protocol: 'UDP', first: 8000, last: 8088 } },
        { cidr: '10.96.0.10/32', ports: { protocol: 'UDP', first: 53, last: 53 } },
        { cidr: '10.96.0.10/32', ports: { protocol: 'TCP', first: 53, last: 53 } },
      ],
    });
  });
});

describe('what a client is told', () => {
  test('nothing when no rule is for it', () => {
    expect(toldOfCluster(network(), peer(dialIn))).toBeUndefined();
    expect(toldOfCluster(network({ ...whole, enabled: false, allow: [{}] }), peer(dialIn))).toBeUndefined();
    expect(
      toldOfCluster(network({ ...whole, allow: [{ peers: dev }] }), peer(dialIn, { team: 'ops' })),
    ).toBeUndefined();
    const ofTeamB = { peers: { namespaces: ['team-b'] } };
    expect(toldOfCluster(network({ ...whole, allow: [ofTeamB] }), peer(dialIn))).toBeUndefined();
  });

  test('the ranges of its rules, each once, and the way to the DNS when that is outside of them', () => {
    const narrow = { to: [{ cidr: '10.96.0.5/32' }, { cidr: '10.244.0.0/16' }] };
    const access = { ...whole, dns, allow: [{ peers: dev }, narrow, narrow] };
    expect(toldOfCluster(network(access), peer(dialIn))).toEqual({
      routes: ['10.96.0.5/32', '10.244.0.0/16', '10.96.0.10/32'],
      dnsServers: ['10.96.0.10'],
      dnsDomains: ['cluster.local'],
    });
    expect(toldOfCluster(network(access), peer(dialIn, { team: 'dev' }))?.routes).toEqual([
      '10.96.0.0/12',
      'fd96::/112',
      '10.244.0.0/16',
      '10.96.0.5/32',
    ]);
  });
});

describe('the sets of a peer', () => {
  const access = network({
    ...whole,
    allow: [{ peers: dev }, {}, { peers: { namespaces: ['team-a'] } }, { peers: { ...dev, namespaces: ['team-b'] } }],
  });
  const of = (one: VpnPeer, accepted = true): object => Object.fromEntries(membershipsOf(access, one, accepted));
  const addresses = { addresses: ['10.8.0.7', 'fd08::7'] };

  test('are those of the rules that name it, by family', () => {
    expect(of(peer({ ...dialIn, ...addresses }, { team: 'dev' }))).toEqual({
      'peers-0-ipv4': ['10.8.0.7'],
      'peers-0-ipv6': ['fd08::7'],
      'peers-2-ipv4': ['10.8.0.7'],
      'peers-2-ipv6': ['fd08::7'],
    });
    expect(Object.keys(of(peer({ addresses: ['10.8.0.7'] }, { team: 'dev' }, 'team-b')))).toEqual([
      'peers-0-ipv4',
      'peers-3-ipv4',
    ]);
  });

  test('are none of one that is refused, suspended or dialled, or has no addresses yet', () => {
    const labels = { team: 'dev' };
    expect(of(peer({ ...dialIn, ...addresses }, labels), false)).toEqual({});
    expect(of(peer({ ...dialIn, ...addresses, suspend: true }, labels))).toEqual({});
    expect(of(peer(dialOut, labels))).toEqual({});
    expect(of(peer({ ...dialIn, addresses: [] }, labels))).toEqual({});
    expect(membershipsOf(network(), peer({ ...dialIn, ...addresses }, labels), true).size).toBe(0);
  });
});
