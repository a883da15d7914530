import { setTimeout as sleep } from 'node:timers/promises';
import { Random, seedFor } from '../../fuzz/random.ts';
import type { CniResult } from '../office.ts';
import { globalAddresses } from '../links.ts';
import { attempt, run } from '../run.ts';
import type { ChaosNode, ChaosScene } from './scene.ts';

/**
 * The container runtimes of all nodes: each attaches a fresh sandbox by the CNI binary, keeps it for a while, and
 * detaches it. As runtimes do, a DEL follows an ADD that failed, and the next ADD has another sandbox.
 */
export class PodChurn {
  readonly #seed: number;
  /** Who has an address: it is free again when its DEL is begun. */
  readonly #held = new Map<string, string>();
  readonly #wrong: string[] = [];
  readonly #ended: Promise<unknown>;
  #going = true;
  #attached = 0;
  #refused = 0;

  constructor(scene: ChaosScene, seed: number) {
    this.#seed = seed;
    for (const { host, pod } of scene.nodes)
      for (const { address } of pod.result.ips) this.#held.set(address, `the pod of ${host.name}`);
    this.#ended = Promise.all(scene.nodes.map((node) => this.#work(node)));
  }

  /** Ends when every sandbox is detached; answers how many there were, and what was wrong. */
  async stop(): Promise<{ readonly attached: number; readonly refused: number; readonly wrong: readonly string[] }> {
    this.#going = false;
    await this.#ended;
    return { attached: this.#attached, refused: this.#refused, wrong: this.#wrong };
  }

  async #work({ host, agent }: ChaosNode): Promise<void> {
    const random = new Random(seedFor(this.#seed, `pods of ${host.name}`));
    for (let round = 0; this.#going; round++) {
      const name = `${host.hosts.prefix}-${host.name}-${round}`;
      const call = { network: 'corp', containerId: name, netns: `/run/netns/${name}` };
      await run('ip', 'netns', 'add', name);
      try {
        const { code, stdout } = await agent.cni('ADD', call);
        if (code === 0) {
          this.#attached++;
          await this.#hold(name, JSON.parse(stdout) as CniResult);
          await sleep(random.below(4_000));
        } else this.#refused++;
        for (const [address, owner] of this.#held) if (owner === name) this.#held.delete(address);
        await this.#detach(name, () => agent.cni('DEL', call));
      } catch (error) {
        this.#wrong.push(`${name}: ${String(error)}`);
      } finally {
        // With it goes what is left of its interface, as after a node's reboot.
        await attempt('ip', ['netns', 'del', name]);
      }
      await sleep(200 + random.below(1_500));
    }
  }

  async #hold(name: string, { ips }: CniResult): Promise<void> {
    for (const { address } of ips) {
      const owner = this.#held.get(address);
      if (owner !== undefined) this.#wrong.push(`${name} got ${address}, which ${owner} has`);
      this.#held.set(address, name);
    }
    const given = ips.map(({ address }) => address.split('/')[0] ?? '').sort();
    const found = (await globalAddresses(name, 'vpn0')).sort();
    if (given.join() !== found.join())
      this.#wrong.push(`${name} was told ${given.join(', ')}, and its interface has ${found.join(', ')}`);
  }

  /** DEL has to succeed whoever is away. */
  async #detach(name: string, del: () => Promise<{ code: number; stdout: string; stderr: string }>): Promise<void> {
    const { code, stdout, stderr } = await del();
    if (code !== 0) this.#wrong.push(`DEL of ${name}: ${stdout}${stderr}`);
  }
}
