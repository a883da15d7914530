import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { peer, secret } from '../support/manifests.ts';
import { Office, officeNetwork, officePeer } from '../support/office.ts';
import { attempt, eventually, type Finished } from '../support/run.ts';
import { PingStream } from '../support/stream.ts';

/** A tunnel that works, traffic on it all the time, and every mistake beside it. */
let office: Office;
let stream: PingStream;
let settled: string;
beforeAll(async () => {
  office = await Office.open('inpt', { options: ['--resync', '1'] });
  office.agent.apply('other.yaml', other());
  await eventually('the other peer', () => office.kernel.peer(9));
  await eventually('its route in the pod', async () => (await podRoutes()).includes('10.99.0.0/16 via') || undefined);
  settled = await picture();
  stream = await PingStream.start(office.pod.netns, office.lan.ipv4);
});
afterAll(async () => {
  stream.kill();
  await office.close();
});

/** A peer whose key is not there: it is in the kernel, and waits. */
const other = (spec: object = {}, routes = ['10.99.0.0/16']): string =>
  peer({
    name: 'other',
    peerID: 9,
    endpoint: { address: '203.0.113.99', port: 1194 },
    addresses: ['10.80.0.9'],
    routes,
    key: 'nothing',
    spec,
  });

async function podRoutes(): Promise<string> {
  const { stdout } = await attempt('nsenter', [`--net=${office.pod.netns}`, 'sh', '-c', 'ip route; ip -6 route']);
  return stdout.split('\n').sort().join('\n');
}
const picture = async (): Promise<string> => `${await office.kernel.picture()}\n${await podRoutes()}`;

/** Everything that the agent complains of. */
async function complaints(): Promise<string> {
  const { rejections, networks } = await office.agent.report();
  return [
    ...rejections.flatMap(({ origin, errors }) => errors.map((error) => `${origin}: ${error}`)),
    ...networks.flatMap(({ problem, peers }) => [problem ?? '', ...peers.map(({ message }) => message)]),
  ].join('\n');
}

async function untilRounds(count: number): Promise<void> {
  const { netlink } = await office.agent.report();
  await office.agent.until('more rounds', (report) => report.netlink.rounds >= netlink.rounds + count);
}

async function unharmed(): Promise<void> {
  await stream.answers(10);
  expect(stream.result).toMatchObject({ lost: 0 });
  expect(await picture()).toBe(settled);
}

describe('a mistake in a manifest changes nothing and is named', () => {
  const restore = (): void => {
    office.agent.apply('peer.yaml', officePeer(office.remote.host));
    office.agent.apply('other.yaml', other());
    office.agent.apply('secret.yaml', secret('office', office.material));
    office.agent.apply('network.yaml', officeNetwork(office.agent.host));
  };

  test.each<[string, () => void, RegExp]>([
    [
      'an unknown field',
      () => office.agent.apply('peer.yaml', officePeer(office.remote.host, { rotues: [] })),
      /peer\.yaml: VpnPeer default\/office: spec\.rotues: .*\[OVPN102\]/,
    ],
    [
      'a range that is none',
      () => office.agent.apply('peer.yaml', officePeer(office.remote.host, {}, ['192.168.50.0/33'])),
      /peer\.yaml: VpnPeer default\/office: spec\.routes\[0\]: .*\[OVPN103\]/,
    ],
    [
      'an address outside the pool',
      () => office.agent.apply('peer.yaml', officePeer(office.remote.host, { addresses: ['10.90.0.2'] }, [])),
      /VpnPeer default\/office: spec\.addresses\[0\]: 10\.90\.0\.2 is outside .*10\.80\.0\.0\/24.*\[OVPN107\]/,
    ],
    [
      "a route inside another peer's",
      () => office.agent.apply('other.yaml', other({}, ['10.99.0.0/16', '192.168.50.128/25'])),
      /VpnPeer default\/other: spec\.routes\[1\]: 192\.168\.50\.128\/25 is taken by VpnPeer default\/office .*\[OVPN109\]/,
    ],
    [
      "another peer's id",
      () => office.agent.apply('other.yaml', other({ static: { peerID: 7 } })),
      /VpnPeer default\/other: spec\.static\.peerID: .* VpnPeer default\/office .*\[OVPN111\]/,
    ],
    [
      'a key of the wrong length',
      () => office.agent.apply('secret.yaml', secret('office', office.material.replace(/\n[0-9a-f]{32}\n/, '\n'))),
      /Secret default\/office: data\[static\.key\]: .*1920 bits.*\[OVPN202\]/,
    ],
    [
      'a missing Secret',
      () => office.agent.unapply('secret.yaml'),
      /VpnKey default\/office: spec\.static\.secretRef\.name: .*\[OVPN201\]/,
    ],
    ['broken YAML', () => office.agent.apply('peer.yaml', 'kind: [VpnPeer\n  :'), /peer\.yaml: .*\[OVPN101\]/],
    [
      'an empty document',
      () => office.agent.apply('network.yaml', 'kind: VpnNetwork\n'),
      /network\.yaml: .*\[OVPN10\d\]/,
    ],
    [
      'a pool that is none',
      () =>
        office.agent.apply(
          'network.yaml',
          officeNetwork(office.agent.host, { pools: { peers: ['10.80.0.0'], pods: [] } }),
        ),
      /network\.yaml: VpnNetwork corp: spec\.pools\.peers\[0\]: .*\[OVPN103\]/,
    ],
  ])('%s', async (_what, break_, complaint) => {
    break_();
    try {
      let last = '';
      await eventually('the complaint', async () => complaint.test((last = await complaints())) || undefined, {
        timeoutMs: 30_000,
      }).catch(() => expect(last).toMatch(complaint));
      await untilRounds(1);
      await unharmed();
    } finally {
      restore();
      await eventually('no complaint', async () => !complaint.test(await complaints()) || undefined);
      await unharmed();
    }
  });

  test('a file that goes takes its own peer along and nothing else', async () => {
    office.agent.unapply('other.yaml');
    await eventually('the peer is gone', () => office.kernel.peer(9) === undefined || undefined);
    await eventually(
      'its route in the pod is gone',
      async () => !(await podRoutes()).includes('10.99.0.0/16') || undefined,
    );
    expect(office.kernel.peers().map(({ id }) => id)).toEqual([7]);
    await stream.answers(10);
    expect(stream.result).toMatchObject({ lost: 0 });
    office.agent.apply('other.yaml', other());
    await eventually('the peer is back', () => office.kernel.peer(9));
    await eventually('its route in the pod', async () => (await podRoutes()).includes('10.99.0.0/16 via') || undefined);
    await unharmed();
  });

  test.each([
    ['the file of the peer that works', 'peer.yaml', () => officePeer(office.remote.host)],
    ['the file of the network', 'network.yaml', () => officeNetwork(office.agent.host)],
  ])('an agent that starts with a broken manifest removes nothing: %s', async (_what, file, good) => {
    await office.agent.stopAgent();
    office.agent.apply(file, 'kind: {');
    await office.agent.startAgent();
    const report = await office.agent.until('the complaint', ({ rejections }) => rejections.length > 0);
    expect(report.sourcesComplete).toBe(false);
    expect(report.rejections[0]?.errors[0]).toContain('[OVPN101]');
    if (file === 'peer.yaml') await untilRounds(2);
    await unharmed();
    office.agent.apply(file, good());
    await office.agent.until('the manifest is good', ({ rejections }) => rejections.length === 0);
    await untilRounds(2);
    await unharmed();
  });
});

