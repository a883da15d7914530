import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AgentProcess, type Host, Hosts } from '../../support/hosts.ts';
import { key, network, newStaticKey, peer, secret } from '../../support/manifests.ts';
import { percentile, type Row, row, type SuiteContext } from '../suite.ts';
import { childrenCpuMs, cpuMs } from '../process-usage.ts';
import { Plugin, type Pod, referencePlugins, type Verb } from './cni-plugins.ts';

const runs = 30;
const rounds = 3;
const atOnce = 50;
const route = '192.168.10.0/24';
const peerPool = '10.80.0.0/24';
const podBlock = '10.81.0.0/23';
const mtu = 1400;

/** What is compared of one pod after another: the calls of its life, and what no pod is needed for. */
const verbs: readonly Verb[] = ['ADD', 'CHECK', 'DEL', 'STATUS', 'VERSION'];

/** Milliseconds of every call, by plugin and verb. */
type Times = ReadonlyMap<Plugin, Readonly<Record<Verb, number[]>>>;

/** The CNI binary with a running agent, beside the reference plugins and beside ip(8) doing the kernel's part. */
export async function cniSuite({ cni, progress }: SuiteContext): Promise<Row[]> {
  const hosts = await Hosts.create('bench');
  try {
    const host = await hosts.host('a');
    const agent = new AgentProcess(host);
    applyManifests(agent, host);
    await agent.start();
    await agent.untilReady('corp', 1);
    const ours = new Plugin({
      name: 'ovpn-cni',
      binary: cni,
      files: [cni],
      config: { cniVersion: '1.1.0', name: 'ovpn', type: 'ovpn-cni', network: 'corp', agentSocket: agent.socket },
      node: `/run/netns/${host.namespace}`,
      ...{ cniPath: '/opt/cni/bin', ifname: 'vpn0', folder: hosts.folder },
    });
    const reference = await hosts.host('b');
    const others = referencePlugins(hosts.folder, `/run/netns/${reference.namespace}`);
    const rows: Row[] = [];

    progress(`${runs} pods, one after the other`);
    const agentCpu = (): number => cpuMs(agent.agentPid ?? 0);
    const cpu = new Map([ours, ...others].map((plugin) => [plugin, 0]));
    const times = await oneByOne(hosts, [ours, ...others], (plugin, work) => {
      const before = childrenCpuMs() + (plugin === ours ? agentCpu() : 0);
      work();
      const after = childrenCpuMs() + (plugin === ours ? agentCpu() : 0);
      cpu.set(plugin, (cpu.get(plugin) ?? 0) + after - before);
    });
    rows.push(...verbs.flatMap((verb) => compared(verb, ours, others, times)));
    const perPod = (plugin: Plugin): number[] => [(cpu.get(plugin) ?? 0) / runs];
    for (const other of others) {
      rows.push(
        row('cni', 'cpu of the five calls of a pod', 'ms', {
          ours: perPod(ours),
          peer: perPod(other),
          peerName: `${other.name} (ours with the agent's)`,
        }),
      );
    }

    progress(`${atOnce} pods at once`);
    const pods = await makePods(hosts);
    rows.push(...(await together(pods, ours, others)));

    progress('size and memory');
    rows.push(...(await footprint(hosts, ours, others)));

    progress(`one more pod beside ${atOnce}`);
    rows.push(...(await besideMany(hosts, pods, ours, times)));

    progress(`${runs} times what the kernel does, by ip(8)`);
    rows.push(...(await besideIp(hosts, ours)));
    return rows;
  } finally {
    await hosts.remove();
  }
}

