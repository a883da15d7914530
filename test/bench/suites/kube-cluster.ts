import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { apiVersion } from '../../../operator/src/api/types.ts';
import { apiPath } from '../../../operator/src/cluster/resource-path.ts';
import type { AuditEvent } from '../../support/kube/audit.ts';
import { ControlPlane } from '../../support/kube/control-plane.ts';
import { ControllerProcess } from '../../support/kube/controller-process.ts';
import type { KubeUser } from '../../support/kube/kube-user.ts';
import { eventually } from '../../support/run.ts';
import { CountingProxy } from '../counting-proxy.ts';
import { cpuMs, rssMiB } from '../process-usage.ts';
import { PeerWatch } from './peer-watch.ts';

/** A cluster of one node for the suite `kube`: real API server and controller, and the agent without a kernel. */

const networkName = 'corp';
const nodeName = 'node';
/** Where the many peers are. */
export const crowd = 'clients';
/** Requests of the person who applies that are under way at once. */
const atOnce = 16;
const longMs = 3_600_000;

/** Who is measured, by the names of their service accounts. */
export const processes = ['ovpn-controller', 'ovpn-agent'] as const;
export type Who = (typeof processes)[number];

/** What a process has used up. */
export interface Usage {
  readonly rssMiB: number;
  readonly cpuMs: number;
  /** Bytes of HTTP to and from the API server. */
  readonly bytes: number;
}

export class KubeCluster {
  readonly plane: ControlPlane;
  readonly #agentUser: KubeUser;
  readonly #controller: ControllerProcess;
  readonly #ways: Readonly<Record<Who, CountingProxy>>;
  #agent: ChildProcess | undefined;
  #planned = 0;
  #log = '';

  static async start(): Promise<KubeCluster> {
    const plane = await ControlPlane.start();
    try {
      await plane.namespace(crowd);
      const agentUser = await plane.agentOf(nodeName);
      const controllerUser = await plane.controller();
      const ways = {
        'ovpn-controller': await CountingProxy.start(controllerUser.credentials),
        'ovpn-agent': await CountingProxy.start(agentUser.credentials),
      };
      agentUser.writeKubeconfig(agentUser.kubeconfig, ways['ovpn-agent'].url);
      const controller = new ControllerProcess('controller', controllerUser, ways['ovpn-controller'].url);
      return new KubeCluster(plane, agentUser, controller, ways);
    } catch (error) {
      await plane.stop();
      throw error;
    }
  }

  private constructor(
    plane: ControlPlane,
    agentUser: KubeUser,
    controller: ControllerProcess,
    ways: Readonly<Record<Who, CountingProxy>>,
  ) {
    this.plane = plane;
    this.#agentUser = agentUser;
    this.#controller = controller;
    this.#ways = ways;
  }

  /** Applies the network, and starts controller and agent; resolves when the node is said to be ready. */
  async startProcesses(): Promise<void> {
    await this.#controller.start();
    const program = join(import.meta.dirname, '../programs/api-agent.ts');
    const agent = fork(program, [nodeName, this.#agentUser.kubeconfig], { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    this.#agent = agent;
    const keep = (chunk: Buffer): void => void (this.#log = (this.#log + chunk.toString('utf8')).slice(-4_000));
    agent.stdout?.on('data', keep);
    agent.stderr?.on('data', keep);
    agent.on('message', (planned) => (this.#planned = Number(planned)));
    const path = apiPath('VpnNetwork', { name: networkName });
    await this.plane.admin.apply(path, {
      apiVersion,
      kind: 'VpnNetwork',
      metadata: { name: networkName },
      spec: {
        pools: { peers: ['10.80.0.0/16'] },
        listeners: [{ name: 'udp', port: 1194 }],
        pki: { secretRef: { name: 'corp-pki' } },
        mtu: 1400,
        allowedPeers: { namespaces: { names: [crowd] } },
      },
    });
    await eventually('the network is ready', async () => {
      const { status } = await this.plane.admin.get<{ status?: { nodesReady?: number } }>(path);
      return status?.nodesReady === 1 ? true : undefined;
    });
  }

  /** How many peers the agent has planned. */
  get planned(): number {
    if (this.#agent?.exitCode !== null) throw new Error(`the agent ended:\n${this.#log}`);
    return this.#planned;
  }

  usage(who: Who): Usage {
    const pid = who === 'ovpn-agent' ? this.#agent?.pid : this.#controller.pid;
    if (pid === undefined) throw new Error(`${who} does not run`);
    return { rssMiB: rssMiB(pid), cpuMs: cpuMs(pid), bytes: this.#ways[who].bytes };
  }

  /** The requests of one of our processes from a point of the audit log on, watches left out. */
  requests(who: Who, from: number): AuditEvent[] {
    const events = this.plane.audit().slice(from);
    return events.filter(({ user, verb }) => user.username.endsWith(`:${who}`) && verb !== 'watch');
  }

  /** Applies many peers that dial in, as one person does. */
  async applyCrowd(count: number, prefix: string): Promise<void> {
    let next = 0;
    const work = async (): Promise<void> => {
      while (next < count) await this.applyOne(`${prefix}-${next++}`);
    };
    await Promise.all(Array.from({ length: atOnce }, work));
  }

  async applyOne(name: string): Promise<void> {
    await this.plane.admin.must('POST', apiPath('VpnPeer', { namespace: crowd }), {
      apiVersion,
      kind: 'VpnPeer',
      metadata: { namespace: crowd, name },
      spec: { networkRef: { name: networkName }, identity: { commonName: name } },
    });
  }

  /** Peers as anybody sees them who watches. */
  watch(): Promise<PeerWatch> {
    return PeerWatch.start(this.plane.admin.kubeconfig, crowd);
  }

  async stop(): Promise<void> {
    // By signals that let a profiler write what it has.
    const agent = this.#agent;
    if (agent?.exitCode === null) {
      const gone = new Promise((resolve) => agent.once('exit', resolve));
      agent.kill('SIGTERM');
      await gone;
    }
    await this.#controller.stop();
    for (const way of Object.values(this.#ways)) way.close();
    await this.plane.stop();
  }

  /** For messages of failures. */
  get log(): string {
    return `${this.#controller.log.slice(-4_000)}\n${this.#log}`;
  }
}

/** Until all is as it was wanted, or an hour is over. */
export const patient = <T>(what: string, look: () => Promise<T | undefined> | T | undefined, stepMs = 20): Promise<T> =>
  eventually(what, look, { timeoutMs: longMs, stepMs });
