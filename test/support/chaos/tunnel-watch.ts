import { existsSync } from 'node:fs';
import { tunnelDeviceName } from '../../../operator/src/agent/sessions/tunnel-devices.ts';
import { KernelView } from '../kernel-view.ts';
import type { ChaosScene } from './scene.ts';

/** Looks at the kernels of all nodes this often. Milliseconds. */
const everyMs = 300;
const ref = { kind: 'VpnPeer', namespace: 'team-a', name: 'office' } as const;

/** Watches which nodes have a tunnel to the remote that one of them dials, by their kernels. */
export class TunnelWatch {
  readonly #views: readonly { readonly node: string; readonly view: KernelView }[];
  readonly #timer: NodeJS.Timeout;
  #looks = 0;
  #since: number | undefined;
  #now: readonly string[] = [];
  #longest: { readonly ms: number; readonly nodes: readonly string[] } = { ms: 0, nodes: [] };

  constructor(scene: ChaosScene) {
    this.#views = scene.nodes.map(({ host, agent }) => ({ node: host.name, view: new KernelView(agent) }));
    this.#timer = setInterval(() => this.#look(), everyMs);
  }

  /** How often it has looked; a watch that slept through the run has seen nothing. */
  get looks(): number {
    return this.#looks;
  }

  /** For how long at most more than one node had a tunnel, without a pause, and which. Milliseconds. */
  get longest(): { readonly ms: number; readonly nodes: readonly string[] } {
    return this.#longest;
  }

  /** The nodes that have one now. */
  get now(): readonly string[] {
    return this.#now;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const device = tunnelDeviceName(ref);
    const at = Date.now();
    this.#now = this.#views.flatMap(({ node, view }) => (existsSync(view.path) && hasPeer(view, device) ? [node] : []));
    this.#looks++;
    if (this.#now.length < 2) {
      this.#since = undefined;
      return;
    }
    this.#since ??= at;
    if (at - this.#since >= this.#longest.ms) this.#longest = { ms: at - this.#since, nodes: this.#now };
  }
}

function hasPeer(view: KernelView, device: string): boolean {
  try {
    return view.peerOf(device) !== undefined;
  } catch {
    // The device went between two questions.
    return false;
  }
}
