import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { apiVersion, type VpnKey, type VpnPeer } from '../../../operator/src/api/types.ts';
import { apiPath } from '../../../operator/src/cluster/resource-path.ts';
import type { AuditEvent } from '../../support/kube/audit.ts';
import { ControlPlane } from '../../support/kube/control-plane.ts';
import { ControllerProcess } from '../../support/kube/controller-process.ts';
import type { KubeUser } from '../../support/kube/kube-user.ts';
import { Pki } from '../../support/pki.ts';
import { eventually } from '../../support/run.ts';

/** A mesh for the suite `mesh`: real API server and controller, and many nodes in one process (mesh-node.ts). */

const networkName = 'corp';
export const namespace = 'team-a';
/** Nodes with this label are of the network. */
const memberLabel = 'mesh';
const longMs = 900_000;

/** What the process of the nodes is told. */
export type MeshOrder =
  | { readonly do: 'start'; readonly nodes: readonly { readonly name: string; readonly kubeconfig: string }[] }
  | { readonly do: 'kill'; readonly node: string }
  /** A client connects. */
  | { readonly do: 'connect'; readonly node: string; readonly peer: string }
  | { readonly do: 'usage' }
  | ({ readonly do: 'until'; readonly withinMs: number } & MeshState);

/** What the process of the nodes can be asked to wait for. */
export type MeshState =
  /** All of these have planned all of these, and are connected. */
  | { readonly what: 'connected'; readonly nodes: readonly string[] }
  /** These have planned a session with the node, the way to it, and its pods. */
  | { readonly what: 'known'; readonly node: string; readonly by: readonly string[] }
  | { readonly what: 'forgotten'; readonly node: string }
  /** These send to the node what is for the peer. */
  | { readonly what: 'followed'; readonly peer: string; readonly node: string; readonly by: readonly string[] }
  /** All of these send to one node what is for the peer, and that node has it. */
  | { readonly what: 'agreed'; readonly peer: string; readonly by: readonly string[] }
  /** Others than these have claimed the peers. */
  | { readonly what: 'taken'; readonly peers: readonly string[]; readonly from: readonly string[] }
  /** The node that has it dials, of each of the peers. */
  | { readonly what: 'dialled'; readonly peers: readonly string[] };

/** What the process of the nodes has used, and when. */
export interface MeshAnswer {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly cpuMs: number;
  readonly rssMiB: number;
  /** Of watches, of all nodes. */
  readonly events: number;
  readonly bytes: number;
}

/** What happened between two looks. */
export interface Traffic {
  /** Requests of agents, without watches and Leases. */
  readonly agents: readonly AuditEvent[];
  readonly controller: readonly AuditEvent[];
  readonly leases: number;
  readonly events: number;
  readonly bytes: number;
  /** Of the process of the nodes. */
  readonly cpuMs: number;
}

export class MeshCluster {
  readonly plane: ControlPlane;
  readonly #controller: ControllerProcess;
  readonly #nodes: ChildProcess;
  readonly #users = new Map<string, KubeUser>();
  readonly #waiting = new Map<number, (reply: { answer?: MeshAnswer; failure?: string }) => void>();
  readonly #pki = new Pki('Office CA');
  #last = 0;
  #log = '';

  /** @param nodes of which the first `members` are of the network, and all have an agent that runs */
  static async start(nodes: number, members: number): Promise<MeshCluster> {
    const plane = await ControlPlane.start();
    try {
      await plane.namespace(namespace);
      const controller = new ControllerProcess('controller', await plane.controller());
      await controller.start();
      const cluster = new MeshCluster(plane, controller);
      await cluster.#answer(0);
      await cluster.#begin(nodes, members);
      return cluster;
    } catch (error) {
      await plane.stop();
      throw error;
    }
  }

