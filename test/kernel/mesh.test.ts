import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { newServerWrapKey } from '../../operator/src/controller/profile/wrap-keys.ts';
import type { NodeReport } from '../../operator/src/agent/report.ts';
import { AgentProcess, type Host, Hosts, ping } from '../support/hosts.ts';
import { KernelView } from '../support/kernel-view.ts';
import { key, network, newStaticKey, peer, secret } from '../support/manifests.ts';
import { attachPod, type Pod, podAddress } from '../support/office.ts';
import { Pki } from '../support/pki.ts';
import { PlainRemote } from '../support/remote.ts';
import { eventually, run } from '../support/run.ts';
import { whilePinging } from '../support/stream.ts';

/** Three nodes of one network, each with an agent of its own and a pod; and an office that the first one has. */

interface Node {
  readonly agent: AgentProcess;
  readonly kernel: KernelView;
  readonly pod: Pod;
}

const names = ['a', 'b', 'c'] as const;
const pki = new Pki('corp CA 1');
const wrapKey = newServerWrapKey();
const material = newStaticKey();
let hosts: Hosts;
let nodes: Node[];

const entryOf = (host: Host, number: number): object => ({
  name: host.name,
  addresses: [`10.80.0.${number}`, `fd80::${number}`],
  podBlocks: [`10.81.${number}.0/24`, `fd81:0:0:${number}::/64`],
  underlayAddresses: [host.ipv4],
});

const meshNetwork = (entries: readonly object[], spec: object = {}): string =>
  network({
    ...{ node: '', addresses: [], podBlocks: [] },
    spec: {
      pools: { peers: ['10.80.0.0/24', 'fd80::/112'], pods: ['10.81.0.0/16', 'fd81::/48'] },
      nodes: entries,
      pki: { builtIn: {} },
      mesh: {},
      keyTransition: { seconds: 1 },
      ...spec,
    },
  });

const { cert, key: privateKey } = pki.server('corp');
const node = pki.client('node:corp');
const indented = (text: string): string => text.replaceAll(/^/gm, '    ');
const pkiSecret = `apiVersion: v1
kind: Secret
metadata: { name: corp.pki, namespace: ovpn-system }
stringData:
  tls.crt: |
${indented(cert)}
  tls.key: |
${indented(privateKey)}
  mesh.crt: |
${indented(node.cert)}
  mesh.key: |
${indented(node.key)}
  ca.crt: |
${indented(pki.ca)}
  tls-crypt-v2-server.key: |
${indented(wrapKey)}
`;

const office = (remote: Host): string =>
  peer({
    name: 'office',
    peerID: 7,
    endpoint: { address: remote.ipv4, port: 1194 },
    addresses: ['10.80.0.50', 'fd80::50'],
    routes: ['192.168.50.0/24', 'fd50::/64'],
    spec: { placement: { nodeSelector: { 'kubernetes.io/hostname': 'a' } } },
  });

const connectedTo =
  (count: number) =>
  ({ networks: [corp] }: NodeReport): boolean =>
    corp?.neighbours.filter(({ connected }) => connected).length === count && corp.neighbours.length === count;

beforeAll(async () => {
  hosts = await Hosts.create('mesh');
  const machines = [];
  for (const name of names) machines.push(await hosts.host(name));
  const remoteHost = await hosts.host('office');
  await run('ip', '-n', remoteHost.namespace, 'addr', 'add', '192.168.50.1/32', 'dev', 'lo');
  await run('ip', '-n', remoteHost.namespace, 'addr', 'add', 'fd50::1/128', 'dev', 'lo');
  await PlainRemote.create(remoteHost, {
    peerId: 7,
    addresses: ['10.80.0.50/24', 'fd80::50/112'],
    routes: ['10.81.0.0/16', 'fd81::/48'],
    endpoint: { address: machines[0]?.ipv4 ?? '', port: 1194 },
    material,
  });
  const entries = machines.map((host, i) => entryOf(host, i + 1));
  const agents = machines.map((host) => {
    const agent = new AgentProcess(host, ['--resync', '1']);
    agent.apply('network.yaml', meshNetwork(entries));
    agent.apply('pki.yaml', pkiSecret);
    agent.apply('key.yaml', key({ name: 'office', direction: 'Normal', generation: 1 }));
    agent.apply('secret.yaml', secret('office', material));
    agent.apply('peer.yaml', office(remoteHost));
    return agent;
  });
  await Promise.all(agents.map((agent) => agent.start()));
  await Promise.all(agents.map((agent) => agent.until('two neighbours', connectedTo(2))));
  nodes = await Promise.all(
    agents.map(async (agent, i) => ({
      agent,
      kernel: new KernelView(agent),
      pod: await attachPod(agent, `pod${i}`),
    })),
  );
});

