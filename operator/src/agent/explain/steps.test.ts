import { describe, expect, test } from '@jest/globals';
import type { Way } from '../../kernel/rtnetlink/lookup.ts';
import type { NetworkReport, PeerReport } from '../report.ts';
import type { NetworkFacts, OutFacts, PeerFacts, RouteFacts } from './facts.ts';
import { explain } from './steps.ts';

const destination = '192.168.50.1';
const attachment = {
  containerId: 'c1',
  ifname: 'vpn0',
  netns: '/run/netns/c1',
  pod: 'shop/web',
  addresses: ['10.81.1.2'],
};
const forward = (fields: Partial<Extract<Way, { kind: 'forward' }>> = {}): Way => ({
  kind: 'forward',
  index: 5,
  gateway: undefined,
  source: undefined,
  mtu: undefined,
  ...fields,
});
const refused: Way = { kind: 'refused', code: 'EHOSTUNREACH', reason: 'unreachable' };

const peerReport = (fields: Partial<PeerReport> = {}): PeerReport => ({
  name: 'default/office',
  kind: 'static',
  holder: undefined,
  peerId: 7,
  addresses: ['10.80.0.2'],
  endpoint: '203.0.113.2:1194',
  cipher: undefined,
  keys: { primary: 1, secondary: undefined },
  keyGeneration: 1,
  routes: ['192.168.50.0/24'],
  claims: ['10.80.0.2/32', '192.168.50.0/24'],
  rxBytes: 0,
  txBytes: 0,
  rxPackets: 0,
  txPackets: 0,
  ready: 'True',
  reason: 'Ready',
  message: '',
  ...fields,
});
const networkReport = (fields: Partial<NetworkReport> = {}): NetworkReport => ({
  name: 'corp',
  namespace: 'ovpn-corp',
  netns: '/run/netns/ovpn-corp',
  device: 'ovpn0',
  mtu: 1416,
  addresses: ['10.80.0.1/24'],
  listeners: [],
  problem: undefined,
  peers: [peerReport()],
  neighbours: [],
  attachments: [attachment],
  ...fields,
});
const traffic = (rxPackets: bigint) => ({ rxBytes: 0n, txBytes: 0n, rxPackets, txPackets: 3n });
const peer = (fields: Partial<PeerFacts> = {}, vpn = 2n, link = 2n): PeerFacts => ({
  name: 'default/office',
  keys: [{ peerId: 7, slot: 'primary', keyId: 1, cipher: 'AES-GCM' }],
  peer: {
    id: 7,
    txId: 7,
    remote: { address: '203.0.113.2', port: 1194 },
    local: undefined,
    localPort: 1194,
    socketNetnsid: 0,
    vpnIpv4: '10.80.0.2',
    vpnIpv6: undefined,
    keepalive: { interval: 10, timeout: 60 },
    vpn: traffic(vpn),
    link: traffic(link),
  },
  ...fields,
});
const out = (fields: Partial<OutFacts> = {}): OutFacts => ({
  name: 'ovpn0',
  up: true,
  mode: 'mp',
  mtu: 1416,
  peer: peer(),
  sourceCheck: '10.80.0.2',
  ...fields,
});
const network = (fields: Partial<NetworkFacts> = {}): NetworkFacts => ({
  report: networkReport(),
  source: '10.81.1.2',
  input: 'veth1',
  sourceOut: 'veth1',
  filterStands: true,
  forwards: true,
  way: forward({ gateway: '10.80.0.2' }),
  out: out(),
  answer: { way: forward(), out: 'veth1' },
  ...fields,
});
const pod = (fields: Partial<NonNullable<RouteFacts['pod']>> = {}): NonNullable<RouteFacts['pod']> => ({
  name: 'shop/web',
  attachments: [attachment],
  present: true,
  way: forward({ gateway: '10.81.1.1', source: '10.81.1.2' }),
  out: 'vpn0',
  ...fields,
});
const facts = (fields: Partial<RouteFacts> = {}): RouteFacts => ({
  destination,
  pod: pod(),
  network: network(),
  ...fields,
});
const suspended = peerReport({ ready: 'False', reason: 'Suspended', message: 'spec.suspend is set' });
const waiting = peerReport({ ready: 'False', reason: 'NotConnected', message: 'no client has connected yet' });

test('a packet that gets through is followed to the peer and back', () => {
  const { reaches, steps } = explain(facts());
  expect(reaches).toBe(true);
  expect(steps.map(({ result, object, text }) => `${result} ${object} ${text}`)).toEqual([
    'ok pod shop/web sends from 10.81.1.2 out of vpn0 by 10.81.1.1 into VpnNetwork corp',
    'ok VpnNetwork corp lets 10.81.1.2 in on veth1',
    'ok VpnNetwork corp routes 192.168.50.1 via 10.80.0.2 out of ovpn0',
    'ok VpnPeer default/office gets it as peer 7 of ovpn0 at 203.0.113.2:1194',
    'ok VpnPeer default/office sends with key 1 (AES-GCM)',
    'ok VpnPeer default/office has traffic: 2 packets received, 3 sent',
    'ok VpnNetwork corp routes the answer to 10.81.1.2 out of veth1',
  ]);
});

