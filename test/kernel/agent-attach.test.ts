import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  type AddRequest,
  type AddResult,
  type AgentRequest,
  type Attachment,
  detachFolder,
  protocolVersion as version,
} from '../../operator/src/agent/attach-protocol.ts';
import { callAgent } from '../support/agent-socket.ts';
import { Capture } from '../support/capture.ts';
import { ping } from '../support/hosts.ts';
import { network } from '../support/manifests.ts';
import { Office } from '../support/office.ts';
import { attempt, eventually, run } from '../support/run.ts';

/** What the agent does for the CNI plugin, asked over its socket. The rounds are rare, so that nothing is mended unseen. */
let office: Office;
beforeAll(async () => {
  office = await Office.open('att', { options: ['--resync', '3600'] });
}, 120_000);
afterAll(async () => {
  await office.close();
}, 120_000);

const corp = (): string => join(office.agent.netns, 'ovpn-corp');
const inside = (netns: string, ...command: string[]): Promise<string> => run('nsenter', `--net=${netns}`, ...command);
const ask = (request: AgentRequest): Promise<unknown> => callAgent(office.agent.socket, request);
const call = (containerId: string) => ({ config: 'ovpn', containerId, cniIfname: 'vpn0' });
const attached = async (): Promise<string[]> =>
  ((await office.agent.report()).networks.find(({ name }) => name === 'corp')?.attachments ?? []).map(
    ({ containerId }) => containerId,
  );

async function add(containerId: string, fields: Partial<AddRequest> = {}): Promise<readonly Attachment[]> {
  const netns = fields.netns ?? (await office.hosts.namespace(containerId));
  const request = { version, op: 'add', ...call(containerId), ifname: 'vpn0', netns, ...fields } as const;
  return ((await ask(request)) as AddResult).attachments;
}
const del = (containerId: string): Promise<unknown> => ask({ version, op: 'del', ...call(containerId) });
const own = ({ addresses }: Attachment, family: 4 | 6): string =>
  addresses.map(({ address }) => address.split('/')[0] ?? '').find((each) => each.includes(':') === (family === 6)) ??
  '';

