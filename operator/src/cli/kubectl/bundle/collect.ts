import { definitions } from '../../../api/definitions.ts';
import { type CustomKind, group } from '../../../api/types.ts';
import { ApiError } from '../../../cluster/api-client.ts';
import { type ApiKind, apiPath } from '../../../cluster/resource-path.ts';
import { describe, OvpnError } from '../../../errors.ts';
import { version } from '../../../version.ts';
import type { Cluster } from '../connection.ts';
import { clusterFindings } from '../doctor/findings.ts';
import { gatherCluster } from '../doctor/gather.ts';
import { clusterDoctorText } from '../doctor/text.ts';
import { askForJson, isUp, operatorPod, type OperatorPod, operatorSelector } from '../operator-pods.ts';
import { getRaw, listRaw, refusal } from '../read.ts';
import type { BundleFile } from './archive.ts';
import { holdsSecret, type Redactor } from './redact.ts';
import { pick, reportShape, type Shape, shapeOf, shapes } from './shapes.ts';

/** How much is taken. */
export interface Bounds {
  /** Log lines of so many seconds. */
  readonly sinceSeconds: number;
  /** So many bytes of one container's log, the newest. */
  readonly logBytes: number;
}

const customKinds = definitions.map(({ kind }) => kind);
/** A log is cut to its newest lines on the node already. */
const tailLines = 20_000;

/**
 * Reads what a bundle is made of. Nothing is read of Secrets, and of ConfigMaps only their names are kept. What
 * cannot be read is named in `errors.txt`.
 *
 * @param progress told what comes next
 */
export async function collect(
  cluster: Cluster,
  bounds: Bounds,
  redact: Redactor,
  progress: (text: string) => void,
): Promise<BundleFile[]> {
  const files: BundleFile[] = [];
  const errors: string[] = [];
  const add = (path: string, text: string): void => {
    if (holdsSecret(text)) errors.push(`${path}: left out, because it holds something that is a secret`);
    else files.push({ path, text });
  };
  const addJson = (path: string, value: unknown): void =>
    add(path, `${JSON.stringify(redact.value(value), undefined, 2)}\n`);
  const attempt = async (what: string, work: () => Promise<void>): Promise<void> => {
    progress(what);
    try {
      await work();
    } catch (error) {
      const text = error instanceof OvpnError ? error.problem : describe(error);
      errors.push(redact.text(`${what}: ${text}`));
    }
  };
  const addList = (path: string, kind: ApiKind, shape: Shape, where: Parameters<typeof listRaw>[2] = {}) =>
    attempt(path, async () =>
      addJson(
        path,
        (await listRaw(cluster, kind, where)).map((one) => pick(one, shape)),
      ),
    );

  const { operatorNamespace: namespace } = cluster;
  await attempt('versions.json', async () => {
    const never = new AbortController().signal;
    const server = await cluster.client.json({ path: '/version', signal: never, timeoutMs: cluster.timeoutMs });
    const shape = { gitVersion: true, platform: true } as const;
    addJson('versions.json', { kubectlOvpn: version, node: process.version, apiServer: pick(server, shape) });
  });
  for (const { kind, plural } of definitions) await addList(`objects/${plural}.json`, kind, shapeOf(kind));
  await attempt('objects/definitions.json', async () => {
    const found = await Promise.all(
      definitions.map(({ plural }) => getRaw(cluster, 'CustomResourceDefinition', { name: `${plural}.${group}` })),
    );
    addJson(
      'objects/definitions.json',
      found.map((one) => pick(one, shapes.definition)),
    );
  });
  // Who may see the Events of the operator's namespace need not see those of all.
  await addList('operator/events.json', 'Event', shapes.event, { namespace });
  await attempt('events.json', async () => addJson('events.json', await readEvents(cluster)));
  await addList('nodes.json', 'Node', shapes.node);
  await addList('operator/daemonsets.json', 'DaemonSet', shapes.workload, { namespace });
  await addList('operator/deployments.json', 'Deployment', shapes.workload, { namespace });
  await addList('operator/configmaps.json', 'ConfigMap', shapes.configMap, { namespace });
  await addList('operator/leases.json', 'Lease', shapes.lease, { namespace });
  let pods: OperatorPod[] = [];
  await attempt('operator/pods.json', async () => {
    const found = await listRaw(cluster, 'Pod', { namespace, labelSelector: operatorSelector });
    pods = found.flatMap((one) => operatorPod(one) ?? []);
    addJson(
      'operator/pods.json',
      found.map((one) => pick(one, shapes.pod)),
    );
  });
  await attempt('doctor.txt', async () => {
    const found = clusterFindings(await gatherCluster(cluster));
    addJson('doctor.json', found);
    add('doctor.txt', redact.text(clusterDoctorText(found, true)));
  });
  for (const pod of pods.filter((one) => one.component === 'agent' && isUp(one))) {
    const path = `agents/${pod.node ?? pod.name}.json`;
    await attempt(path, async () =>
      addJson(path, pick(await askForJson(cluster, pod, ['status', '-o', 'json']), reportShape)),
    );
  }
  for (const pod of pods) {
    for (const { name, restarts } of pod.containers) {
      const path = `logs/${pod.name}/${name}`;
      const log = (file: string, previous: boolean) =>
        attempt(file, async () => add(file, redact.text(await readLog(cluster, pod, name, bounds, previous))));
      await log(`${path}.log`, false);
      if (restarts > 0) await log(`${path}.previous.log`, true);
    }
  }
  if (errors.length > 0) files.push({ path: 'errors.txt', text: `${errors.join('\n')}\n` });
  return [{ path: 'README.txt', text: readme(bounds, redact.count) }, ...files];
}