  private constructor(plane: ControlPlane, controller: ControllerProcess) {
    this.plane = plane;
    this.#controller = controller;
    const program = join(import.meta.dirname, '../programs/mesh-nodes.ts');
    this.#nodes = fork(program, [networkName], { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    const keep = (chunk: Buffer): void => void (this.#log = (this.#log + chunk.toString('utf8')).slice(-8_000));
    this.#nodes.stdout?.on('data', keep);
    this.#nodes.stderr?.on('data', keep);
    this.#nodes.on('message', (reply: { id: number; answer?: MeshAnswer; failure?: string }) => {
      this.#waiting.get(reply.id)?.(reply);
      this.#waiting.delete(reply.id);
    });
    this.#nodes.on('exit', () => {
      for (const tell of this.#waiting.values()) tell({ failure: `the nodes ended:\n${this.#log}` });
    });
  }

  static nodeName(number: number): string {
    return `node-${number}`;
  }

  async #begin(nodes: number, members: number): Promise<void> {
    await this.plane.admin.apply(apiPath('VpnNetwork', { name: networkName }), {
      apiVersion,
      kind: 'VpnNetwork',
      metadata: { name: networkName },
      spec: {
        nodeSelector: { [memberLabel]: 'on' },
        pools: { peers: ['10.80.0.0/16'], pods: ['10.96.0.0/12'] },
        listeners: [{ name: 'udp', port: 1194 }],
        pki: { builtIn: {} },
        mtu: 1400,
        mesh: {},
        allowedPeers: { namespaces: { names: [namespace] }, routes: ['10.128.0.0/9'] },
      },
    });
    const names = Array.from({ length: nodes }, (_, i) => MeshCluster.nodeName(i + 1));
    for (const [i, name] of names.entries()) {
      this.#users.set(name, await this.plane.agentOf(name, i < members ? { [memberLabel]: 'on' } : {}));
      await this.plane.admin.merge(`/api/v1/nodes/${name}/status`, {
        status: { addresses: [{ type: 'InternalIP', address: `10.0.${i >> 8}.${i & 255}` }] },
      });
    }
    await this.startNodes(names);
  }

  async startNodes(names: readonly string[]): Promise<MeshAnswer> {
    const nodes = names.map((name) => ({ name, kubeconfig: this.#users.get(name)?.kubeconfig ?? '' }));
    return this.ask({ do: 'start', nodes });
  }

  /** @throws Error when it fails, or the process of the nodes has ended */
  ask(order: MeshOrder): Promise<MeshAnswer> {
    if (this.#nodes.exitCode !== null) return Promise.reject(new Error(`the nodes ended:\n${this.#log}`));
    const id = ++this.#last;
    const answer = this.#answer(id);
    this.#nodes.send({ id, order });
    return answer;
  }

  async #answer(id: number): Promise<MeshAnswer> {
    const { answer, failure } = await new Promise<{ answer?: MeshAnswer; failure?: string }>((resolve) =>
      this.#waiting.set(id, resolve),
    );
    if (answer === undefined) throw new Error(`${failure ?? 'no answer'}\n${this.log}`);
    return answer;
  }

  until(state: MeshState, withinMs = longMs): Promise<MeshAnswer> {
    return this.ask({ do: 'until', withinMs, ...state });
  }

  /** Has a node join the network, or leave it. Resolves when its Node says so, with how long that took. */
  async setMember(name: string, member: boolean): Promise<number> {
    const began = performance.now();
    await this.plane.admin.merge(`/api/v1/nodes/${name}`, {
      metadata: { labels: { [memberLabel]: member ? 'on' : null } },
    });
    return performance.now() - began;
  }

  /** A peer that dials in, and its certificate; its name has the namespace before it. */
  async addClient(name: string): Promise<string> {
    await this.plane.admin.must('POST', apiPath('VpnKey', { namespace }), {
      apiVersion,
      kind: 'VpnKey',
      metadata: { namespace, name },
      spec: { issued: { networkRef: { name: networkName } } },
    });
    await this.plane.admin.must('POST', apiPath('VpnPeer', { namespace }), {
      apiVersion,
      kind: 'VpnPeer',
      metadata: { namespace, name },
      spec: { networkRef: { name: networkName }, identity: { key: name } },
    });
    await eventually(
      `the certificate of ${name}`,
      async () => {
        const key = await this.plane.admin.get<Partial<VpnKey>>(apiPath('VpnKey', { namespace, name }));
        return key.status?.certificates?.[0];
      },
      { timeoutMs: longMs },
    );
    return `${namespace}/${name}`;
  }

  /** The certificate for all remotes that are dialled. */
  async addKey(): Promise<void> {
    const { cert, key } = this.#pki.client('cluster');
    const items = [
      {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { namespace, name: 'office' },
        stringData: { 'tls.crt': cert, 'tls.key': key, 'ca.crt': this.#pki.ca },
      },
      {
        apiVersion,
        kind: 'VpnKey',
        metadata: { namespace, name: 'office' },
        spec: { tls: { secretRef: { name: 'office' } } },
      },
    ];
    await this.plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  }

  /** Remotes that any node of the mesh may dial, 16 requests at once. Their names have the namespace before them. */
  async addRemotes(prefix: string, count: number): Promise<string[]> {
    const names = Array.from({ length: count }, (_, i) => `${prefix}-${i}`);
    const left = [...names.entries()];
    const work = async (): Promise<void> => {
      for (let next = left.shift(); next !== undefined; next = left.shift()) {
        const [i, name] = next;
        await this.plane.admin.must('POST', apiPath('VpnPeer', { namespace }), {
          apiVersion,
          kind: 'VpnPeer',
          metadata: { namespace, name },
          spec: {
            networkRef: { name: networkName },
            endpoint: { address: `198.51.100.${i % 250}`, port: 1194 },
            keyRef: { name: 'office' },
            routes: [`10.${128 + (i >> 8)}.${i & 255}.0/24`],
          },
        });
      }
    };
    await Promise.all(Array.from({ length: 16 }, work));
    return names.map((name) => `${namespace}/${name}`);
  }

  /** Who has each of these peers. */
  async holders(peers: readonly string[]): Promise<ReadonlyMap<string, string>> {
    const { items } = await this.plane.admin.get<{ items: VpnPeer[] }>(apiPath('VpnPeer', { namespace }));
    const held = items.flatMap(({ metadata, status }) =>
      status?.holder === undefined ? [] : [[`${namespace}/${metadata.name}`, status.holder.node] as const],
    );
    return new Map(held.filter(([name]) => peers.includes(name)));
  }

  /** Does something, waits for as long as its consequences may take, and says what all of it was. */
  async during(what: () => Promise<void>, settleMs: number): Promise<Traffic> {
    const from = this.plane.audit().length;
    const before = await this.ask({ do: 'usage' });
    await what();
    await sleep(settleMs);
    const after = await this.ask({ do: 'usage' });
    const all = this.plane.audit().slice(from);
    const of = (who: string): AuditEvent[] =>
      all.filter(({ user, verb }) => user.username.endsWith(`:${who}`) && verb !== 'watch');
    const isLease = ({ objectRef }: AuditEvent): boolean => objectRef?.resource === 'leases';
    const agents = of('ovpn-agent');
    return {
      agents: agents.filter((event) => !isLease(event)),
      controller: of('ovpn-controller').filter((event) => !isLease(event)),
      leases: agents.filter(isLease).length,
      events: after.events - before.events,
      bytes: after.bytes - before.bytes,
      cpuMs: after.cpuMs - before.cpuMs,
    };
  }

  async stop(): Promise<void> {
    if (this.#nodes.exitCode === null) {
      const gone = new Promise((resolve) => this.#nodes.once('exit', resolve));
      // By a signal that lets a profiler write what it has.
      this.#nodes.kill('SIGTERM');
      await gone;
    }
    this.#pki.remove();
    await this.#controller.stop();
    await this.plane.stop();
  }

  /** For messages of failures. */
  get log(): string {
    return `${this.#controller.log.slice(-4_000)}\n${this.#log}`;
  }
}

/** Requests by verb and resource, the most frequent first. */
export function countsOf(events: readonly AuditEvent[]): string {
  const counts = new Map<string, number>();
  for (const { verb, objectRef, responseStatus } of events) {
    const { resource = 'other', subresource } = objectRef ?? {};
    const refused = (responseStatus?.code ?? 200) >= 400 ? ` (${responseStatus?.code})` : '';
    const name = `${verb} ${resource}${subresource === undefined ? '' : `/${subresource}`}${refused}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([what, n]) => `${n} ${what}`)
    .join(', ');
}
