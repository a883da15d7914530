import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { namespaceName } from '../../operator/src/agent/names.ts';
import { deleteNamespace } from '../../operator/src/kernel/netns.ts';
import { key, network, newStaticKey, peer, secret } from '../support/manifests.ts';
import { keepalive, remoteOf, vpnAddressOf } from './peers.ts';

export const networkName = 'bench';
export const nodeName = 'bench-node';

/** What programs/agent.ts can be asked to do. */
export type AgentQuestion = 'settled' | 'resync' | 'observe';

/** What it took. `writes` counts netlink requests that change something. */
export interface AgentAnswer {
  readonly ms: number;
  readonly writes: number;
  readonly peakKiB: number;
}

/** A node agent in a process of its own, on a folder of manifests with a file per peer. */
export class AgentProcess {
  readonly namespacePath: string;
  readonly #folder = mkdtempSync(join(tmpdir(), 'bench-agent-'));
  readonly #manifests = join(this.#folder, 'manifests');
  readonly #netns = join(this.#folder, 'netns');
  readonly #keys = new Map<number, string>();
  #agent: ChildProcess | undefined;
  #log = '';

  constructor(peers: number) {
    mkdirSync(this.#manifests);
    this.namespacePath = join(this.#netns, namespaceName(networkName));
    this.#write(
      'network.yaml',
      network({
        name: networkName,
        node: nodeName,
        addresses: ['10.80.255.254'],
        peerPools: ['10.80.0.0/16'],
        podBlocks: ['10.81.0.0/24'],
        port: 0x4000 + (process.pid % 0x4000),
        // Fixed: the path to each endpoint need not be looked up.
        spec: { mtu: 1400 },
      }),
    );
    for (let id = 1; id <= peers; id++) this.writePeer(id);
  }

  /** Writes the manifest of a peer; another port is the change that is measured. The file is swapped in whole. */
  writePeer(id: number, port = remoteOf(id).port): void {
    const name = `peer-${String(id).padStart(5, '0')}`;
    const text = [
      peer({
        name,
        networkName,
        peerID: id,
        endpoint: { address: remoteOf(id).address, port },
        addresses: [vpnAddressOf(id)],
        routes: [`10.${128 + (id >> 8)}.${id & 255}.0/24`],
        spec: { keepalive: { intervalSeconds: keepalive.interval, timeoutSeconds: keepalive.timeout } },
      }),
      key({ name, direction: 'Normal' }),
      secret(name, this.#keyOf(id)),
    ].join('---\n');
    this.#write(`${name}.yaml`, text);
  }

  /** A peer keeps its key when its manifest is written anew. */
  #keyOf(id: number): string {
    const material = this.#keys.get(id) ?? newStaticKey();
    this.#keys.set(id, material);
    return material;
  }

  #write(file: string, text: string): void {
    writeFileSync(join(this.#folder, file), text, { mode: 0o600 });
    renameSync(join(this.#folder, file), join(this.#manifests, file));
  }

  /** Starts the agent; resolves when it has settled, with what that took from the start of its process. */
  async start(): Promise<AgentAnswer> {
    const args = [this.#manifests, join(this.#folder, 'state'), this.#netns];
    const begun = performance.now();
    const agent = fork(join(import.meta.dirname, 'programs', 'agent.ts'), args, {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    this.#agent = agent;
    // Kept short: ten thousand peers fill megabytes.
    const keep = (chunk: Buffer): void => void (this.#log = (this.#log + chunk.toString('utf8')).slice(-4000));
    agent.stdout?.on('data', keep);
    agent.stderr?.on('data', keep);
    await this.#answer();
    const settled = await this.ask('settled');
    return { ...settled, ms: performance.now() - begun };
  }

  async ask(question: AgentQuestion): Promise<AgentAnswer> {
    this.#agent?.send(question);
    return this.#answer();
  }

  async #answer(): Promise<AgentAnswer> {
    return new Promise((resolve, reject) => {
      const ended = (): void => reject(new Error(`the agent ended:\n${this.#log}`));
      this.#agent?.once('exit', ended);
      this.#agent?.once('message', (answer) => {
        this.#agent?.off('exit', ended);
        resolve(answer as AgentAnswer);
      });
    });
  }

  async close(): Promise<void> {
    const agent = this.#agent;
    if (agent?.exitCode === null) {
      const gone = new Promise((resolve) => agent.once('exit', resolve));
      agent.kill('SIGKILL');
      await gone;
    }
    deleteNamespace(namespaceName(networkName), this.#netns);
    spawnSync('umount', ['-l', this.#netns]);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
