import { customResourceDefinition } from '../../../api/crd.ts';
import { definitions } from '../../../api/definitions.ts';
import { group, version as apiVersion } from '../../../api/types.ts';
import { ApiError } from '../../../cluster/api-client.ts';
import { asRecord } from '../../../cluster/json.ts';
import { describe, OvpnError } from '../../../errors.ts';
import { version } from '../../../version.ts';
import type { Fact } from '../../doctor/facts.ts';
import type { Finding } from '../../doctor/findings.ts';
import type { Cluster } from '../connection.ts';
import { askForJson, isUp, type OperatorPod, operatorPods, operatorSelector, records, text } from '../operator-pods.ts';
import { getRaw, list, listRaw } from '../read.ts';
import type { ClusterFacts, DaemonSetFact, DefinitionFact, LeaderFact, NodeFact } from './facts.ts';

type Json = Readonly<Record<string, unknown>>;

/** So many nodes are asked at a time: each is a connection by way of the API server. */
const nodesAtOnce = 8;
const nodeLeaseNamespace = 'kube-node-lease';
const leaderLease = 'ovpn-controller';

/**
 * Looks at a cluster; changes nothing. What may not, or cannot, be looked at is a fact of its own.
 *
 * @param only the one node to look at; all without it
 * @throws OvpnError ApiUnavailable when the API server is not reached at all
 */
export async function gatherCluster(cluster: Cluster, only?: string): Promise<ClusterFacts> {
  const now = await serverTime(cluster);
  const pods = await look(() => operatorPods(cluster));
  const nodes = await look(async () => {
    const all = (await listRaw(cluster, 'Node')).flatMap((node) => nodeFact(node) ?? []);
    return only === undefined ? all : all.filter(({ name }) => name === only);
  });
  const [found, daemonSets, nodeLeases, leader, networks, peers, keys, missingRights] = await Promise.all([
    look(() => readDefinitions(cluster)),
    look(() => readDaemonSets(cluster)),
    look(() => readNodeLeases(cluster)),
    look(() => readLeader(cluster)),
    look(() => list(cluster, 'VpnNetwork')),
    look(() => list(cluster, 'VpnPeer', cluster.narrowed ? cluster.namespace : undefined)),
    look(() => list(cluster, 'VpnKey', cluster.narrowed ? cluster.namespace : undefined)),
    look(() => readMissingRights(cluster, pods)),
  ]);
  const agents = 'known' in pods ? pods.known.filter(({ component }) => component === 'agent') : [];
  const asked = agents.filter(({ node }) => node !== undefined && (only === undefined || node === only));
  return {
    ...{ now, operatorNamespace: cluster.operatorNamespace, version, definitions: found, pods, daemonSets, nodes },
    ...{ nodeLeases, leader, networks, peers, keys, missingRights },
    nodeFindings: await askNodes(cluster, asked),
  };
}

async function look<T>(read: () => Promise<T>): Promise<Fact<T>> {
  try {
    return { known: await read() };
  } catch (error) {
    return { unknown: error instanceof OvpnError ? error.problem : describe(error) };
  }
}

/**
 * What the API server's clock says, which its answers have to the second. Also shows whether it can be reached: where
 * not, every check would say so one after the other.
 */
async function serverTime({ client, timeoutMs }: Cluster): Promise<number> {
  try {
    const response = await client.open({ path: '/version', signal: new AbortController().signal, timeoutMs });
    response.resume();
    return timeOf(response.headers.date) ?? Date.now();
  } catch (error) {
    // Who may not ask for the version may be allowed other things.
    if (error instanceof ApiError && error.status === 403) return Date.now();
    const remedy = 'check that the API server can be reached, your credentials, and --context';
    throw new OvpnError('ApiUnavailable', describe(error), {}, { remedy, cause: error });
  }
}

function timeOf(value: unknown): number | undefined {
  const time = typeof value === 'string' ? Date.parse(value) : Number.NaN;
  return Number.isNaN(time) ? undefined : time;
}

async function readDefinitions(cluster: Cluster): Promise<DefinitionFact[]> {
  return Promise.all(
    definitions.map(async (definition) => {
      const name = `${definition.plural}.${group}`;
      return definitionFact(
        name,
        customResourceDefinition(definition),
        await getRaw(cluster, 'CustomResourceDefinition', { name }),
      );
    }),
  );
}

/** How a CRD of the API server differs from the one that this program was built with. */
export function definitionFact(name: string, own: unknown, found: unknown): DefinitionFact {
  const absent = { name, present: found !== undefined, served: false, lacking: [], unknown: [] };
  const [here, there] = [schemaOf(own), schemaOf(found)];
  if (here === undefined || there === undefined) return absent;
  const [mine, theirs] = [fieldsOf(here), fieldsOf(there)];
  return {
    ...absent,
    served: true,
    lacking: [...mine].filter((field) => !theirs.has(field)),
    unknown: [...theirs].filter((field) => !mine.has(field)),
  };
}

