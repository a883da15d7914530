import type { CustomKind, ObjectRef } from '../../api/types.ts';
import { systemClock } from '../../cluster/clock.ts';
import { keyOf } from '../../cluster/informer.ts';
import { ListWatch } from '../../cluster/list-watch.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { type Log, silentLog } from '../../telemetry/log.ts';
import type { Cluster } from './connection.ts';
import { type Seen, seen } from './read.ts';

/**
 * Follows the objects of a kind until the signal aborts; connections that break are taken up again.
 *
 * @param changed is told what is new or may have changed, and the keys of what is gone
 * @param troubled is told when the API server does not answer
 */
export async function follow<K extends CustomKind>(
  { client, timeoutMs }: Pick<Cluster, 'client' | 'timeoutMs'>,
  kind: K,
  namespace: string | undefined,
  changed: (present: readonly Seen<K>[], gone: readonly string[]) => void,
  { signal, troubled }: { readonly signal: AbortSignal; readonly troubled: (message: string) => void },
): Promise<void> {
  let known = new Set<string>();
  const watch = new ListWatch<Seen<K>>({
    client,
    clock: systemClock,
    random: Math.random,
    log: warningsOf(troubled),
    path: apiPath(kind, namespace === undefined ? {} : { namespace }),
    timing: { requestMs: timeoutMs },
    reader: {
      decode: (object) => seen(kind, object),
      replaced: (items) => {
        const present = new Set(items.map(({ ref }) => nameOf(ref)));
        const gone = [...known].filter((name) => !present.has(name));
        known = present;
        changed(items, gone);
      },
      put: (item) => {
        known.add(nameOf(item.ref));
        changed([item], []);
      },
      deleted: (item) => {
        known.delete(nameOf(item.ref));
        changed([], [nameOf(item.ref)]);
      },
    },
  });
  // The clock's timers do not keep a process alive, and between two tries there is nothing else.
  const alive = setInterval(() => undefined, 60_000);
  try {
    void watch.start();
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
    await watch.stop();
  } finally {
    clearInterval(alive);
  }
}

/** `NAMESPACE/NAME`, by which an object is known. */
export const nameOf = (ref: ObjectRef): string => keyOf(ref);

/** A log of which only the warnings are passed on: one broken connection is daily business of a watch. */
function warningsOf(tell: (message: string) => void): Log {
  const log: Log = { ...silentLog, warn: (_fields, message) => tell(message), child: () => log };
  return log;
}