afterAll(async () => {
  await hosts.remove();
  pki.remove();
});

const of = (name: (typeof names)[number]): Node => {
  const found = nodes[names.indexOf(name)];
  if (found === undefined) throw new Error(`no node ${name}`);
  return found;
};
const pairs = names.flatMap((from) => names.filter((to) => to !== from).map((to) => [from, to] as const));

describe('the nodes of a mesh', () => {
  test.each(pairs)('carry packets of the pod on %s to the one on %s and back', async (from, to) => {
    for (const family of [4, 6] as const) {
      const target = podAddress(of(to).pod, family);
      expect(await ping(of(from).pod.netns, target, { count: 3 })).toMatchObject({ received: 3 });
    }
  });

  test('have the same id for each other at both ends, as kernels before 7.1 need it', async () => {
    const ids = new Map<string, Set<number | undefined>>();
    for (const { agent } of nodes) {
      const report = await agent.report();
      for (const { node: other, peerId } of report.networks[0]?.neighbours ?? []) {
        const pair = [report.node, other].sort().join('-');
        ids.set(pair, (ids.get(pair) ?? new Set()).add(peerId));
      }
    }
    expect([...ids.keys()].sort()).toEqual(['a-b', 'a-c', 'b-c']);
    for (const pair of ids.values()) expect([...pair]).toEqual([expect.any(Number)]);
  });

  test.each(['b', 'c'] as const)(
    'reach from the pod on %s what is behind a peer that another node has',
    async (name) => {
      for (const target of ['192.168.50.1', 'fd50::1', '10.80.0.50'])
        expect(await ping(of(name).pod.netns, target, { count: 3 })).toMatchObject({ received: 3 });
    },
  );

  test('write nothing when nothing changes', async () => {
    const before = await Promise.all(nodes.map(({ agent }) => agent.report()));
    await Promise.all(
      nodes.map(({ agent }, i) =>
        agent.until('two more rounds', ({ netlink }) => netlink.rounds >= (before[i]?.netlink.rounds ?? 0) + 2),
      ),
    );
    const after = await Promise.all(nodes.map(({ agent }) => agent.report()));
    expect(after.map(({ netlink }) => netlink.writes)).toEqual(before.map(({ netlink }) => netlink.writes));
  });
});

/** Sessions of an earlier process renegotiate soon: a second key may have come by then. */
const withoutKeys = (picture: string): string => picture.replaceAll(/^keys of .*\n?/gm, '');

describe('an agent starts anew', () => {
  test.each(names)('on %s, and no packet between the pods is lost', async (name) => {
    const { agent, kernel } = of(name);
    const other = of(name === 'a' ? 'b' : 'a');
    const picture = withoutKeys(await kernel.picture());
    const stream = await whilePinging(other.pod.netns, podAddress(of(name).pod, 4), async () => {
      await agent.stopAgent('SIGKILL');
      await agent.startAgent();
      await agent.until('its neighbours again', connectedTo(2));
    });
    expect(stream).toMatchObject({ lost: 0 });
    expect(withoutKeys(await kernel.picture())).toBe(picture);
  });
});

describe('a node leaves the network', () => {
  test('its neighbours let go of it and of nothing else, and its pods are unreachable', async () => {
    const [a, b] = [of('a'), of('b')];
    const entries = names.slice(0, 2).map((name, i) => entryOf(of(name).agent.host, i + 1));
    const stream = await whilePinging(a.pod.netns, podAddress(b.pod, 4), async () => {
      for (const { agent } of [a, b]) agent.apply('network.yaml', meshNetwork(entries));
      await Promise.all([a, b].map(({ agent }) => agent.until('one neighbour', connectedTo(1))));
    });
    expect(stream).toMatchObject({ lost: 0 });
    const target = podAddress(of('c').pod, 4);
    expect(await ping(a.pod.netns, target, { count: 1, deadline: 2 })).toMatchObject({ received: 0 });
    const routes = await eventually('the routes to it go', async () => {
      const text = await a.kernel.picture();
      return text.includes('10.81.3.0/24') ? undefined : text;
    });
    expect(routes).toContain('10.81.2.0/24');
  });

  test('and comes back', async () => {
    const entries = names.map((name, i) => entryOf(of(name).agent.host, i + 1));
    for (const name of ['a', 'b'] as const) of(name).agent.apply('network.yaml', meshNetwork(entries));
    // Its own connections ended meanwhile: what it dials comes again by itself, after its keepalive at the latest.
    await Promise.all(nodes.map(({ agent }) => agent.until('two neighbours', connectedTo(2), 90_000)));
    const target = podAddress(of('c').pod, 6);
    expect(await ping(of('a').pod.netns, target, { count: 3 })).toMatchObject({ received: 3 });
  });
});