/** The schema of the version that this program speaks, if that is served. */
function schemaOf(definition: unknown): Json | undefined {
  const versions = records(asRecord(asRecord(definition)?.['spec'])?.['versions']);
  const found = versions.find(({ name, served }) => name === apiVersion && served === true);
  return asRecord(asRecord(found?.['schema'])?.['openAPIV3Schema']);
}

/** The paths of all fields below spec and status. A field that is lacking is named without those below it. */
function fieldsOf(schema: Json, path = '', into = new Set<string>()): Set<string> {
  for (const [name, property] of Object.entries(asRecord(schema['properties']) ?? {})) {
    const at = path === '' ? name : `${path}.${name}`;
    if (at === 'metadata') continue;
    into.add(at);
    fieldsOf(asRecord(property) ?? {}, at, into);
  }
  for (const inner of ['items', 'additionalProperties']) {
    const below = asRecord(schema[inner]);
    if (below !== undefined) fieldsOf(below, `${path}[]`, into);
  }
  return into;
}

async function readDaemonSets(cluster: Cluster): Promise<DaemonSetFact[]> {
  const where = { namespace: cluster.operatorNamespace, labelSelector: operatorSelector };
  return (await listRaw(cluster, 'DaemonSet', where)).flatMap((object) => {
    const { metadata, spec, status } = asRecord(object) ?? {};
    const { name, labels } = asRecord(metadata) ?? {};
    const component = asRecord(labels)?.['app.kubernetes.io/component'];
    if (typeof name !== 'string' || typeof component !== 'string') return [];
    const count = (field: string): number => {
      const value = asRecord(status)?.[field];
      return typeof value === 'number' ? value : 0;
    };
    const strategy = asRecord(asRecord(spec)?.['updateStrategy'])?.['type'];
    const podSpec = asRecord(asRecord(asRecord(spec)?.['template'])?.['spec']);
    return {
      name,
      component,
      desired: count('desiredNumberScheduled'),
      updated: count('updatedNumberScheduled'),
      ready: count('numberReady'),
      rolls: strategy !== 'OnDelete',
      nodeSelector: texts(podSpec?.['nodeSelector']),
    };
  });
}

function nodeFact(object: unknown): NodeFact | undefined {
  const { metadata, spec, status } = asRecord(object) ?? {};
  const { name, labels } = asRecord(metadata) ?? {};
  if (typeof name !== 'string') return undefined;
  const { unschedulable, taints } = asRecord(spec) ?? {};
  const conditions = records(asRecord(status)?.['conditions']);
  return {
    name,
    labels: texts(labels),
    ready: conditions.some(({ type, status: value }) => type === 'Ready' && value === 'True'),
    unschedulable: unschedulable === true,
    taints: records(taints).map(
      ({ key, value, effect }) =>
        `${text(key) ?? ''}${text(value) === undefined ? '' : `=${text(value) ?? ''}`}:${text(effect) ?? ''}`,
    ),
  };
}