/** What is told of our objects. */
async function readEvents(cluster: Cluster): Promise<unknown[]> {
  const about = async (kind: CustomKind): Promise<unknown[]> =>
    listRaw(cluster, 'Event', { fieldSelector: `regarding.kind=${kind}` });
  return (await Promise.all(customKinds.map(about))).flat().map((event) => pick(event, shapes.event));
}

/** The newest lines of a container's log. @throws OvpnError AccessDenied, ApiUnavailable */
async function readLog(
  { client, timeoutMs }: Cluster,
  { namespace, name }: OperatorPod,
  container: string,
  { sinceSeconds, logBytes }: Bounds,
  previous: boolean,
): Promise<string> {
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    const response = await client.open({
      path: `${apiPath('Pod', { namespace, name })}/log`,
      query: {
        container,
        tailLines: String(tailLines),
        // The time of a container that has ended says nothing about when it failed.
        ...(previous ? { previous: 'true' } : { sinceSeconds: String(sinceSeconds) }),
      },
      accept: '*/*',
      signal: timeout,
      timeoutMs,
    });
    let kept: Buffer[] = [];
    let size = 0;
    for await (const chunk of response as AsyncIterable<Buffer>) {
      kept.push(chunk);
      size += chunk.length;
      // Only the end is wanted, and the beginning need not be held for it.
      if (size > 2 * logBytes) {
        kept = [Buffer.concat(kept).subarray(-logBytes)];
        size = logBytes;
      }
    }
    const all = Buffer.concat(kept);
    if (all.length <= logBytes) return all.toString('utf8');
    const end = all.subarray(-logBytes);
    // From the first whole line on.
    return end.subarray(end.indexOf(0x0a) + 1).toString('utf8');
  } catch (error) {
    if (error instanceof ApiError && error.status === 403)
      throw new OvpnError('AccessDenied', `you may not get pods/log in namespace ${namespace}`);
    if (error instanceof ApiError && error.status !== 401) throw new OvpnError('ExecFailed', error.message);
    throw refusal(error, 'get', 'Pod', namespace);
  }
}

function readme({ sinceSeconds, logBytes }: Bounds, redacted: number): string {
  return `A support bundle of ovpn-operator, made by kubectl-ovpn ${version}.

Look through it before you share it. Nothing was read of Secrets. Of all objects only the fields are here that say how
the operator fares; annotations, environment variables and the contents of ConfigMaps are not. What looked like a key,
a token or a password in messages and logs was replaced by [redacted N], the same passage by the same N: ${redacted} times.
A password in a free text, without a name before it, cannot be told from other words. Names, labels, addresses and
routes are here.

objects/      VpnNetworks, VpnPeers, VpnKeys, VpnAllocations, and which versions of them are served
events.json   Events about them
operator/     pods, DaemonSets, Deployments, Leases, Events; names of ConfigMaps
nodes.json    kernels, runtimes, addresses, labels and taints
agents/       what the kernel of each node holds
doctor.txt    what kubectl ovpn doctor found; doctor.json has it for programs
logs/         of ${sinceSeconds} s, ${logBytes} bytes of each container at most
errors.txt    what could not be read, if there was something
`;
}
