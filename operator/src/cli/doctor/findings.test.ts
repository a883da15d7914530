import { describe, expect, test } from '@jest/globals';
import { namespaceSysctls } from '../../agent/diff.ts';
import type { NetworkReport, NodeReport } from '../../agent/report.ts';
import { doctorText } from '../doctor.ts';
import type { NodeFacts } from './facts.ts';
import { findings } from './findings.ts';

const network: NetworkReport = {
  name: 'corp',
  namespace: 'ovpn-corp',
  netns: '/run/netns/ovpn-corp',
  device: 'ovpn0',
  mtu: 1416,
  addresses: [],
  listeners: ['udp 0.0.0.0:1194', 'tcp [::]:443'],
  problem: undefined,
  peers: [],
  neighbours: [],
  attachments: [],
};
const report = (fields: Partial<NodeReport> = {}): NodeFacts['report'] => ({
  known: {
    node: 'n1',
    sourcesComplete: true,
    netlink: { writes: 0, rounds: 1 },
    lease: undefined,
    rejections: [],
    networks: [network],
    ...fields,
  },
});
const checks = (changes: readonly (readonly [string, string | undefined])[] = [], filter = true) =>
  new Map([
    ['corp', { sysctls: { known: new Map([...namespaceSysctls, ...changes]) }, filterStands: { known: filter } }],
  ]);
const facts = (fields: Partial<NodeFacts> = {}): NodeFacts => ({
  privileges: { known: true },
  release: '7.1.0',
  driver: { known: { present: true, transmitIds: true } },
  packetFilter: { known: true },
  clock: { known: true },
  state: { folder: '/state', space: { known: { refused: undefined, freeBytes: 1 << 30 } } },
  holder: { socket: '/holder.sock', sockets: { known: ['corp/udp'] } },
  cni: {
    binFolder: '/bin',
    confFolder: '/conf',
    mode: undefined,
    installed: { known: { plugin: true, list: '10-main.conflist', chained: true } },
  },
  report: report(),
  underlayMtu: { known: 1500 },
  ports: { known: new Set(['udp 1194', 'tcp 443']) },
  networks: checks(),
  ...fields,
});
const space = (freeBytes: number, refused?: string): NodeFacts['state'] => ({
  folder: '/state',
  space: { known: { refused, freeBytes } },
});
const cni = (
  plugin: boolean,
  list: string | undefined,
  chained: boolean,
  mode?: 'file' | 'chain',
): NodeFacts['cni'] => ({
  ...facts().cni,
  mode,
  installed: { known: { plugin, list, chained } },
});

test('a node with which all is well has only good findings, one for each thing looked at', () => {
  const found = findings(facts());
  expect(found.filter(({ severity }) => severity !== 'ok')).toEqual([]);
  expect(found.map(({ check }) => check)).toEqual([
    ...['privileges', 'ovpn-driver', 'packet-filter', 'clock', 'state-folder', 'socket-holder', 'cni-plugin', 'agent'],
    ...['network', 'sysctls', 'filter', 'mtu', 'listener', 'listener'],
  ]);
});