describe('what a pod sends', () => {
  test.each([4, 6] as const)(
    'from an address that is not its own goes nowhere: IPv%i',
    async (family) => {
      const neighbour = await add(`att-n${family}`, { network: 'corp' });
      const forged = own(neighbour[0]!, family);
      const { netns } = office.pod;
      const lan = family === 4 ? office.lan.ipv4 : office.lan.ipv6;
      const prefix = family === 4 ? 32 : 128;
      const flags = family === 4 ? [] : ['nodad'];
      await inside(netns, 'ip', 'addr', 'add', `${forged}/${prefix}`, 'dev', 'vpn0', ...flags);
      const capture = await Capture.start(corp(), 'ovpn0', `host ${forged}`);
      try {
        await attempt('nsenter', [
          `--net=${netns}`,
          'ping',
          '-n',
          '-c',
          '3',
          '-i',
          '0.2',
          '-W',
          '1',
          '-I',
          forged,
          lan,
        ]);
        expect(capture.packets).toEqual([]);
      } finally {
        await inside(netns, 'ip', 'addr', 'del', `${forged}/${prefix}`, 'dev', 'vpn0');
      }
      // With its true address the neighbour gets through: the capture sees that much.
      expect(await ping(neighbour[0]!.netns, lan, { count: 2 })).toMatchObject({ received: 2 });
      await eventually('the witness', () => capture.packets.length >= 2 || undefined);
      await capture.stop();
      await del(`att-n${family}`);
    },
    120_000,
  );

  test.each([4, 6] as const)(
    'announces TCP segments that fit, whatever the pod wants: IPv%i',
    async (family) => {
      const { netns } = office.pod;
      const [lan, gateway, header, prefix] =
        family === 4 ? [office.lan.ipv4, '10.81.1.1', 40, 32] : [office.lan.ipv6, 'fd81::1', 60, 128];
      await inside(netns, 'ip', 'route', 'add', `${lan}/${prefix}`, 'via', gateway, 'dev', 'vpn0', 'advmss', '9000');
      await inside(netns, 'ip', 'link', 'set', 'vpn0', 'mtu', '9000');
      const capture = await Capture.start(corp(), 'ovpn0', `host ${lan} and (tcp or ip6)`);
      try {
        // Nobody listens there: each try is one SYN that is answered by a reset.
        const connect = `require('node:net').connect(9, '${lan}').on('error', ({ code }) => console.log(code)).setTimeout(5000, process.exit)`;
        const answers: string[] = [];
        const syn = await eventually('a SYN', async () => {
          answers.push(await inside(netns, process.execPath, '-e', connect));
          return capture.packets.find((line) => line.includes('Flags [S]'));
        }).catch((error: unknown) => {
          throw new Error(`${String(error)}; ${answers.join('')}${capture.packets.join('\n')}`, { cause: error });
        });
        expect(answers.at(-1)?.trim()).toBe('ECONNREFUSED');
        expect(syn).toContain(`mss ${1416 - header},`);
      } finally {
        await capture.stop();
        await inside(netns, 'ip', 'link', 'set', 'vpn0', 'mtu', '1416');
        await inside(netns, 'ip', 'route', 'del', `${lan}/${prefix}`, 'via', gateway, 'dev', 'vpn0');
      }
    },
    120_000,
  );

  test.each([4, 6] as const)(
    'learns of a narrow path behind the peer: IPv%i',
    async (family) => {
      const remote = office.remote.host.namespace;
      const lan = `att-l${family}`;
      const [host, router, prefix] =
        family === 4 ? ['10.77.0.2', '10.77.0.1', 24] : ['fd50:0:0:0:7::2', 'fd50:0:0:0:7::1', 80];
      const target = family === 4 ? '192.168.50.77' : host;
      await office.hosts.namespace(lan);
      const ip = (namespace: string, ...args: string[]): Promise<string> => run('ip', '-n', namespace, ...args);
      await ip(
        remote,
        'link',
        'add',
        `lan${family}`,
        'mtu',
        '1300',
        'type',
        'veth',
        'peer',
        'name',
        'eth0',
        'mtu',
        '1300',
        'netns',
        lan,
      );
      for (const [name, device, address] of [
        [remote, `lan${family}`, router],
        [lan, 'eth0', host],
      ] as const) {
        await ip(name, 'addr', 'add', `${address}/${prefix}`, 'dev', device, ...(family === 6 ? ['nodad'] : []));
        await ip(name, 'link', 'set', device, 'up');
      }
      if (family === 4) {
        await ip(lan, 'addr', 'add', `${target}/32`, 'dev', 'eth0');
        await ip(remote, 'route', 'add', `${target}/32`, 'via', host);
      }
      await ip(lan, ...(family === 6 ? ['-6'] : []), 'route', 'add', 'default', 'via', router);
      await inside(`/run/netns/${remote}`, 'sysctl', '-qw', `net.ipv${family}.conf.all.forwarding=1`);
      const send = async (bytes: number): Promise<string> =>
        (
          await attempt('nsenter', [
            ...[
              `--net=${office.pod.netns}`,
              'ping',
              '-n',
              '-M',
              'do',
              '-c',
              '3',
              '-i',
              '0.2',
              '-W',
              '2',
              '-s',
              `${bytes}`,
            ],
            target,
          ])
        ).stdout;
      const header = family === 4 ? 28 : 48;
      expect(await send(1300 - header)).toContain(' 3 received');
      expect(await send(1301 - header)).toMatch(/mtu ?= ?1300|too long, mtu=1300|Packet too big: mtu=1300/i);
    },
    120_000,
  );

  test('over IPv6 goes out at once: no address waits for duplicate address detection', async () => {
    const netns = await office.hosts.namespace('att-dad');
    const [attachment] = await add('att-dad', { network: 'corp', netns });
    const { stdout } = await attempt('nsenter', [
      `--net=${netns}`,
      'ping',
      '-n',
      '-c',
      '1',
      '-W',
      '5',
      office.lan.ipv6,
    ]);
    expect(stdout).toContain(' 1 received');
    // Neighbour discovery without an answer at the first try costs a second.
    expect(Number(/time=([\d.]+) ms/.exec(stdout)?.[1])).toBeLessThan(900);
    expect(attachment?.addresses).toHaveLength(2);
    await del('att-dad');
  }, 120_000);
});

