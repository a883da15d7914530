import { AgentProcess, type Host, Hosts, ping } from '../support/hosts.ts';
import { key, network, newStaticKey, peer, secret } from '../support/manifests.ts';
import { attachPod, podAddress } from '../support/office.ts';
import { PlainRemote } from '../support/remote.ts';
import { eventually, run } from '../support/run.ts';
import { whilePinging } from '../support/stream.ts';
import { statusText } from '../../operator/src/cli/status.ts';
import { makeLan } from './lan.ts';
import { currentStep, demand, heading, reach, say } from './narrator.ts';
import { stockOpenvpn } from './stock-openvpn.ts';

// What the demo shows, step by step. Each step checks what it shows and throws when it is not so.

const port = 1194;
const lan = '192.168.50.0/24';
const lanHost = '192.168.50.10';
/** Who dials in to node-a. */
const clients = { alice: ['10.80.0.10', 'fd80::10'], bob: ['10.80.0.11', 'fd80::11'] } as const;

/** A node's side of the plan. */
interface Site {
  readonly name: string;
  readonly vpn: readonly [string, string];
  readonly pods: readonly [string, string];
}

const sites: Readonly<Record<'a' | 'b', Site>> = {
  a: { name: 'node-a', vpn: ['10.80.0.1', 'fd80::1'], pods: ['10.81.1.0/24', 'fd81:0:0:1::/64'] },
  b: { name: 'node-b', vpn: ['10.80.0.2', 'fd80::2'], pods: ['10.81.2.0/24', 'fd81:0:0:2::/64'] },
};

const hosts = await Hosts.create('demo');
try {
  await scenario();
} catch (error) {
  process.stdout.write(
    `\nfailed in step ${currentStep()}: ${error instanceof Error ? error.message : String(error)}\n`,
  );
  process.exitCode = 1;
} finally {
  await hosts.remove();
}