/** The CNI error result with its two texts as one. */
function failureOf(stdout: string): { code: number; text: string } {
  const { code, msg, details } = JSON.parse(stdout) as { code: number; msg: string; details: string };
  return { code, text: `${msg}; ${details}` };
}

describe('a mistake in a call of the CNI plugin is named and changes nothing', () => {
  let netns: string;
  beforeAll(async () => {
    netns = await office.hosts.namespace('inpt-x');
  });

  test.each<[string, object, object]>([
    [
      'an unknown network',
      { network: 'nope' },
      { code: 11, text: expect.stringMatching(/VpnNetwork nope: .*\[OVPN503\]/) as unknown },
    ],
    [
      'an agent that is not there',
      { agentSocket: '/tmp/nobody.sock' },
      { code: 11, text: expect.stringMatching(/\/tmp\/nobody\.sock: .*\[OVPN401\]/) as unknown },
    ],
  ])('%s', async (_what, config, failure) => {
    const { code, stdout } = await office.agent.cni('ADD', { network: 'corp', containerId: 'inpt-x', netns, config });
    expect(code).toBe(1);
    expect(failureOf(stdout)).toMatchObject(failure);
    await unharmed();
  });

  test('a pod of a namespace that may not join', async () => {
    office.agent.apply(
      'network.yaml',
      officeNetwork(office.agent.host, { attach: { namespaces: { from: 'Names', names: ['default'] } } }),
    );
    const call = { network: 'corp', containerId: 'inpt-x', netns, podNamespace: 'strangers' };
    const failed = await eventually('the network is read', async () => {
      const { code, stdout } = await office.agent.cni('ADD', call);
      if (code !== 0) return failureOf(stdout);
      await office.agent.cni('DEL', call);
      return undefined;
    });
    expect(failed).toMatchObject({
      text: expect.stringMatching(/VpnNetwork corp: spec\.attach\.namespaces: .*strangers.*\[OVPN504\]/) as unknown,
    });
    await eventually('all is as before', async () => (await picture()) === settled || undefined);
    await unharmed();
  });

  test('the namespace of the host', async () => {
    const call = { network: 'corp', containerId: 'inpt-h', netns: `/run/netns/${office.agent.host.namespace}` };
    const { code, stdout } = await office.agent.cni('ADD', call);
    expect(code).toBe(1);
    expect(failureOf(stdout)).toMatchObject({
      text: expect.stringMatching(/host's own network namespace.*\[OVPN304\]/) as unknown,
    });
    await unharmed();
  });
});

describe('an agent that may not do its work says so and ends', () => {
  const start = async (...wrapper: string[]): Promise<Finished> => {
    const args = ['--manifests', office.agent.manifests, '--state', `${office.hosts.folder}/none`, '--holder', 'none'];
    const paths = ['--socket', `${office.hosts.folder}/none.sock`, '--netns', `${office.hosts.folder}/none-netns`];
    // Long: it starts from the sources, beside other tests.
    return attempt('timeout', [
      '120',
      ...wrapper,
      process.execPath,
      'operator/src/cli/ovpn-agent.ts',
      'run',
      ...args,
      ...paths,
    ]);
  };

  test.each([
    ['without a capability', ['setpriv', '--bounding-set=-net_admin'], /does not have CAP_NET_ADMIN;.*\[OVPN302\]/],
    [
      'in a user namespace of its own',
      ['unshare', '--user', '--map-root-user'],
      /user namespace of its own.*\[OVPN302\]/,
    ],
  ])('%s', async (_what, wrapper, message) => {
    const { code, stderr } = await start(...wrapper);
    expect(stderr).toMatch(message);
    expect(code).toBe(1);
    await unharmed();
  });
});
