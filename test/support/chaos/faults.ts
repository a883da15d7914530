import { setTimeout as sleep } from 'node:timers/promises';
import { attempt, eventually, run } from '../run.ts';
import { type Fault, formatStep, netemOf, type Step, targetOf } from './plan.ts';
import type { ChaosNode, ChaosScene } from './scene.ts';

/** Ends a fault. */
type Heal = () => Promise<void> | void;

/** Carries a plan out: begins each fault at its time, and heals it. */
export class ChaosRun {
  readonly #scene: ChaosScene;
  /** What has begun, in words. */
  readonly log: string[] = [];
  /** Processes that were not there when somebody came to break them. */
  readonly died: string[] = [];
  #began = Date.now();

  constructor(scene: ChaosScene) {
    this.#scene = scene;
  }

  /** Resolves when everything is healed. */
  async run(steps: readonly Step[]): Promise<void> {
    this.#began = Date.now();
    // What takes longer than was planned holds up those that come after it on the same target.
    const targets = new Map<string, Promise<void>>();
    for (const step of steps) {
      const target = targetOf(step.fault);
      targets.set(
        target,
        (targets.get(target) ?? Promise.resolve()).then(() => this.#step(step)),
      );
    }
    const ends = await Promise.allSettled(targets.values());
    const failed = ends.find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
    this.lookForDead();
  }

  /** Notes every process that should run and does not. */
  lookForDead(): void {
    const { nodes, clients, server, deployment } = this.#scene;
    for (const node of nodes) {
      this.#mustRun(`agent of ${node.host.name}`, node.agent.agentRunning, node.agent.log);
      this.#mustRun(`holder of ${node.host.name}`, node.agent.holderRunning, node.agent.holderLog);
    }
    for (const { name, process } of clients) this.#mustRun(`client ${name}`, process.running, process.tail);
    this.#mustRun('the server that is dialled', server.running, server.tail);
    this.died.push(...deployment.died.splice(0));
  }

  #mustRun(what: string, runs: boolean, log: string): void {
    if (!runs) this.died.push(`${what} ended by itself: ${log.slice(-3_000)}`);
  }

  async #step(step: Step): Promise<void> {
    const { atMs, fault } = step;
    await sleep(Math.max(0, this.#began + atMs - Date.now()));
    const heal = await this.#begin(fault);
    const late = Date.now() - this.#began - atMs;
    this.log.push(`${formatStep(step)}${late > 1_000 ? ` (${(late / 1000).toFixed(1)} s late)` : ''}`);
    await sleep(fault.forMs);
    await heal();
  }

  /** Breaks something; answers how it is healed. */
  async #begin(fault: Fault): Promise<Heal> {
    const { plane, hosts, deployment, apiHost } = this.#scene;
    switch (fault.kind) {
      case 'agent-killed':
        return this.#withAgent(fault.node, (node) => node.agent.stopAgent('SIGKILL'));
      case 'agent-rolled-out':
        return this.#withAgent(fault.node, (node) => node.agent.stopAgent('SIGTERM'));
      case 'agent-and-holder-killed':
        return this.#withAgent(fault.node, async ({ agent }) => {
          await Promise.all([agent.stopAgent('SIGKILL'), agent.killHolder()]);
        });
      case 'node-drained': {
        await this.#cordon(fault.node, true);
        const back = await this.#withAgent(fault.node, (node) => node.agent.stopAgent('SIGTERM'));
        return async () => {
          await this.#cordon(fault.node, null);
          await back();
        };
      }
      case 'agent-stopped': {
        const { agent } = this.#runningNode(fault.node);
        const pid = agent.agentPid ?? 0;
        process.kill(pid, 'SIGSTOP');
        return () => {
          process.kill(pid, 'SIGCONT');
        };
      }
      case 'holder-killed': {
        const { agent } = this.#runningNode(fault.node);
        await agent.killHolder();
        return () => agent.startHolder();
      }
      case 'controller-killed':
        await deployment.kill();
        return () => deployment.start();
      case 'api-hangs':
        plane.pauseApiServer();
        return () => plane.resumeApiServer();
      case 'api-killed':
        await plane.killApiServer();
        return () => plane.startApiServer();
      case 'api-cut-off': {
        // What it answers goes nowhere: the node hears nothing, as behind a firewall that has forgotten the connection.
        const to = this.#scene.node(fault.node).host.ipv4;
        await run('ip', '-n', apiHost.namespace, 'route', 'add', 'blackhole', `${to}/32`);
        return async () => {
          await run('ip', '-n', apiHost.namespace, 'route', 'del', 'blackhole', `${to}/32`);
        };
      }
      case 'node-cut-off': {
        const { host } = this.#scene.node(fault.node);
        await hosts.shape(host, 'root', 'netem', 'loss', '100%');
        return () => hosts.shape(host, 'root', 'netem', 'delay', '0ms');
      }
      case 'line-bad': {
        const { host } = this.#scene.node(fault.node);
        await hosts.shape(host, ...netemOf(fault));
        return () => hosts.shape(host, 'root', 'netem', 'delay', '0ms');
      }
      case 'interface-down': {
        const { host } = this.#scene.node(fault.node);
        await run('ip', '-n', host.namespace, 'link', 'set', 'eth0', 'down');
        return async () => {
          await run('ip', '-n', host.namespace, 'link', 'set', 'eth0', 'up');
          // The kernel forgets IPv6 addresses of an interface that goes down.
          await attempt('ip', ['-n', host.namespace, 'addr', 'add', `${host.ipv6}/64`, 'dev', 'eth0', 'nodad']);
        };
      }
      case 'client-moves': {
        const client = this.#scene.client(fault.client);
        this.#mustRun(`client ${client.name}`, client.process.running, client.process.tail);
        await client.process.end(fault.signal);
        return () => client.start(this.#scene.node(fault.to).host);
      }
      case 'remote-ends': {
        const { server } = this.#scene;
        this.#mustRun('the server that is dialled', server.running, server.tail);
        await server.end(fault.signal);
        return () => this.#scene.startServer();
      }
    }
  }

  /** As `kubectl cordon` does it, which the API server may not be there for just now. */
  async #cordon(node: string, unschedulable: true | null): Promise<void> {
    await eventually(`${node} is taken out of service, or into it`, () =>
      this.#scene.plane.admin.merge(`/api/v1/nodes/${node}`, { spec: { unschedulable } }),
    );
  }

  #runningNode(name: string): ChaosNode {
    const node = this.#scene.node(name);
    this.#mustRun(`agent of ${name}`, node.agent.agentRunning, node.agent.log);
    this.#mustRun(`holder of ${name}`, node.agent.holderRunning, node.agent.holderLog);
    return node;
  }

  async #withAgent(name: string, end: (node: ChaosNode) => Promise<void>): Promise<Heal> {
    const node = this.#runningNode(name);
    await end(node);
    return () => node.agent.start();
  }
}
