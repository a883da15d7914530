import type { VpnPeer } from '../../../operator/src/api/types.ts';
import { ApiClient } from '../../../operator/src/cluster/api-client.ts';
import { systemClock } from '../../../operator/src/cluster/clock.ts';
import { Informer } from '../../../operator/src/cluster/informer.ts';
import { loadKubeAccess } from '../../../operator/src/cluster/kube-access.ts';
import { apiPath } from '../../../operator/src/cluster/resource-path.ts';
import { createLog } from '../../../operator/src/telemetry/log.ts';

/** The peers of a namespace as anybody sees them who watches, and since when their status says that all is done. */
export class PeerWatch {
  readonly #client: ApiClient;
  readonly #informer: Informer<VpnPeer>;
  readonly #said = new Map<string, number>();
  readonly #waiting = new Map<string, (at: number) => void>();

  static async start(kubeconfig: string, namespace: string): Promise<PeerWatch> {
    const access = await loadKubeAccess({ kubeconfig });
    const watch = new PeerWatch(namespace, new ApiClient(access, systemClock, 'ovpn-bench'));
    await watch.#informer.start();
    return watch;
  }

  private constructor(namespace: string, client: ApiClient) {
    this.#client = client;
    this.#informer = new Informer<VpnPeer>({
      client,
      clock: systemClock,
      random: Math.random,
      log: createLog({ level: 'error', to: 'stderr' }),
      path: apiPath('VpnPeer', { namespace }),
      read: (object) => object as VpnPeer,
    });
    this.#informer.onChange((now) => {
      if (now?.value === undefined || this.#said.has(now.key)) return;
      const ready = now.value.status?.conditions?.find(({ type }) => type === 'Ready');
      // A peer that dials in is done when it waits for its client.
      if (ready?.status !== 'True' && ready?.reason !== 'WaitingForClient') return;
      const at = performance.now();
      this.#said.set(now.key, at);
      this.#waiting.get(now.key)?.(at);
    });
  }

  /** How many have a status that says that all is done on our side. */
  get said(): number {
    return this.#said.size;
  }

  /** When that was first said of one (`namespace/name`), on the clock of performance.now(). */
  untilSaid(key: string): Promise<number> {
    const known = this.#said.get(key);
    if (known !== undefined) return Promise.resolve(known);
    return new Promise((resolve) => this.#waiting.set(key, resolve));
  }

  async stop(): Promise<void> {
    await this.#informer.stop();
    this.#client.close();
  }
}
