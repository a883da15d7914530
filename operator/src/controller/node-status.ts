import { apiVersion, type VpnNetwork } from '../api/types.ts';
import { apiPath } from '../cluster/resource-path.ts';
import { agentFieldManager } from '../cluster/status-writer.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from './reconciler.ts';

/** When the API server has a node that is not seen here: look again. */
const lagMs = 5_000;

/**
 * Takes out of the status of networks what agents said of Nodes that no longer exist: nobody else would. It applies
 * nothing in the name of that agent's field manager, so exactly what that agent said goes. Keys are names of networks.
 */
export class NodeStatus implements Reconciler {
  readonly name = 'node-status';
  readonly #context: ReconcilerContext;

  constructor(context: ReconcilerContext) {
    this.#context = context;
  }

  watch(enqueue: Enqueue): void {
    const { networks, nodes } = this.#context.caches;
    networks.onChange((now) => {
      if (now?.value !== undefined && this.#gone(now.value).length > 0) enqueue(now.key);
    });
    nodes.onChange((now) => {
      if (now === undefined) for (const { key } of networks.list()) enqueue(key);
    });
  }

  async reconcile(key: string): Promise<number | undefined> {
    const { caches, writer, log } = this.#context;
    const tracked = caches.networks.get(key);
    const gone = tracked?.value === undefined ? [] : this.#gone(tracked.value);
    let lags = false;
    for (const node of gone) {
      // One that has just joined may be told of later than what its agent says: the agent would not say it again.
      if ((await writer.get(apiPath('Node', { name: node }))) !== undefined) {
        lags = true;
        continue;
      }
      const metadata = { name: key, uid: tracked?.meta.uid };
      const object = { apiVersion, kind: 'VpnNetwork', metadata, status: {} };
      const path = apiPath('VpnNetwork', { name: key });
      caches.networks.wrote(await writer.applyStatus(path, object, agentFieldManager(node)));
      log.info({ event: 'network.node-gone', network: key, node }, 'what a node that is gone had said is removed');
    }
    return lags ? lagMs : undefined;
  }

  #gone({ status }: VpnNetwork): string[] {
    const { nodes } = this.#context.caches;
    return (status?.nodes ?? []).map(({ name }) => name).filter((name) => nodes.get(name) === undefined);
  }
}