describe('CHECK', () => {
  let netns: string;
  let attachment: Attachment;
  const check = (): Promise<unknown> =>
    ask({
      ...{ version, op: 'check', ...call('att-c'), network: 'corp', ifname: 'vpn0', netns },
      expected: [
        { ifname: 'eth0', addresses: ['10.244.0.9/24'] },
        { ifname: 'vpn0', mac: attachment.mac, addresses: attachment.addresses.map(({ address }) => address) },
      ],
    });

  beforeAll(async () => {
    netns = await office.hosts.namespace('att-c');
    [attachment] = (await add('att-c', { network: 'corp', netns })) as [Attachment];
  });

  test('is content with what ADD made', async () => {
    await expect(check()).resolves.toEqual({});
  });

  test.each<[string, (far: string) => Promise<unknown>, string, string?]>([
    ['an interface that is down', () => inside(netns, 'ip', 'link', 'set', 'vpn0', 'down'), 'vpn0 is down'],
    ['another MTU', () => inside(netns, 'ip', 'link', 'set', 'vpn0', 'mtu', '1300'), 'vpn0 has MTU 1300'],
    [
      'another MAC address',
      () => inside(netns, 'ip', 'link', 'set', 'vpn0', 'address', '02:00:00:00:00:99'),
      'has MAC 02:',
    ],
    [
      'a lost address',
      () => inside(netns, 'ip', 'addr', 'del', own(attachment, 4), 'dev', 'vpn0'),
      'lacks address 10.81.1.',
    ],
    [
      'a lost route',
      () => inside(netns, 'ip', 'route', 'del', '192.168.50.0/24', 'via', '10.81.1.1'),
      'no route 192.168.50.0/24 via',
    ],
    [
      'a lost refusal',
      () => inside(netns, 'ip', '-6', 'route', 'del', 'unreachable', 'fd50::/64', 'dev', 'lo'),
      'no route unreachable fd50::/64',
    ],
    ['a far end that is down', (far) => inside(corp(), 'ip', 'link', 'set', far, 'down'), 'is down'],
    [
      'a lost gateway',
      (far) => inside(corp(), 'ip', 'addr', 'del', '10.81.1.1/32', 'dev', far),
      'lacks address 10.81.1.1/32',
    ],
    [
      'a lost way back',
      () => inside(corp(), 'ip', 'route', 'del', `${own(attachment, 4)}/32`),
      "in the network's namespace",
    ],
    ['a packet filter without rules', () => inside(corp(), 'nft', 'flush', 'ruleset'), 'packet filter'],
    ['a lost interface', () => inside(netns, 'ip', 'link', 'del', 'vpn0'), 'vpn0 is not there'],
  ])(
    'tells of %s, and ADD mends it',
    async (_name, break_, says) => {
      await break_(attachment.hostInterface.name);
      await expect(check()).rejects.toThrow(says);
      if (says === 'has MAC 02:') await inside(netns, 'ip', 'link', 'set', 'vpn0', 'address', attachment.mac);
      // Another agent's start is a round, which mends what belongs to the network as a whole.
      if (says === 'packet filter') {
        await office.agent.stopAgent('SIGKILL');
        await office.agent.startAgent();
        await office.agent.untilReady('corp', 1);
      }
      await add('att-c', { network: 'corp', netns });
      await expect(check()).resolves.toEqual({});
    },
    60_000,
  );
});

