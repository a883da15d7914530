import type { PodFacts } from '../api/attach-rules.ts';
import { describe, OvpnError } from '../errors.ts';
import { ApiError, type ApiClient } from './api-client.ts';
import { asRecord } from './json.ts';
import type { ResourceSource } from './source.ts';

/** Which pod: its name, and its uid as the container runtime knows it. */
export interface PodName {
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
}

/** A runtime waits for the answer, and calls again. */
const timeoutMs = 5_000;
/** The uid that the kubelet gives a static pod; the API server's copy of it has another one. */
const staticPodUid = 'kubernetes.io/config.hash';

/**
 * Asks the API server for a pod and its namespace. Asked when a pod starts, and only where the answer counts: so it
 * is never older than the pod, and the agent needs no right but `get`. (A watch of the node's pods would need `list`
 * and `watch` of all pods of the cluster, and could be behind the kubelet's all the same.)
 *
 * @throws OvpnError PodUnknown, ApiUnavailable
 */
export async function podFromApi(client: ApiClient, pod: PodName): Promise<PodFacts> {
  const namespacePath = `/api/v1/namespaces/${encodeURIComponent(pod.namespace)}`;
  const [found, namespace] = await Promise.all([
    metadataOf(client, `${namespacePath}/pods/${encodeURIComponent(pod.name)}`, pod),
    metadataOf(client, namespacePath, pod),
  ]);
  const annotations = textsOf(found['annotations']);
  if (pod.uid !== undefined && found['uid'] !== pod.uid && annotations[staticPodUid] !== pod.uid) {
    throw unknown(pod, 'another pod has its name by now');
  }
  return {
    namespace: pod.namespace,
    name: pod.name,
    labels: textsOf(found['labels']),
    annotations,
    namespaceLabels: textsOf(namespace['labels']),
  };
}

/** What the manifests say of a pod; one that they do not have has neither labels nor annotations. */
export function podFromManifests(source: Pick<ResourceSource, 'get'>, { namespace, name }: PodName): PodFacts {
  const { labels = {}, annotations = {} } = source.get('Pod', namespace, name)?.metadata ?? {};
  const namespaceLabels = source.get('Namespace', undefined, namespace)?.metadata.labels ?? {};
  return { namespace, name, labels, annotations, namespaceLabels };
}

async function metadataOf(client: ApiClient, path: string, pod: PodName): Promise<Readonly<Record<string, unknown>>> {
  try {
    const object = await client.json({ path, timeoutMs, signal: new AbortController().signal });
    return asRecord(asRecord(object)?.['metadata']) ?? {};
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) throw unknown(pod, `the API server has no ${path}`);
    throw new OvpnError('ApiUnavailable', describe(error), { object: path }, { cause: error });
  }
}

function unknown({ namespace, name }: PodName, problem: string): OvpnError {
  return new OvpnError('PodUnknown', problem, { object: `Pod ${namespace}/${name}` });
}

function textsOf(value: unknown): Record<string, string> {
  const entries = Object.entries(asRecord(value) ?? {});
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
}
