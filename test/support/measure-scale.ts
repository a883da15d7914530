import { existsSync, writeFileSync } from 'node:fs';
import { AgentProcess, Hosts } from './hosts.ts';
import { KernelView } from './kernel-view.ts';
import { key, network, newStaticKey, peer, secret } from './manifests.ts';
import { attachDirectly, detachDirectly } from './office.ts';
import { eventually } from './run.ts';

/**
 * How one agent does with many peers. Prints numbers and asserts nothing:
 *
 *   npm run -s lab -- --kernel uml -- node test/support/measure-scale.ts 1000
 */
const count = Number(process.argv[2] ?? 1000);
const say = (what: string, since: number): void => {
  process.stdout.write(`${what}: ${Math.round(performance.now() - since)} ms\n`);
};
// Each release of a peer waits for an RCU grace period.
if (existsSync('/sys/kernel/rcu_expedited')) writeFileSync('/sys/kernel/rcu_expedited', '1');

const hosts = await Hosts.create('scal');
const node = await hosts.host('node');
const agent = new AgentProcess(node);
const kernel = new KernelView(agent);
const materials = Array.from({ length: count + 1 }, newStaticKey);
const manifest = (i: number, port = 1194): string => {
  const name = `p${i}`;
  const spec = {
    name,
    peerID: i,
    endpoint: { address: `198.51.${100 + (i >> 8)}.${i & 255}`, port },
    addresses: [`10.80.${(i + 256) >> 8}.${i & 255}`],
    routes: [`10.90.${i >> 8}.${i & 255}/32`],
  };
  return [peer(spec), key({ name, direction: 'Normal' }), secret(name, materials[i] ?? '')].join('---\n');
};
try {
  const pools = ['10.80.0.0/16'];
  agent.apply(
    'network.yaml',
    network({ node: node.name, addresses: ['10.80.0.1'], podBlocks: ['10.81.1.0/24'], peerPools: pools }),
  );
  for (let i = 1; i <= count; i++) agent.apply(`p${i}.yaml`, manifest(i));
  agent.startHolder();
  let start = performance.now();
  const starting = agent.startAgent();
  await eventually('all peers have keys', () => kernel.peers().length === count || undefined, { timeoutMs: 120_000 });
  say(`${count} peers in the kernel, from the start of the process`, start);
  await starting;
  await agent.until(
    'all ready',
    ({ networks }) => networks[0]?.peers.every(({ ready }) => ready === 'True') === true,
    120_000,
  );
  say('all Ready', start);

  const last = count - 1;
  for (const port of [1201, 1202, 1203]) {
    start = performance.now();
    agent.apply(`p${last}.yaml`, manifest(last, port));
    await eventually('the change', () => kernel.peer(last)?.remote?.port === port || undefined, { stepMs: 2 });
    say('one changed manifest to the kernel', start);
  }
  const netns = await hosts.namespace('scal-p');
  start = performance.now();
  await attachDirectly(agent, 'p', netns);
  say('ADD of a pod with a route for each peer', start);
  start = performance.now();
  await detachDirectly(agent, 'p', netns);
  say('DEL', start);
  start = performance.now();
  await agent.report();
  say('report', start);
  start = performance.now();
  for (let i = 1; i <= count / 2; i++) agent.unapply(`p${i}.yaml`);
  await eventually('half are gone', () => kernel.peers().length === count - Math.floor(count / 2) || undefined, {
    timeoutMs: 120_000,
  });
  say(`${Math.floor(count / 2)} deleted manifests to the kernel`, start);
  await agent.stopAgent();
  start = performance.now();
  await agent.startAgent();
  say('restart until the socket answers', start);
  process.stdout.write(`writes after the restart: ${(await agent.report()).netlink.writes}\n`);
} finally {
  await hosts.remove();
}
