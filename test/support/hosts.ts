import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NodeReport } from '../../operator/src/agent/report.ts';
import { callReport } from '../../operator/src/cli/agent-call.ts';
import { attempt, eventually, type Finished, patienceMs, run, Service } from './run.ts';

export const projectRoot = join(import.meta.dirname, '../..');
/** The agent to run: its source as it is, or what `npm run build` made of it. */
export const agentProgram = join(
  projectRoot,
  process.env['OVPN_PROGRAMS'] === 'dist' ? 'dist/agent/ovpn-agent.js' : 'operator/src/cli/ovpn-agent.ts',
);
/** The CNI binary as `npm run build` makes it. */
export const cniBinary = join(projectRoot, 'dist/ovpn-cni');

/**
 * Hosts on one machine: network namespaces joined by a bridge, the "internet" that encrypted packets cross.
 * Every name carries a prefix, so that tests can run side by side.
 */
export class Hosts {
  readonly prefix: string;
  readonly folder: string;
  readonly #bridge: string;
  readonly #cleanup: (() => Promise<void>)[] = [];
  readonly #ports = new Map<string, string>();
  #count = 0;

  private constructor(prefix: string) {
    this.prefix = prefix;
    this.folder = mkdtempSync(join(tmpdir(), `${prefix}-`));
    this.#bridge = `${prefix}-net`;
  }

