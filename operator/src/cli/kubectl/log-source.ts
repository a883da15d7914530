import { ApiError } from '../../cluster/api-client.ts';
import { asRecord } from '../../cluster/json.ts';
import { LineSplitter } from '../../cluster/lines.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { OvpnError } from '../../errors.ts';
import type { Cluster } from './connection.ts';
import { parseLogLine, type LogLine } from './log-line.ts';
import { type Component, componentOf, operatorSelector } from './operator-pods.ts';
import { listRaw, refusal } from './read.ts';

/** A container of ours that has a log. */
export interface LogSource {
  readonly pod: string;
  /** Another pod of the same name has another one. */
  readonly uid: string;
  readonly container: string;
  readonly component: Component;
  readonly node: string;
  /** It has been started again, and the log of the one before may still be there. */
  readonly restarted: boolean;
}

/** No line of ours is longer: longer ones are not ours. */
const maxLineBytes = 4 * 1024 * 1024;

type Reading = Pick<Cluster, 'client' | 'timeoutMs' | 'operatorNamespace'>;

/**
 * The containers of the operator that have begun to run, by the labels that the chart gives their pods.
 *
 * @throws OvpnError AccessDenied, ApiUnavailable
 */
export async function logSources(cluster: Reading): Promise<LogSource[]> {
  const where = { namespace: cluster.operatorNamespace, labelSelector: operatorSelector };
  const pods = await listRaw(cluster, 'Pod', where);
  return pods.flatMap(sourcesOf).sort((one, other) => (one.pod < other.pod ? -1 : 1));
}

function sourcesOf(pod: unknown): LogSource[] {
  const { metadata, spec, status } = asRecord(pod) ?? {};
  const { name, uid, labels } = asRecord(metadata) ?? {};
  const { nodeName = '', containers } = asRecord(spec) ?? {};
  const component = componentOf(labels);
  if (component === undefined) return [];
  if (typeof name !== 'string' || typeof uid !== 'string' || typeof nodeName !== 'string' || !Array.isArray(containers))
    return [];
  const { phase, containerStatuses } = asRecord(status) ?? {};
  if (phase === 'Pending') return [];
  const restarted = new Set(
    (Array.isArray(containerStatuses) ? (containerStatuses as unknown[]) : []).flatMap((each) => {
      const { name: container, lastState } = asRecord(each) ?? {};
      return asRecord(asRecord(lastState)?.['terminated']) === undefined ? [] : [container];
    }),
  );
  return containers.flatMap((each: unknown) => {
    const { name: container } = asRecord(each) ?? {};
    if (typeof container !== 'string') return [];
    return [{ pod: name, uid, container, component, node: nodeName, restarted: restarted.has(container) }];
  });
}

/** By what a person knows the one who writes. */
export function nameOfSource({ component, node, pod }: LogSource): string {
  return component === 'agent' ? node : component === 'holder' ? `${node}/holder` : pod;
}

/**
 * Reads a log line by line.
 *
 * @param since how far back, in seconds, or from which time on (RFC 3339; in whole seconds, as the API server takes it)
 * @param follow goes on until the container ends or the signal aborts
 * @param previous of the container before the one that runs
 * @throws OvpnError AccessDenied, ApiUnavailable
 */
export async function readLog(
  { client, timeoutMs, operatorNamespace: namespace }: Reading,
  source: LogSource,
  since: { readonly seconds: number } | { readonly time: string },
  each: (line: LogLine) => void,
  {
    follow = false,
    previous = false,
    signal,
  }: { readonly follow?: boolean; readonly previous?: boolean; readonly signal: AbortSignal },
): Promise<void> {
  const query = {
    container: source.container,
    timestamps: 'true',
    ...(follow ? { follow: 'true' } : {}),
    ...(previous ? { previous: 'true' } : {}),
    ...('seconds' in since
      ? { sinceSeconds: String(Math.max(1, Math.ceil(since.seconds))) }
      : { sinceTime: since.time }),
  };
  const path = `${apiPath('Pod', { namespace, name: source.pod })}/log`;
  const name = nameOfSource(source);
  try {
    const response = await client.open({ path, query, accept: '*/*', signal, timeoutMs });
    const lines = new LineSplitter(maxLineBytes);
    for await (const chunk of response as AsyncIterable<Buffer>) {
      for (const line of lines.push(chunk)) each(parseLogLine(name, line));
    }
  } catch (error) {
    throw error instanceof ApiError && error.status === 403
      ? new OvpnError('AccessDenied', `you may not get the logs of pods in namespace ${namespace}`)
      : refusal(error, 'get', 'Pod', namespace);
  }
}