async function scenario(): Promise<void> {
  heading(`three hosts on one network, kernel ${(await run('uname', '-r')).trim()}`);
  const hostA = await hosts.host('node-a');
  const hostB = await hosts.host('node-b');
  const office = await hosts.host('office');
  for (const { name, ipv4, ipv6 } of [hostA, hostB, office]) say(`${name.padEnd(8)} ${ipv4}  ${ipv6}`);

  heading('a remote office: ovpn devices without our agent, and a LAN behind them');
  const material = { ab: newStaticKey(), aOffice: newStaticKey(), bOffice: newStaticKey() };
  const officeLan = await makeLan(office, 'demo-lan', '192.168.50');
  await connectOffice(office, hostA, hostB, material);
  say(`LAN ${lan} behind the office, with the host ${lanHost}`);

  heading('VpnNetwork, VpnPeer, VpnKey and Secret manifests for both nodes');
  const agents = { a: new AgentProcess(hostA), b: new AgentProcess(hostB) };
  applyManifests(agents.a, sites.a, { other: sites.b, host: hostB, material: material.ab, direction: 'Normal', id: 1 });
  applyManifests(agents.b, sites.b, {
    other: sites.a,
    host: hostA,
    material: material.ab,
    direction: 'Inverse',
    id: 1,
  });
  applyOffice(agents.a, office, material.aOffice, 11, port + 1);
  applyOffice(agents.b, office, material.bOffice, 12, port + 2);
  say(peerManifest(sites.b, hostB, 1));

  heading('the agents start and bring the kernel to what the manifests say');
  await Promise.all([agents.a.start(), agents.b.start()]);
  const [reportA, reportB] = await Promise.all([agents.a.untilReady('corp', 2), agents.b.untilReady('corp', 2)]);
  for (const report of [reportA, reportB]) say(`node ${report.node}\n${statusText(report, true)}`);
  say('the same as `ip` sees it on node-a:');
  say(
    await run(
      'nsenter',
      `--net=${agents.a.netns}/ovpn-corp`,
      'sh',
      '-c',
      'ip -br addr; ip route; ip -6 route | grep ovpn0',
    ),
  );

  heading('the CNI binary attaches a pod on each node');
  const podA = await attachPod(agents.a, 'pod-a');
  const podB = await attachPod(agents.b, 'pod-b');
  for (const pod of [podA, podB]) {
    const addresses = pod.result.ips.map(({ address }) => address).join(', ');
    say(`${pod.name}: vpn0 ${addresses}, routes ${pod.result.routes.map(({ dst }) => dst).join(' ')}`);
  }

  heading('the pods reach each other and the LAN through the tunnels');
  await reach(podA, podAddress(podB, 4), 'pod-a to pod-b');
  await reach(podA, podAddress(podB, 6), 'pod-a to pod-b');
  await reach(podB, podAddress(podA, 4), 'pod-b to pod-a');
  await reach(podA, lanHost, 'pod-a to the LAN');
  await reach(podB, lanHost, 'pod-b to the LAN');
  const back = await ping(officeLan, podAddress(podA, 4));
  demand(back.received === back.sent, `the LAN does not reach pod-a:\n${back.output}`);
  say(`the LAN to pod-a ${podAddress(podA, 4)}: ${back.received} of ${back.sent} answered`);
  const after = await agents.a.report();
  say(`node node-a\n${statusText(after, false)}`);
  const traffic = after.networks.find(({ name }) => name === 'corp')?.peers ?? [];
  demand(
    traffic.length === 2 && traffic.every(({ rxPackets, txPackets }) => rxPackets > 0 && txPackets > 0),
    'a tunnel counted no traffic',
  );

  heading('the agent of node-a is killed and started again: the kernel goes on');
  const writesBefore = await slotsOf(agents.a);
  const kill = await whilePinging(podA.netns, podAddress(podB, 4), async () => {
    await agents.a.stopAgent('SIGKILL');
    await agents.a.startAgent();
    await agents.a.untilReady('corp', 2);
  });
  const adopted = await agents.a.report();
  say(
    `ping every 10 ms meanwhile: ${kill.sent} sent, ${kill.lost} lost; the new agent wrote ${adopted.netlink.writes} times to the kernel`,
  );
  demand(kill.lost === 0, `packets were lost while the agent was away: ${kill.missing.join(' ')}`);
  demand(adopted.netlink.writes === 0, 'the new agent changed what stood already');
  demand((await slotsOf(agents.a)) === writesBefore, 'the keys are others than before');

  heading('a new key generation on both ends, make before break');
  const rotation = await whilePinging(podA.netns, podAddress(podB, 4), async () => {
    agents.a.apply('20-key-node-b.yaml', key({ name: 'node-b', direction: 'Normal', generation: 2 }));
    agents.b.apply('20-key-node-a.yaml', key({ name: 'node-a', direction: 'Inverse', generation: 2 }));
    say(`both keys in the kernel, the new one receiving: ${await slotsUntil(agents.a, '1+2')}`);
    say(`the new one sending:                            ${await slotsUntil(agents.a, '2+1')}`);
    say(`the old one deleted:                            ${await slotsUntil(agents.a, '2')}`);
    await slotsUntil(agents.b, '2');
  });
  say(`ping every 10 ms meanwhile: ${rotation.sent} sent, ${rotation.lost} lost`);
  demand(rotation.lost === 0, `packets were lost in the rotation: ${rotation.missing.join(' ')}`);

  await stockOpenvpn({
    agent: agents.a,
    pod: podA,
    networkWith: (spec) => networkOf(sites.a, spec),
    port,
    office: { lan, lanHost },
    addresses: clients,
  });

  heading('bad manifests are refused with their reason, and nothing that works is touched');
  agents.a.apply('40-bad.yaml', badPeers(hostB));
  const bad = await agents.a.until(
    'the refusals',
    ({ rejections, networks }) =>
      rejections.length >= 2 && networks[0]?.peers.some(({ name }) => name === 'default/overlap') === true,
  );
  for (const { errors } of bad.rejections) for (const error of errors) say(`- ${error}`);
  for (const { name, ready, message } of bad.networks.flatMap(({ peers }) => peers))
    if (ready !== 'True' && name === 'default/overlap') say(`- ${message}`);
  await reach(podA, podAddress(podB, 4), 'pod-a to pod-b');
  agents.a.unapply('40-bad.yaml');

  heading('a settled node writes nothing; then the pods leave');
  const still = (await agents.a.until('the good state', ({ sourcesComplete }) => sourcesComplete)).netlink.writes;
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const later = (await agents.a.report()).netlink.writes;
  say(`netlink writes of the agent on node-a: ${still}, two seconds later: ${later}`);
  demand(still === later, 'a settled node wrote to the kernel');
  for (const [agent, pod] of [
    [agents.a, podA],
    [agents.b, podB],
  ] as const) {
    const { code, stdout } = await agent.cni('DEL', pod.call);
    demand(code === 0, `DEL of ${pod.name}: ${stdout}`);
    const left = await run('ip', '-n', `demo-${pod.name}`, '-br', 'link', 'show');
    demand(!left.includes('vpn0'), `${pod.name} still has vpn0`);
    say(`${pod.name}: detached`);
  }
}