test.each<[string, Partial<NodeFacts>, string, string]>([
  ['no driver', { driver: { known: { present: false, transmitIds: false } } }, 'error ovpn-driver', 'no ovpn driver'],
  [
    'an old driver',
    { driver: { known: { present: true, transmitIds: false } } },
    'warning ovpn-driver',
    'transmit ids',
  ],
  ['a free-running clock', { clock: { known: false } }, 'warning clock', 'certificates'],
  ['a state folder that cannot be written', { state: space(1e9, 'EROFS') }, 'error state-folder', 'EROFS'],
  ['a full disk', { state: space(1000) }, 'error state-folder', '0 MiB'],
  ['little space', { state: space(10 << 20) }, 'warning state-folder', '10 MiB'],
  ['no holder', { holder: undefined }, 'warning socket-holder', 'when it is replaced'],
  [
    'a holder that does not answer',
    { holder: { socket: '/h', sockets: { unknown: 'ECONNREFUSED' } } },
    'error socket-holder',
    'ECONNREFUSED',
  ],
  ['no plugin', { cni: cni(false, '10-main.conflist', false) }, 'error cni-plugin', 'is not there'],
  ['no main plugin', { cni: cni(true, undefined, false) }, 'warning cni-plugin', 'no configuration list'],
  ['no chain', { cni: cni(true, '10-main.conflist', false) }, 'warning cni-plugin', 'does not name it'],
  [
    'no chain where one was made',
    { cni: cni(true, '10-main.conflist', false, 'chain') },
    'error cni-plugin',
    'does not name it',
  ],
  ['no agent', { report: { unknown: 'ENOENT' } }, 'error agent', 'ENOENT'],
  ['unread resources', { report: report({ sourcesComplete: false }) }, 'warning resources', 'not read all'],
  [
    'a refused object',
    { report: report({ rejections: [{ origin: 'a.yaml', object: 'VpnPeer a/b', errors: ['bad'] }] }) },
    'error resources',
    'bad',
  ],
  [
    'a broken network',
    { report: report({ networks: [{ ...network, problem: 'no port' }] }) },
    'error network',
    'no port',
  ],
  ['a changed sysctl', { networks: checks([['net.ipv4.ip_forward', '0']]) }, 'error sysctls', 'is 0, not 1'],
  ['another filter', { networks: checks([], false) }, 'error filter', 'another packet filter'],
  ['a narrow path', { underlayMtu: { known: 1400 } }, 'warning mtu', 'room for 1316'],
  ['a port that nobody has', { ports: { known: new Set(['udp 1194', 'udp 443']) } }, 'error listener', 'tcp [::]:443'],
])('%s', (_name, fields, what, text) => {
  const bad = findings(facts(fields)).filter(({ severity }) => severity !== 'ok');
  expect(bad.map(({ severity, check }) => `${severity} ${check}`)).toEqual([what]);
  expect(bad[0]?.text).toContain(text);
  expect(bad[0]?.remedy).toBeTruthy();
});

describe('what could not be looked at', () => {
  test('is neither well nor ill', () => {
    const found = findings(
      facts({
        driver: { unknown: 'EPERM' },
        clock: { unknown: 'EPERM' },
        ports: { unknown: 'EACCES' },
        underlayMtu: { unknown: 'EPERM' },
        cni: { ...facts().cni, installed: { unknown: 'there is no /bin here' } },
      }),
    );
    expect(
      found.filter(({ severity }) => severity !== 'ok').map(({ severity, check }) => `${severity} ${check}`),
    ).toEqual([
      ...['unchecked ovpn-driver', 'unchecked clock', 'unchecked cni-plugin', 'unchecked mtu'],
      ...['unchecked listener', 'unchecked listener'],
    ]);
  });

  test('sysctls that the kernel does not have are no fault', () => {
    const found = findings(facts({ networks: checks([['net.ipv6.conf.all.forwarding', undefined]]) }));
    expect(found.find(({ check }) => check === 'sysctls')).toMatchObject({ severity: 'ok' });
  });
});

test('the text begins with the worst, and ends with what to do', () => {
  const text = doctorText(findings(facts({ clock: { known: false }, report: { unknown: 'ENOENT' } })));
  const lines = text.split('\n');
  expect(lines[1]).toMatch(/^ERROR +agent/);
  expect(lines[2]).toMatch(/^WARNING +clock/);
  expect(text).toContain('clock, node: to mend it: run an NTP client');
});

test('a plugin for Multus needs no chain', () => {
  const found = findings(facts({ cni: cni(true, undefined, false, 'file') }));
  expect(found.find(({ check }) => check === 'cni-plugin')).toMatchObject({ severity: 'ok' });
});