function texts(value: unknown): Record<string, string> {
  return Object.fromEntries(
    Object.entries(asRecord(value) ?? {}).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}

async function readNodeLeases(cluster: Cluster): Promise<ReadonlyMap<string, number>> {
  const leases = await listRaw(cluster, 'Lease', { namespace: nodeLeaseNamespace });
  return new Map(
    leases.flatMap((lease) => {
      const { metadata, spec } = asRecord(lease) ?? {};
      const { name } = asRecord(metadata) ?? {};
      const renewed = timeOf(asRecord(spec)?.['renewTime']);
      return typeof name === 'string' && renewed !== undefined ? [[name, renewed] as const] : [];
    }),
  );
}

async function readLeader(cluster: Cluster): Promise<LeaderFact | undefined> {
  const lease = await getRaw(cluster, 'Lease', { namespace: cluster.operatorNamespace, name: leaderLease });
  const { holderIdentity, renewTime, leaseDurationSeconds } = asRecord(asRecord(lease)?.['spec']) ?? {};
  const renewed = timeOf(renewTime);
  if (typeof holderIdentity !== 'string' || holderIdentity === '' || renewed === undefined) return undefined;
  return {
    holder: holderIdentity,
    renewed,
    durationSeconds: typeof leaseDurationSeconds === 'number' ? leaseDurationSeconds : 15,
  };
}

/** What our processes cannot do without; that they have all they need, and no more, the tests of the chart show. */
const neededRights: readonly {
  readonly component: 'agent' | 'controller';
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
  readonly subresource?: string;
  /** In the operator's namespace; else in all. */
  readonly own?: true;
}[] = [
  { component: 'agent', verb: 'watch', group, resource: 'vpnnetworks' },
  { component: 'agent', verb: 'watch', group, resource: 'vpnpeers' },
  { component: 'agent', verb: 'patch', group, resource: 'vpnpeers', subresource: 'status' },
  { component: 'agent', verb: 'watch', group: '', resource: 'nodes' },
  { component: 'agent', verb: 'get', group: '', resource: 'pods' },
  { component: 'agent', verb: 'watch', group: '', resource: 'secrets', own: true },
  { component: 'controller', verb: 'watch', group, resource: 'vpnnetworks' },
  { component: 'controller', verb: 'patch', group, resource: 'vpnnetworks', subresource: 'status' },
  { component: 'controller', verb: 'create', group, resource: 'vpnallocations' },
  { component: 'controller', verb: 'create', group: '', resource: 'secrets', own: true },
  { component: 'controller', verb: 'update', group: 'coordination.k8s.io', resource: 'leases', own: true },
];

/** Asks the API server by SubjectAccessReviews, which write nothing. Needs the right to create them. */
async function readMissingRights(cluster: Cluster, pods: Fact<readonly OperatorPod[]>): Promise<string[]> {
  if ('unknown' in pods) throw new Error('their pods, and so their accounts, cannot be seen');
  const accounts = new Map(pods.known.map(({ component, account }) => [component, account]));
  const answers = await Promise.all(
    neededRights.map(async ({ component, verb, group: apiGroup, resource, subresource, own }) => {
      const account = accounts.get(component);
      if (account === undefined) return [];
      const allowed = await isAllowed(cluster, `system:serviceaccount:${cluster.operatorNamespace}:${account}`, {
        ...{ verb, group: apiGroup, resource },
        ...(subresource === undefined ? {} : { subresource }),
        ...(own === true ? { namespace: cluster.operatorNamespace } : {}),
      });
      const what = `${resource}${subresource === undefined ? '' : `/${subresource}`}`;
      return allowed ? [] : [`${account} may not ${verb} ${what}`];
    }),
  );
  return answers.flat();
}

async function isAllowed({ client, timeoutMs }: Cluster, user: string, resourceAttributes: object): Promise<boolean> {
  const review = {
    apiVersion: 'authorization.k8s.io/v1',
    kind: 'SubjectAccessReview',
    spec: { user, groups: ['system:serviceaccounts', 'system:authenticated'], resourceAttributes },
  };
  try {
    const answer = await client.json({
      method: 'POST',
      path: '/apis/authorization.k8s.io/v1/subjectaccessreviews',
      body: { type: 'application/json', text: JSON.stringify(review) },
      signal: new AbortController().signal,
      timeoutMs,
    });
    return asRecord(asRecord(answer)?.['status'])?.['allowed'] === true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 403)
      throw new OvpnError('AccessDenied', 'you may not create subjectaccessreviews.authorization.k8s.io');
    throw error;
  }
}

async function askNodes(
  cluster: Cluster,
  agents: readonly OperatorPod[],
): Promise<ReadonlyMap<string, Fact<readonly Finding[]>>> {
  const answers = new Map<string, Fact<readonly Finding[]>>();
  const waiting = [...agents];
  const worker = async (): Promise<void> => {
    for (let pod = waiting.pop(); pod !== undefined; pod = waiting.pop()) {
      const asked = pod;
      // One that does not run has a finding of its own, by its pod.
      if (asked.node !== undefined && isUp(asked)) answers.set(asked.node, await look(() => askNode(cluster, asked)));
    }
  };
  await Promise.all(Array.from({ length: nodesAtOnce }, worker));
  return answers;
}

/** A node's own doctor. The runtime's folders are seen by another container than the agent's: that one is asked about them. */
async function askNode(cluster: Cluster, pod: OperatorPod): Promise<readonly Finding[]> {
  const found = parseFindings(await askForJson(cluster, pod, ['doctor', '-o', 'json', ...holderOption(pod)]));
  const installer = pod.containers.find(({ name }) => name === 'install-cni');
  if (installer === undefined || installer.waiting !== undefined) return found;
  const args = ['doctor', '-o', 'json', '--only', 'cni-plugin', ...cniOptions(installer.args)];
  const cni = await askForJson(cluster, pod, args, 'install-cni').then(parseFindings, () => undefined);
  return cni === undefined ? found : [...found.filter(({ check }) => check !== 'cni-plugin'), ...cni];
}

/** Where the agent is told to keep its sockets itself, there is no holder to miss. */
function holderOption({ containers }: OperatorPod): string[] {
  const agent = containers.find(({ name }) => name === 'agent');
  return agent?.args.filter((arg) => arg.startsWith('--holder=')) ?? [];
}

/** The folders and the mode that the installer itself was given. */
export function cniOptions(args: readonly string[]): string[] {
  const folders = args.filter((arg) => /^--(?:bin|conf)-dir=/.test(arg));
  return [...folders, '--cni-mode', args.includes('--chain') ? 'chain' : 'file'];
}

/** The answer of a node's doctor. @throws Error when it is none */
export function parseFindings(value: unknown): Finding[] {
  if (!Array.isArray(value)) throw new Error('its answer is no list of findings');
  return (value as unknown[]).map((one) => {
    const { severity, check, object, text: what, remedy } = asRecord(one) ?? {};
    const known = severity === 'error' || severity === 'warning' || severity === 'unchecked' || severity === 'ok';
    if (!known || typeof check !== 'string' || typeof object !== 'string' || typeof what !== 'string')
      throw new Error('its answer has something that is no finding');
    return { severity, check, object, text: what, ...(typeof remedy === 'string' ? { remedy } : {}) };
  });
}
