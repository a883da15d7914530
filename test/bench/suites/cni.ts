import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AgentProcess, type Host, Hosts } from '../../support/hosts.ts';
import { key, network, newStaticKey, peer, secret } from '../../support/manifests.ts';
import { type Row, row, type SuiteContext } from '../suite.ts';

const runs = 30;
const route = '192.168.10.0/24';
const peerPool = '10.80.0.0/24';
const podBlock = '10.81.0.0/24';
const mtu = 1400;

/** One pod attached and detached by the CNI binary, against the same interfaces and routes by ip(8). */
export async function cniSuite({ cni, progress }: SuiteContext): Promise<Row[]> {
  const hosts = await Hosts.create('bench');
  try {
    const host = await hosts.host('a');
    const agent = new AgentProcess(host);
    applyManifests(agent, host);
    await agent.start();
    await agent.untilReady('corp', 1);
    const pod = await hosts.namespace('bench-pod');
    // As a runtime does: a container id of its own for each pod.
    const plugin = (command: 'ADD' | 'DEL', run: number): number =>
      timed(cni, [], JSON.stringify({ ...config, agentSocket: agent.socket }), {
        CNI_COMMAND: command,
        CNI_CONTAINERID: `bench${run}`,
        CNI_NETNS: pod,
        CNI_IFNAME: 'vpn0',
        CNI_PATH: '/opt/cni/bin',
        CNI_ARGS: 'K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench',
      });
    const batches = await writeBatches(hosts);
    const times = { add: [] as number[], del: [] as number[], ipAdd: [] as number[], ipDel: [] as number[] };
    progress(`${runs} runs of ADD and DEL`);
    for (let run = 0; run < runs; run++) {
      // The calls below block: here the agent's log is read, before it fills its pipe.
      await sleep(20);
      times.add.push(plugin('ADD', run));
      times.del.push(plugin('DEL', run));
      times.ipAdd.push(timed('sh', ['-c', batches.add]));
      times.ipDel.push(timed('sh', ['-c', batches.del]));
    }
    const peerName = (what: string): string => `ip -batch, ${what}: no checks, no address chosen, nothing written down`;
    return [
      row('cni', 'ADD, p50', 'ms', { ours: times.add, peer: times.ipAdd, peerName: peerName('one run per namespace') }),
      row('cni', 'DEL, p50', 'ms', { ours: times.del, peer: times.ipDel, peerName: peerName('one run') }),
    ];
  } finally {
    await hosts.remove();
  }
}

const config = { cniVersion: '1.0.0', name: 'ovpn', type: 'ovpn-cni', network: 'corp' };

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
function timed(command: string, args: readonly string[], input = '', env: NodeJS.ProcessEnv = {}): number {
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(command, args, {
    input,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  const ms = performance.now() - start;
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} exited with ${String(status)}:\n${stderr}${stdout}`);
  return ms;
}