describe('attachments that nobody takes away', () => {
  test('go with a GC that does not list them', async () => {
    await add('att-g1', { network: 'corp' });
    await add('att-g2', { network: 'corp' });
    const valid = (await attached())
      .filter((id) => id !== 'att-g1')
      .map((containerId) => ({ containerId, cniIfname: 'vpn0' }));
    await ask({ version, op: 'gc', config: 'ovpn', valid });
    expect(await attached()).not.toContain('att-g1');
    expect(await attached()).toContain('att-g2');
    expect(await inside('/run/netns/att-g1', 'ip', '-br', 'link')).not.toContain('vpn0');
    await del('att-g2');
  }, 120_000);

  test('go when their sandbox is gone and the agent starts, and a new sandbox at its path is left alone', async () => {
    const before = await attached();
    await add('att-x1', { network: 'corp' });
    await add('att-x2', { network: 'corp' });
    await office.agent.stopAgent('SIGKILL');
    for (const name of ['att-x1', 'att-x2']) await run('ip', 'netns', 'del', name);
    await run('ip', 'netns', 'add', 'att-x2');
    await eventually(
      'the pairs are gone',
      async () =>
        (await inside(corp(), 'ip', '-br', 'link')).split('\n').filter((line) => line.startsWith('veth')).length ===
          before.length || undefined,
    );
    await office.agent.startAgent();
    expect(
      await office.agent.until(
        'they are collected',
        ({ networks }) => networks[0]?.attachments.length === before.length,
      ),
    ).toBeDefined();
    expect(await inside('/run/netns/att-x2', 'ip', '-br', 'link')).not.toContain('vpn0');
    expect(await inside('/run/netns/att-x2', 'ip', 'route')).toBe('');
  }, 120_000);

  test('go by the DEL that the plugin left while the agent was away', async () => {
    const before = await attached();
    const netns = await office.hosts.namespace('att-t');
    await add('att-t', { network: 'corp', netns });
    await office.agent.stopAgent('SIGKILL');
    const folder = join(dirname(office.agent.socket), detachFolder);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(join(folder, 'one.json'), JSON.stringify({ version, op: 'del', ...call('att-t') }));
    await office.agent.startAgent();
    await office.agent.untilReady('corp', 1);
    await eventually(
      'it is served',
      async () => JSON.stringify(await attached()) === JSON.stringify(before) || undefined,
    );
    expect(await inside(netns, 'ip', '-br', 'link')).not.toContain('vpn0');
    expect((await attempt('ls', [folder])).stdout).toBe('');
  }, 120_000);
});

describe('pods that the manifests know', () => {
  const pod = { namespace: 'shop', name: 'web-0' };

  beforeAll(async () => {
    const { agent } = office;
    const lab = { addresses: ['10.90.0.1'], peerPools: ['10.90.0.0/24'], podBlocks: ['10.91.1.0/24'], port: 1195 };
    const spec = { attach: { namespaces: { from: 'All' }, podSelector: { matchLabels: { lab: 'yes' } } } };
    agent.apply('lab.yaml', network({ name: 'lab', node: agent.host.name, ...lab, spec }));
    await agent.until('lab', ({ networks }) =>
      networks.some(({ name, device }) => name === 'lab' && device !== undefined),
    );
  });

  async function describePod(labels: object, annotations: object): Promise<void> {
    const manifest = { apiVersion: 'v1', kind: 'Pod', metadata: { ...pod, labels, annotations } };
    office.agent.apply('pod.json', JSON.stringify(manifest));
    // The folder is read a moment after it was written.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }

  test('join the networks that they name, and reach both', async () => {
    await describePod({ lab: 'yes' }, { 'ovpn-operator.io/networks': 'lab,corp' });
    const attachments = await eventually('both', async () => {
      const found = await add('att-p1', { ifname: 'vpn', netns: '/run/netns/att-p1', pod }).catch(() => undefined);
      if (found === undefined) await office.hosts.namespace('att-p1').catch(() => undefined);
      return found?.length === 2 ? found : undefined;
    });
    expect(attachments.map(({ ifname, network: name }) => [ifname, name])).toEqual([
      ['vpn0', 'lab'],
      ['vpn1', 'corp'],
    ]);
    expect(await ping('/run/netns/att-p1', office.lan.ipv4, { count: 2 })).toMatchObject({ received: 2 });
    await del('att-p1');
    expect(await inside('/run/netns/att-p1', 'ip', 'route')).toBe('');
  }, 120_000);

  test('join by themselves what selects them, and nothing else', async () => {
    await describePod({ lab: 'yes' }, {});
    const netns = await office.hosts.namespace('att-p2');
    const chosen = await eventually('lab', async () => {
      const found = await add('att-p2', { ifname: 'vpn', netns, pod });
      return found.length === 1 ? found : undefined;
    });
    expect(chosen[0]).toMatchObject({ ifname: 'vpn0', network: 'lab' });
    await del('att-p2');
    expect(await add('att-p3', { ifname: 'vpn', netns, pod: { ...pod, name: 'unknown' } })).toEqual([]);
    await expect(add('att-p3', { network: 'lab', netns, pod: { ...pod, name: 'unknown' } })).rejects.toThrow('OVPN504');
  }, 120_000);
});

test('an agent says whether it can serve', async () => {
  await expect(ask({ version, op: 'status' })).resolves.toEqual({ state: 'ready' });
  await expect(ask({ version, op: 'status', network: 'corp' })).resolves.toEqual({ state: 'ready' });
  await expect(ask({ version, op: 'status', network: 'moon' })).resolves.toMatchObject({ state: 'unavailable' });
});