  /** @param prefix at most 6 letters, unique among tests that run at the same time */
  static async create(prefix: string): Promise<Hosts> {
    const hosts = new Hosts(prefix);
    await run('ip', 'netns', 'add', hosts.#bridge);
    hosts.#cleanup.push(async () => {
      await attempt('ip', ['netns', 'del', hosts.#bridge]);
    });
    await run('ip', '-n', hosts.#bridge, 'link', 'add', 'br0', 'type', 'bridge');
    await run('ip', '-n', hosts.#bridge, 'link', 'set', 'br0', 'up');
    return hosts;
  }

  /** A host with one underlay interface: 203.0.113.N and 2001:db8:113::N. */
  async host(name: string): Promise<Host> {
    const number = ++this.#count;
    const host = new Host(this, `${this.prefix}-${name}`, name, `203.0.113.${number}`, `2001:db8:113::${number}`);
    await this.namespace(host.namespace);
    const port = `p${number}`;
    this.#ports.set(host.namespace, port);
    await run(
      'ip',
      '-n',
      host.namespace,
      'link',
      'add',
      'eth0',
      'type',
      'veth',
      'peer',
      'name',
      port,
      'netns',
      this.#bridge,
    );
    await run('ip', '-n', this.#bridge, 'link', 'set', port, 'master', 'br0', 'up');
    await run('ip', '-n', host.namespace, 'addr', 'add', `${host.ipv4}/24`, 'dev', 'eth0');
    await run('ip', '-n', host.namespace, 'addr', 'add', `${host.ipv6}/64`, 'dev', 'eth0', 'nodad');
    await run('ip', '-n', host.namespace, 'link', 'set', 'eth0', 'up');
    return host;
  }

  /** Runs `tc qdisc` with these words on a host's interface, and where the network sends to it: both ways of its line. */
  async shape(host: Host, ...words: string[]): Promise<void> {
    const port = this.#ports.get(host.namespace) ?? '';
    await run('tc', '-n', host.namespace, 'qdisc', 'replace', 'dev', 'eth0', ...words);
    await run('tc', '-n', this.#bridge, 'qdisc', 'replace', 'dev', port, ...words);
  }

  /** A plain namespace with loopback up, as a container runtime makes for a pod. */
  async namespace(name: string): Promise<string> {
    await run('ip', 'netns', 'add', name);
    this.#cleanup.push(async () => {
      await attempt('ip', ['netns', 'del', name]);
    });
    await run('ip', '-n', name, 'link', 'set', 'lo', 'up');
    return `/run/netns/${name}`;
  }

  onCleanup(action: () => Promise<void>): void {
    this.#cleanup.push(action);
  }

  async remove(): Promise<void> {
    for (const action of this.#cleanup.reverse()) await action();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** One host, and on it perhaps an agent. */
export class Host {
  readonly hosts: Hosts;
  readonly namespace: string;
  readonly name: string;
  readonly ipv4: string;
  readonly ipv6: string;

  constructor(hosts: Hosts, namespace: string, name: string, ipv4: string, ipv6: string) {
    this.hosts = hosts;
    this.namespace = namespace;
    this.name = name;
    this.ipv4 = ipv4;
    this.ipv6 = ipv6;
  }

  /** A command on this host; namespaces and mounts are the machine's, only the network is the host's. */
  command(command: string, ...args: string[]): readonly string[] {
    return [`--net=/run/netns/${this.namespace}`, command, ...args];
  }

  async exec(command: string, ...args: string[]): Promise<string> {
    return run('nsenter', ...this.command(command, ...args));
  }
}

/** The node agent and socket holder of one host, as processes of their own. */
export class AgentProcess {
  readonly host: Host;
  readonly folder: string;
  readonly manifests: string;
  /** Where the agent keeps its network namespaces: a folder of its own, since all hosts share one machine. */
  readonly netns: string;
  readonly socket: string;
  readonly state: string;
  /** Environment variables of the agent, which may be changed between two starts. */
  environment: Readonly<Record<string, string>> = {};
  /** The program of the next start: another one is another version. */
  program = agentProgram;
  readonly #options: readonly string[];
  readonly #identity: { readonly kubeconfig: string } | undefined;
  #holder: Service | undefined;
  #agent: Service | undefined;
  #logs = '';

  /** @param identity who the agent is on an API server; without one it reads its folder of manifests */
  constructor(host: Host, options: readonly string[] = [], identity?: { readonly kubeconfig: string }) {
    this.host = host;
    this.#identity = identity;
    this.folder = join(host.hosts.folder, host.name);
    this.manifests = join(this.folder, 'manifests');
    this.netns = join(this.folder, 'netns');
    this.state = join(this.folder, 'state');
    this.socket = join(this.folder, 'agent.sock');
    this.#options = options;
    mkdirSync(this.manifests, { recursive: true });
    host.hosts.onCleanup(() => this.remove());
  }

  /** What the agents of this host said, without the calls by which tests watch them. */
  get log(): string {
    const lines = (this.#logs + (this.#agent?.log ?? '')).split('\n');
    return lines.filter((line) => !line.includes('"op":"report"')).join('\n');
  }

  /** The agent's metrics as Prometheus gets them: from its host, as it listens on the loopback only. */
  metrics(): Promise<string> {
    const program = `process.stdout.write(await (await fetch('http://127.0.0.1:9908/metrics')).text())`;
    return this.host.exec(process.execPath, '--input-type=module', '-e', program);
  }

  /** What the agents of this host said of one kind of event. */
  said(event: string): Readonly<Record<string, unknown>>[] {
    return this.log.split('\n').flatMap((line) => {
      if (!line.includes(`"${event}"`)) return [];
      const entry = JSON.parse(line) as Record<string, unknown>;
      return entry['event'] === event ? [entry] : [];
    });
  }

  get holderSocket(): string {
    return join(this.folder, 'holder.sock');
  }

  get agentPid(): number | undefined {
    return this.#agent?.pid;
  }

  get holderPid(): number | undefined {
    return this.#holder?.pid;
  }

  get agentRunning(): boolean {
    return this.#agent?.running === true;
  }

  get holderRunning(): boolean {
    return this.#holder?.running === true;
  }

  get holderLog(): string {
    return this.#holder?.log ?? '';
  }

  /** Writes a manifest, as `kubectl apply` would hand it over. */
  apply(file: string, manifest: string): void {
    writeFileSync(join(this.manifests, file), manifest, { mode: 0o600 });
  }

  unapply(file: string): void {
    rmSync(join(this.manifests, file), { force: true });
  }

  startHolder(): void {
    const args = this.host.command(
      process.execPath,
      agentProgram,
      'holder',
      '--socket',
      join(this.folder, 'holder.sock'),
    );
    this.#holder = new Service('nsenter', args);
  }

  /** Starts the agent; resolves when it serves its socket. */
  async start(): Promise<void> {
    if (this.#holder?.running !== true) this.startHolder();
    await this.startAgent();
  }

  async startAgent(): Promise<void> {
    this.launchAgent();
    await this.agentStarts();
  }

  /** Starts the agent and does not wait for it. */
  launchAgent(): void {
    this.#logs += this.#agent?.log ?? '';
    const args = [
      ...['--node', this.host.name],
      ...(this.#identity === undefined
        ? ['--manifests', this.manifests, '--label', `kubernetes.io/hostname=${this.host.name}`]
        : ['--kubeconfig', this.#identity.kubeconfig]),
      ...[
        '--state',
        this.state,
        '--socket',
        this.socket,
        '--holder',
        join(this.folder, 'holder.sock'),
        '--netns',
        this.netns,
      ],
      ...this.#options,
    ];
    const variables = Object.entries(this.environment).map(([name, value]) => `${name}=${value}`);
    const command = ['env', ...variables, process.execPath, this.program, 'run', ...args] as const;
    this.#agent = new Service('nsenter', this.host.command(...command));
  }

  /** Waits until the agent that was launched serves its socket. */
  async agentStarts(): Promise<void> {
    const agent = this.#agent;
    if (agent === undefined) throw new Error('no agent was started');
    const started = await eventually(
      `agent of ${this.host.name}`,
      async () => {
        if (!agent.running) return 'ended';
        return agent.log.includes('"agent.ready"') ? this.report() : undefined;
      },
      // An emulated machine takes its time.
      { timeoutMs: 2 * patienceMs },
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${agent.log}`, { cause: error });
    });
    if (started === 'ended') throw new Error(`the agent ended:\n${agent.log}`);
  }

  async stopAgent(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.#agent?.end(signal);
  }

  async report(): Promise<NodeReport> {
    return (await callReport(this.socket)) as NodeReport;
  }

  /** Waits until the report is as wanted. */
  async until(what: string, holds: (report: NodeReport) => boolean, timeoutMs = patienceMs): Promise<NodeReport> {
    let last: NodeReport | undefined;
    try {
      return await eventually(
        what,
        async () => {
          last = await this.report();
          return holds(last) ? last : undefined;
        },
        { timeoutMs },
      );
    } catch (error) {
      throw new Error(`${String(error)}\n${JSON.stringify(last, undefined, 1)}\n${this.log}`, { cause: error });
    }
  }

  /** Waits until all peers of a network are Ready. */
  async untilReady(network: string, peers: number): Promise<NodeReport> {
    return this.until(`${peers} ready peers on ${this.host.name}`, (report) => {
      const found = report.networks.find(({ name }) => name === network);
      return found?.peers.length === peers && found.peers.every(({ ready }) => ready === 'True');
    });
  }

  /** Calls the CNI binary as a container runtime on this host does. */
  async cni(command: 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'VERSION' | 'STATUS', call: CniCall): Promise<Finished> {
    const config = {
      cniVersion: '1.1.0',
      name: 'ovpn',
      type: 'ovpn-cni',
      network: call.network,
      agentSocket: this.socket,
    };
    return attempt('nsenter', this.host.command(cniBinary), {
      input: JSON.stringify({ ...config, ...call.config }),
      env: {
        CNI_COMMAND: command,
        CNI_CONTAINERID: call.containerId,
        CNI_NETNS: call.netns,
        CNI_IFNAME: call.ifname ?? 'vpn0',
        CNI_PATH: '/opt/cni/bin',
        CNI_ARGS: `K8S_POD_NAMESPACE=${call.podNamespace ?? 'default'};K8S_POD_NAME=${call.containerId}`,
      },
    });
  }

  async remove(): Promise<void> {
    await this.stopAgent();
    await this.#holder?.end('SIGKILL');
    for (const name of (await attempt('ls', [this.netns])).stdout.split('\n').filter(Boolean)) {
      await attempt('umount', ['-l', join(this.netns, name)]);
    }
    await attempt('umount', ['-l', this.netns]);
  }

  /** Ends the socket holder without a word. */
  async killHolder(): Promise<void> {
    await this.#holder?.end('SIGKILL');
  }
}

export interface CniCall {
  readonly network?: string;
  readonly containerId: string;
  readonly netns: string;
  readonly ifname?: string;
  readonly podNamespace?: string;
  readonly config?: object;
}

/** Packets sent and received by `ping`. */
export interface PingResult {
  readonly sent: number;
  readonly received: number;
  readonly output: string;
}

/** Pings from inside a namespace (a path). */
export async function ping(
  netns: string,
  destination: string,
  {
    count = 3,
    interval = 0.2,
    size = 56,
    deadline = 60,
  }: { count?: number; interval?: number; size?: number; deadline?: number } = {},
): Promise<PingResult> {
  const args = [
    '-n',
    '-c',
    String(count),
    '-i',
    String(interval),
    '-s',
    String(size),
    '-w',
    String(deadline),
    '-W',
    '2',
  ];
  const { stdout, stderr } = await attempt('nsenter', [`--net=${netns}`, 'ping', ...args, destination]);
  const match = /(\d+) packets transmitted, (\d+) received/.exec(stdout);
  return { sent: Number(match?.[1] ?? 0), received: Number(match?.[2] ?? 0), output: stdout + stderr };
}