async function oneByOne(
  hosts: Hosts,
  plugins: readonly Plugin[],
  measured: (plugin: Plugin, work: () => void) => void,
): Promise<Times> {
  const times = new Map(
    plugins.map((plugin) => [plugin, { ADD: [], DEL: [], CHECK: [], STATUS: [], VERSION: [] }] as const),
  ) as Times;
  const spaces = await Promise.all(plugins.map((_, index) => hosts.namespace(`bench-one${index}`)));
  for (let run = 0; run < runs; run++) {
    // The calls below block: here the agent's log is read, before it fills its pipe.
    await sleep(10);
    plugins.forEach((plugin, index) => {
      // As a runtime does: a container id of its own for each pod.
      const pod = { id: `one${run}`, netns: spaces[index] ?? '' };
      measured(plugin, () => {
        for (const verb of verbs) times.get(plugin)?.[verb].push(plugin.call(verb, pod));
      });
    });
  }
  return times;
}

function compared(verb: Verb, ours: Plugin, others: readonly Plugin[], times: Times): Row[] {
  const of = (plugin: Plugin): number[] => times.get(plugin)?.[verb] ?? [];
  const rows: Row[] = [];
  for (const [name, share] of [
    ['p50', 0.5],
    ['p99', 0.99],
  ] as const) {
    for (const other of others) {
      const figures = { ours: [percentile(of(ours), share)], peer: [percentile(of(other), share)] };
      rows.push(row('cni', `${verb.toLowerCase()}.${name}`, 'ms', { ...figures, peerName: other.name }));
    }
  }
  return rows;
}

async function together(pods: readonly Pod[], ours: Plugin, others: readonly Plugin[]): Promise<Row[]> {
  const times = new Map([ours, ...others].map((plugin) => [plugin, { ADD: [] as number[], DEL: [] as number[] }]));
  for (let round = 0; round < rounds; round++) {
    for (const [plugin, { ADD, DEL }] of times) {
      ADD.push((await plugin.callAll('ADD', pods)) / atOnce);
      DEL.push((await plugin.callAll('DEL', pods)) / atOnce);
    }
  }
  return (['ADD', 'DEL'] as const).flatMap((verb) =>
    others.map((other) =>
      row('cni', `${verb.toLowerCase()}, ${atOnce} at once`, 'ms/pod', {
        ours: times.get(ours)?.[verb] ?? [],
        peer: times.get(other)?.[verb] ?? [],
        peerName: other.name,
      }),
    ),
  );
}

/** Pods for every plugin in turn: after DEL a namespace is as it was. */
async function makePods(hosts: Hosts): Promise<Pod[]> {
  const pods: Pod[] = [];
  for (let number = 0; number < atOnce; number++) {
    pods.push({ id: `many${number}`, netns: await hosts.namespace(`bench-many${number}`) });
  }
  return pods;
}

async function footprint(hosts: Hosts, ours: Plugin, others: readonly Plugin[]): Promise<Row[]> {
  const netns = await hosts.namespace('bench-foot');
  const peak = (plugin: Plugin): number[] =>
    [1, 2, 3].map((run) => {
      const pod = { id: `foot${run}`, netns };
      const kib = plugin.peakKiB('ADD', pod);
      plugin.call('DEL', pod);
      return kib;
    });
  const own = peak(ours);
  return others.flatMap((other) => [
    row('cni', 'files on disk', 'KiB', { ours: [ours.diskKiB], peer: [other.diskKiB], peerName: other.name }),
    row('cni', 'most memory of a process of add', 'KiB', { ours: own, peer: peak(other), peerName: other.name }),
  ]);
}

async function besideMany(hosts: Hosts, many: readonly Pod[], ours: Plugin, times: Times): Promise<Row[]> {
  await ours.callAll('ADD', many);
  const netns = await hosts.namespace('bench-more');
  const more = { ADD: [] as number[], DEL: [] as number[] };
  for (let run = 0; run < 30; run++) {
    await sleep(10);
    const pod = { id: `more${run}`, netns };
    more.ADD.push(ours.call('ADD', pod));
    more.DEL.push(ours.call('DEL', pod));
  }
  await ours.callAll('DEL', many);
  return (['ADD', 'DEL'] as const).map((verb) =>
    row('cni', `${verb.toLowerCase()}.p50 beside ${atOnce} pods`, 'ms', {
      ours: more[verb],
      peer: times.get(ours)?.[verb] ?? [],
      peerName: 'ours beside none',
    }),
  );
}