describe('where it stops', () => {
  const withPeers = (peers: PeerReport[], fields: Partial<NetworkFacts>): RouteFacts =>
    facts({ network: network({ report: networkReport({ peers }), ...fields }) });
  test.each<[string, RouteFacts, string, string]>([
    [
      'no attachment',
      facts({ pod: pod({ attachments: [] }) }),
      'attached to no VpnNetwork',
      'ovpn-operator.io/networks',
    ],
    ['a sandbox that is gone', facts({ pod: pod({ present: false, way: undefined }) }), 'is gone', 'delete the pod'],
    ['refused in the pod', facts({ pod: pod({ way: refused }) }), 'EHOSTUNREACH', 'vpn0 stands'],
    [
      'outside of the VPN',
      facts({ pod: pod({ out: 'eth0' }), network: undefined }),
      'out of eth0, not into',
      'spec.routes',
    ],
    ['a strange source', facts({ network: network({ sourceOut: 'veth2' }) }), 'is behind veth2', 'was given'],
    ['a source of nobody', facts({ network: network({ sourceOut: undefined }) }), 'nobody here', 'was given'],
    ['no forwarding', facts({ network: network({ forwards: false }) }), 'does not forward', 'next round'],
    ['a route to nobody', withPeers([], { way: refused, out: undefined }), 'no VpnPeer of this node', 'spec.routes'],
    [
      'a suspended peer',
      withPeers([suspended], { way: refused, out: undefined }),
      'spec.suspend is set',
      'spec.suspend',
    ],
    ['a device that is down', facts({ network: network({ out: out({ up: false }) }) }), 'is down', 'took it down'],
    [
      'a peer that is not connected',
      withPeers([waiting], { out: out({ peer: undefined }) }),
      'no peer with the VPN address 10.80.0.2; VpnPeer default/office has it, and is not Ready: NotConnected',
      'condition Ready of VpnPeer default/office',
    ],
    [
      'a server that is not connected',
      withPeers([waiting], { out: out({ mode: 'p2p', peer: undefined }) }),
      'the remote is not connected; VpnPeer default/office',
      'condition Ready',
    ],
    ['no key', facts({ network: network({ out: out({ peer: peer({ keys: [] }) }) }) }), 'no key to send', 'VpnKey'],
    [
      'the source check of the driver',
      facts({ network: network({ out: out({ sourceCheck: '10.80.0.9' }) }) }),
      'is behind 10.80.0.9',
      'no other route',
    ],
    [
      'an answer that goes elsewhere',
      facts({ network: network({ answer: { way: forward(), out: 'ovpn0' } }) }),
      'sent out of ovpn0, not out of veth1',
      'no other route',
    ],
  ])('%s', (_name, given, text, remedy) => {
    const { reaches, steps } = explain(given);
    expect(reaches).toBe(false);
    expect(steps.filter(({ result }) => result === 'stop')).toEqual([steps.at(-1)]);
    expect(steps.at(-1)?.text).toContain(text);
    expect(steps.at(-1)?.remedy).toContain(remedy);
  });

  test('the VpnPeer with the narrowest range is named', () => {
    const wide = peerReport({ name: 'default/wide', claims: ['192.168.0.0/16'] });
    const { steps } = explain(withPeers([wide, suspended], { way: refused, out: undefined }));
    expect(steps.at(-1)?.text).toContain('VpnPeer default/office has it');
  });
});

describe('what is only noted', () => {
  test.each<[string, NetworkFacts, string]>([
    ['another packet filter', network({ filterStands: false }), 'another packet filter'],
    ['a network that is not ready', network({ report: networkReport({ problem: 'no port' }) }), 'no port'],
    ['a silent peer', network({ out: out({ peer: peer({}, 0n, 0n) }) }), 'has sent nothing yet'],
    ['what cannot be authenticated', network({ out: out({ peer: peer({}, 0n, 4n) }) }), 'could not be authenticated'],
  ])('%s', (_name, given, text) => {
    const { reaches, steps } = explain(facts({ network: given }));
    expect(reaches).toBe(true);
    expect(steps.find(({ result }) => result === 'warn')?.text).toContain(text);
  });
});

test('a pod of the same node gets it directly', () => {
  const given = network({ way: forward(), out: out({ name: 'veth2', mode: undefined, peer: undefined }) });
  const other = { ...attachment, pod: 'shop/db', addresses: ['10.81.1.3'] };
  const report = networkReport({ attachments: [attachment, other] });
  const { steps } = explain({ destination: '10.81.1.3', pod: pod(), network: { ...given, report } });
  expect(steps.map(({ object }) => object)).toContain('pod shop/db');
});

test("the network's own address is answered by the node", () => {
  const { reaches, steps } = explain(facts({ network: network({ way: { kind: 'local' }, out: undefined }) }));
  expect(reaches).toBe(true);
  expect(steps.at(-1)?.text).toContain('this node answers');
});