/** The VpnNetwork as a node has it. */
function networkOf({ name, vpn, pods }: Site, spec: object = {}): string {
  return network({
    node: name,
    addresses: vpn,
    podBlocks: pods,
    port,
    spec: { keyTransition: { seconds: 3 }, ...spec },
  });
}

function applyManifests(
  agent: AgentProcess,
  site: Site,
  peerOf: { other: Site; host: Host; material: string; direction: 'Normal' | 'Inverse'; id: number },
): void {
  const { other, host, material, direction, id } = peerOf;
  agent.apply('10-network.yaml', networkOf(site));
  agent.apply(`20-key-${other.name}.yaml`, key({ name: other.name, direction }));
  agent.apply(`20-secret-${other.name}.yaml`, secret(other.name, material));
  agent.apply(`30-peer-${other.name}.yaml`, peerManifest(other, host, id));
}

function peerManifest(site: Site, host: Host, peerID: number): string {
  const endpoint = { address: host.ipv4, port };
  return peer({ name: site.name, peerID, endpoint, addresses: site.vpn, routes: site.pods });
}

function applyOffice(agent: AgentProcess, office: Host, material: string, peerID: number, officePort: number): void {
  const endpoint = { address: office.ipv4, port: officePort };
  agent.apply('20-key-office.yaml', key({ name: 'office', direction: 'Normal', cipher: 'AES-256-GCM' }));
  agent.apply('20-secret-office.yaml', secret('office', material));
  agent.apply(
    '30-peer-office.yaml',
    peer({ name: 'office', peerID, endpoint, addresses: ['10.80.0.9'], routes: [lan] }),
  );
}

/** A peer with a field that does not exist, one with a bad prefix, and one whose route another peer has. */
function badPeers(host: Host): string {
  const endpoint = { address: host.ipv4, port };
  const common = { endpoint, key: 'node-b' };
  return [
    peer({
      ...common,
      name: 'typo',
      peerID: 21,
      addresses: ['10.80.0.21'],
      routes: [],
      spec: { keepalives: { intervalSeconds: 1 } },
    }),
    peer({ ...common, name: 'bad-cidr', peerID: 22, addresses: ['10.80.0.22'], routes: ['192.168.60.0/33'] }),
    peer({ ...common, name: 'overlap', peerID: 23, addresses: ['10.80.0.23'], routes: ['192.168.50.0/25'] }),
  ].join('---\n');
}

/** The office's tunnels to both nodes: one P2P device each, set up by hand as a foreign implementation would. */
async function connectOffice(
  office: Host,
  hostA: Host,
  hostB: Host,
  material: { aOffice: string; bOffice: string },
): Promise<void> {
  const tunnels = [
    { site: sites.a, host: hostA, material: material.aOffice, peerId: 11, deviceName: 'tun-a', port: port + 1 },
    { site: sites.b, host: hostB, material: material.bOffice, peerId: 12, deviceName: 'tun-b', port: port + 2 },
  ];
  for (const { site, host, ...settings } of tunnels) {
    const routes = [`${site.vpn[0]}/32`, site.pods[0], ...(site === sites.a ? [`${clients.alice[0]}/32`] : [])];
    await PlainRemote.create(office, {
      ...settings,
      addresses: ['10.80.0.9/32'],
      routes,
      endpoint: { address: host.ipv4, port },
    });
  }
}

/** Key ids of the tunnel between the nodes on one of them: `1`, or `1+2` with a secondary key. */
async function slotsOf(agent: AgentProcess): Promise<string> {
  const { networks } = await agent.report();
  const tunnel = networks.flatMap(({ peers }) => peers).find(({ name }) => name.startsWith('default/node-'));
  const { primary, secondary } = tunnel?.keys ?? { primary: undefined, secondary: undefined };
  return `${primary ?? '-'}${secondary === undefined ? '' : `+${secondary}`}`;
}

async function slotsUntil(agent: AgentProcess, wanted: string): Promise<string> {
  return eventually(`key ids ${wanted} on ${agent.host.name}`, async () => {
    const slots = await slotsOf(agent);
    return slots === wanted ? slots : undefined;
  });
}