async function besideIp(hosts: Hosts, ours: Plugin): Promise<Row[]> {
  const netns = await hosts.namespace('bench-pod');
  const batches = await writeBatches(hosts);
  const times = { add: [] as number[], del: [] as number[], ipAdd: [] as number[], ipDel: [] as number[] };
  for (let run = 0; run < runs; run++) {
    await sleep(10);
    const pod = { id: `ip${run}`, netns };
    times.add.push(ours.call('ADD', pod));
    times.del.push(ours.call('DEL', pod));
    times.ipAdd.push(timed('sh', ['-c', batches.add]));
    times.ipDel.push(timed('sh', ['-c', batches.del]));
  }
  const peerName = (what: string): string => `ip -batch, ${what}: no checks, no address chosen, nothing written down`;
  return [
    row('cni', 'add.p50', 'ms', { ours: times.add, peer: times.ipAdd, peerName: peerName('one run per namespace') }),
    row('cni', 'del.p50', 'ms', { ours: times.del, peer: times.ipDel, peerName: peerName('one run') }),
  ];
}

function applyManifests(agent: AgentProcess, host: Host): void {
  const addresses = ['10.80.0.1'];
  agent.apply(
    'network.yaml',
    network({ node: host.name, addresses, peerPools: [peerPool], podBlocks: [podBlock], spec: { mtu } }),
  );
  const endpoint = { address: '203.0.113.99', port: 1194 };
  agent.apply('peer.yaml', peer({ name: 'office', peerID: 7, endpoint, addresses: ['10.80.0.2'], routes: [route] }));
  agent.apply('key.yaml', key({ name: 'office', direction: 'Normal' }));
  agent.apply('secret.yaml', secret('office', newStaticKey()));
}

/** What the agent makes for a pod (operator/src/agent/sandbox.ts), in two namespaces of their own. */
async function writeBatches(hosts: Hosts): Promise<{ add: string; del: string }> {
  const pod = 'bench-ip-pod';
  const far = 'bench-ip-net';
  for (const name of [pod, far]) await hosts.namespace(name);
  const destinations = [peerPool, podBlock, route];
  const refusing = destinations.map((destination) => `unreachable ${destination} metric 4294967294 proto 79`);
  const file = (name: string, lines: readonly string[]): string => {
    const path = join(hosts.folder, name);
    writeFileSync(path, lines.map((line) => `${line}\n`).join(''));
    return path;
  };
  const podAdd = file('pod-add', [
    `link add name vpn0 mtu ${mtu} type veth peer name far0 mtu ${mtu} netns ${far}`,
    'address add 10.81.0.2/32 dev vpn0',
    'link set vpn0 up',
    ...refusing.map((words) => `route add ${words}`),
    'route add 10.81.0.1/32 dev vpn0 proto 79',
    ...destinations.map((destination) => `route add ${destination} via 10.81.0.1 dev vpn0 proto 79`),
  ]);
  const farAdd = file('far-add', [
    'address add 10.81.0.1/32 dev far0',
    'link set far0 up',
    'route add 10.81.0.2/32 dev far0 proto 79',
  ]);
  const podDel = file('pod-del', ['link delete vpn0', ...refusing.map((words) => `route delete ${words}`)]);
  return {
    add: `ip -n ${pod} -batch ${podAdd} && ip -n ${far} -batch ${farAdd}`,
    del: `ip -n ${pod} -batch ${podDel}`,
  };
}

/** Milliseconds of a process that must succeed. */
function timed(command: string, args: readonly string[]): number {
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  const ms = performance.now() - start;
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} exited with ${String(status)}:\n${stderr}${stdout}`);
  return ms;
}
