import { parseAddress } from '../../../api/ip.ts';
import { formatRef, type NetworkListener, type ResourceOf, type VpnNetwork } from '../../../api/types.ts';
import { errorTable } from '../../../errors.ts';
import type { Fact } from '../../doctor/facts.ts';
import type { Severity } from '../../doctor/findings.ts';
import { type Finding as Health, keyFindings, networkFindings, peerFindings } from '../health.ts';
import type { OperatorPod } from '../operator-pods.ts';
import type { Seen } from '../read.ts';
import type { ClusterFacts, ClusterFinding, DefinitionFact, NodeFact } from './facts.ts';

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
/** Certificates that expire sooner are worth a warning: the condition Expiring and the alerts say so then, too. */
const soonMs = 30 * dayMs;
/** A kubelet renews its Lease every 10 s, and has 40 s for it (node.spec: nodeLeaseDurationSeconds). */
const leaseAgeMs = 60_000;
/** The API server tells its time to the second, and an answer takes some time, too. */
const clockToleranceMs = 3_000;
/** A container that started anew since is worth a warning. */
const recentMs = hourMs;

const giveRight = 'have an administrator look, or give you that right';

/** Judges what was found out about a cluster; the worst first. Pure. */
export function clusterFindings(facts: ClusterFacts): ClusterFinding[] {
  const all = [
    ...judged('crds', 'API server', facts.definitions, (known) => known.map(definitionFinding)),
    ...judged('controller', `namespace ${facts.operatorNamespace}`, facts.pods, (pods) =>
      controllerFindings(pods, facts),
    ),
    ...judged('leader', 'controller', facts.leader, (leader) => leaderFindings(leader, facts)),
    ...judged('pods', `namespace ${facts.operatorNamespace}`, facts.pods, (pods) => podFindings(pods, facts)),
    ...judged('versions', `namespace ${facts.operatorNamespace}`, facts.pods, (pods) => versionFindings(pods, facts)),
    ...judged('rollout', `namespace ${facts.operatorNamespace}`, facts.daemonSets, rolloutFindings),
    ...judged('rights', 'service accounts', facts.missingRights, rightFindings),
    ...judged('nodes', 'nodes', facts.nodes, (nodes) => nodeFindings(nodes, facts)),
    ...judged('clock', 'nodes', facts.nodeLeases, (leases) => clockFindings(leases, facts)),
    ...judged('listeners', 'VpnNetworks', facts.networks, (networks) => conflictFindings(networks, facts)),
    ...objectFindings(facts),
    ...[...facts.nodeFindings].flatMap(([node, fact]) =>
      judged('node', 'agent', fact, (found) => [...found]).map((finding) => ({ ...finding, node })),
    ),
  ];
  return order.flatMap((severity) => all.filter((finding) => finding.severity === severity));
}

const order: readonly Severity[] = ['error', 'warning', 'unchecked', 'ok'];

/** What is not known is neither well nor ill. */
function judged<T>(
  check: string,
  object: string,
  fact: Fact<T>,
  judge: (known: T) => readonly ClusterFinding[],
): readonly ClusterFinding[] {
  if ('known' in fact) return judge(fact.known);
  const remedy = fact.unknown.startsWith('you may not') ? { remedy: giveRight } : {};
  return [{ severity: 'unchecked', check, object, text: fact.unknown, ...remedy }];
}

function finding(severity: Severity, check: string, object: string, text: string, remedy?: string): ClusterFinding {
  return { severity, check, object, text, ...(remedy === undefined ? {} : { remedy }) };
}

const ok = (check: string, object: string, text: string): ClusterFinding => finding('ok', check, object, text);

function definitionFinding({ name, present, served, lacking, unknown }: DefinitionFact): ClusterFinding {
  const upgrade = 'upgrade the CRDs with the chart (crds.install), or apply those of this version';
  if (!present) return finding('error', 'crds', name, 'is not there', errorTable.NotInstalled.remedy);
  if (!served) return finding('error', 'crds', name, 'does not serve the version that this program speaks', upgrade);
  if (lacking.length > 0) {
    const text = `is older than this program: it has no ${some(lacking)}`;
    return finding('warning', 'crds', name, text, upgrade);
  }
  if (unknown.length > 0) {
    const text = `is newer than this program, which does not know ${some(unknown)}`;
    return finding('warning', 'crds', name, text, 'update kubectl-ovpn');
  }
  return ok('crds', name, 'is there, and of this version');
}

function controllerFindings(pods: readonly OperatorPod[], { operatorNamespace }: ClusterFacts): ClusterFinding[] {
  const controllers = pods.filter(({ component }) => component === 'controller');
  const object = `namespace ${operatorNamespace}`;
  if (pods.length === 0) {
    const remedy = 'install the operator, or say by --operator-namespace where it is';
    return [finding('error', 'controller', object, 'has no pods of the operator', remedy)];
  }
  if (controllers.some(({ ready }) => ready)) return [ok('controller', object, 'has a controller that is ready')];
  const text =
    controllers.length === 0
      ? 'has no controller: nothing new is allocated, issued or placed; tunnels go on'
      : 'has no controller that is ready: nothing new is allocated, issued or placed; tunnels go on';
  return [finding('error', 'controller', object, text, 'see the pods, and kubectl logs deploy/ovpn-controller')];
}

function leaderFindings(
  leader: ClusterFacts['leader'] extends Fact<infer T> ? T : never,
  { now }: ClusterFacts,
): ClusterFinding[] {
  const remedy = 'see kubectl logs deploy/ovpn-controller; it needs the right to update leases in its namespace';
  if (leader === undefined) return [finding('error', 'leader', 'controller', 'no controller leads', remedy)];
  const ageMs = now - leader.renewed;
  // Its clock may be another one: only what is far beyond says something.
  if (ageMs > leader.durationSeconds * 1000 + leaseAgeMs) {
    const text = `${leader.holder} leads, and has said nothing for ${duration(ageMs)}`;
    return [finding('error', 'leader', 'controller', text, remedy)];
  }
  return [ok('leader', 'controller', `${leader.holder} leads`)];
}

function podFindings(pods: readonly OperatorPod[], { now }: ClusterFacts): ClusterFinding[] {
  return pods.flatMap((pod) => {
    const object = `Pod ${pod.namespace}/${pod.name}`;
    const on = pod.node === undefined ? {} : { node: pod.node };
    const where = `kubectl -n ${pod.namespace}`;
    if (pod.leaving)
      return [
        {
          ...finding('warning', 'pods', object, 'is being deleted', `wait, or see ${where} describe pod ${pod.name}`),
          ...on,
        },
      ];
    if (pod.problem !== undefined) {
      const remedy = `see ${where} describe pod ${pod.name}, and ${where} logs ${pod.name} --all-containers`;
      return [{ ...finding('error', 'pods', object, `is not ready: ${pod.problem}`, remedy), ...on }];
    }
    const restarted = pod.containers.filter(
      ({ lastExit, lastExitAt }) => lastExit !== undefined && (lastExitAt === undefined || now - lastExitAt < recentMs),
    );
    if (restarted.length === 0) return [{ ...ok('pods', object, 'is ready'), ...on }];
    return restarted.map(({ name, restarts, lastExit = '' }) => {
      const text = `container ${name} started anew ${restarts} times, after ${lastExit}`;
      const remedy = lastExit.startsWith('OOMKilled')
        ? 'give it more memory: resources of the chart'
        : `see ${where} logs ${pod.name} -c ${name} --previous`;
      return { ...finding('warning', 'pods', object, text, remedy), ...on };
    });
  });
}

function versionFindings(pods: readonly OperatorPod[], { version, operatorNamespace }: ClusterFacts): ClusterFinding[] {
  const object = `namespace ${operatorNamespace}`;
  // The holder is not replaced by an upgrade; agents work with earlier ones.
  const running = pods.filter(({ component }) => component !== 'holder');
  if (running.length === 0) return [];
  const byVersion = Map.groupBy(running, (pod) => pod.version ?? 'unknown');
  const [first = 'unknown', ...others] = [...byVersion.keys()];
  if (others.length > 0) {
    const text = [...byVersion].map(([each, of]) => `${each}: ${of.length} (${of[0]?.name ?? ''})`).join(', ');
    const remedy = 'wait for the rollout; a pod that stays behind has a finding of its own, or delete it';
    return [finding('warning', 'versions', object, `runs more than one version: ${text}`, remedy)];
  }
  if (first !== version) {
    const text = `runs ${first}, and this program is ${version}`;
    return [finding('warning', 'versions', object, text, 'use the kubectl-ovpn of the version that runs')];
  }
  return [ok('versions', object, `runs ${first} everywhere, as this program`)];
}

function rolloutFindings(sets: ClusterFacts['daemonSets'] extends Fact<infer T> ? T : never): ClusterFinding[] {
  return sets.map(({ name, desired, updated, ready, rolls }) => {
    const object = `DaemonSet ${name}`;
    if (rolls && updated < desired) {
      const text = `has ${updated} of ${desired} pods of its newest form`;
      return finding(
        'warning',
        'rollout',
        object,
        text,
        `see kubectl rollout status ds/${name}; pods that are not ready hold it up`,
      );
    }
    if (ready < desired) {
      return finding(
        'error',
        'rollout',
        object,
        `has ${ready} of ${desired} pods ready`,
        'see the findings of the pods',
      );
    }
    return ok('rollout', object, `has all ${desired} pods ready`);
  });
}

function rightFindings(missing: readonly string[]): ClusterFinding[] {
  if (missing.length === 0) return [ok('rights', 'service accounts', 'have the rights that were asked about')];
  const remedy = "install the chart's roles (rbac.create), or give the account what they have";
  return missing.map((text) => finding('error', 'rights', 'service accounts', text, remedy));
}

function nodeFindings(nodes: readonly NodeFact[], facts: ClusterFacts): ClusterFinding[] {
  if ('unknown' in facts.pods) return [];
  const agents = Map.groupBy(
    facts.pods.known.filter(({ component }) => component === 'agent'),
    ({ node }) => node ?? '',
  );
  const selector =
    'known' in facts.daemonSets
      ? facts.daemonSets.known.find(({ component }) => component === 'agent')?.nodeSelector
      : undefined;
  return nodes.map((node) => {
    const object = `Node ${node.name}`;
    const found = (severity: Severity, text: string, remedy?: string): ClusterFinding => ({
      ...finding(severity, 'nodes', object, text, remedy),
      node: node.name,
    });
    if (!node.ready) return found('warning', 'is not Ready', `see kubectl describe node ${node.name}`);
    // How its pod fares is told with the pods.
    if (agents.has(node.name)) return found('ok', 'has an agent');
    const wanting = networksOn(facts, node);
    const missing = Object.entries(selector ?? {}).filter(([key, value]) => node.labels[key] !== value);
    if (missing.length > 0) {
      const text = `has no agent: agent.nodeSelector asks for ${missing.map(([key, value]) => `${key}=${value}`).join(', ')}`;
      if (wanting.length === 0) return found('ok', `${text}; no network wants one`);
      return found(
        'error',
        `${text}, and VpnNetwork ${some(wanting)} wants the node`,
        'label the node, or change agent.nodeSelector of the chart, or spec.nodeSelector of the network',
      );
    }
    const taints = node.taints.filter((taint) => !taint.endsWith(':PreferNoSchedule'));
    const why = taints.length > 0 ? `; it has the taints ${taints.join(', ')}` : '';
    return found(
      wanting.length === 0 ? 'warning' : 'error',
      `has no agent${why}`,
      'see agent.tolerations and agent.affinity of the chart, and kubectl describe ds/ovpn-agent',
    );
  });
}

/** The names of the networks that want a node. */
function networksOn({ networks }: ClusterFacts, { labels }: NodeFact): string[] {
  if ('unknown' in networks) return [];
  return networks.known.flatMap(({ resource }) =>
    resource !== undefined && isTaking(resource, labels) ? [resource.metadata.name] : [],
  );
}

function isTaking({ spec }: VpnNetwork, labels: Readonly<Record<string, string>>): boolean {
  return Object.entries(spec.nodeSelector).every(([label, value]) => labels[label] === value);
}

/**
 * A Lease is renewed by the node's clock. One of the future tells a clock that is fast; one that stays behind while the
 * node is Ready, which is judged by changes and not by clocks, one that is slow. Less than a minute does not show.
 */
function clockFindings(leases: ReadonlyMap<string, number>, { now, nodes }: ClusterFacts): ClusterFinding[] {
  const known = new Map('known' in nodes ? nodes.known.map((node) => [node.name, node.ready]) : []);
  return [...leases].flatMap(([node, renewed]) => {
    const ahead = renewed - now;
    const remedy =
      'see that an NTP client runs there, and on the control plane: certificates are refused by wrong clocks';
    const found = (text: string): ClusterFinding[] => [
      { ...finding('warning', 'clock', `Node ${node}`, text, remedy), node },
    ];
    if ('known' in nodes && !known.has(node)) return [];
    if (ahead > clockToleranceMs) return found(`its clock is ${duration(ahead)} ahead of the API server's`);
    if (-ahead > leaseAgeMs && known.get(node) === true)
      return found(`its clock is up to ${duration(-ahead)} behind the API server's`);
    return [
      { ...ok('clock', `Node ${node}`, "its clock agrees with the API server's, as far as its Lease shows"), node },
    ];
  });
}

/** Two networks that want one port of a node: the second to come does not get it. */
function conflictFindings(networks: readonly Seen<'VpnNetwork'>[], { nodes }: ClusterFacts): ClusterFinding[] {
  const readable = networks.flatMap(({ resource }) => resource ?? []);
  const listeners = readable.flatMap((network) => network.spec.listeners.map((listener) => ({ network, listener })));
  const found: ClusterFinding[] = [];
  listeners.forEach(({ network, listener }, index) => {
    for (const other of listeners.slice(index + 1)) {
      if (other.network === network || !sameSocket(listener, other.listener)) continue;
      const on =
        'known' in nodes
          ? nodes.known.filter(({ labels }) => isTaking(network, labels) && isTaking(other.network, labels))
          : [];
      if ('known' in nodes && on.length === 0) continue;
      const where = on.length === 0 ? 'where both are' : `on ${some(on.map(({ name }) => name))}`;
      found.push(
        finding(
          'error',
          'listeners',
          `VpnNetwork ${other.network.metadata.name}`,
          `listener ${other.listener.name} wants ${listener.protocol} port ${listener.port} ${where}, as listener ${listener.name} of VpnNetwork ${network.metadata.name}`,
          'give one of the two another port, an address of its own, or other nodes by spec.nodeSelector',
        ),
      );
    }
  });
  return found.length > 0 || listeners.length === 0
    ? found
    : [ok('listeners', 'VpnNetworks', 'no two want the same port of a node')];
}

function sameSocket(one: NetworkListener, other: NetworkListener): boolean {
  if (one.port !== other.port || one.protocol !== other.protocol) return false;
  if (one.address === undefined || other.address === undefined) return true;
  return parseAddress(one.address)?.text === parseAddress(other.address)?.text;
}

function objectFindings(facts: ClusterFacts): ClusterFinding[] {
  const { networks, peers, keys } = facts;
  return [
    ...judged('networks', 'VpnNetworks', networks, (known) =>
      known.flatMap((seen) => [...ofObject('networks', seen, networkFindings), ...pkiFindings(seen, facts)]),
    ),
    ...judged('peers', 'VpnPeers', peers, (known) => known.flatMap((seen) => ofObject('peers', seen, peerFindings))),
    ...judged('keys', 'VpnKeys', keys, (known) => known.flatMap((seen) => ofObject('keys', seen, keyFindings))),
  ];
}

/** Reasons that may pass by themselves, or tell what is to come. */
const mild: ReadonlySet<string> = new Set([
  'Pending',
  'Connecting',
  'Stale',
  'ExpiresSoon',
  'MeshIncomplete',
  'PeerLost',
]);

/** What `kubectl ovpn status` also says of an object. */
function ofObject<K extends 'VpnNetwork' | 'VpnPeer' | 'VpnKey'>(
  check: string,
  { ref, resource, problem }: Seen<K>,
  judge: (resource: ResourceOf<K>) => readonly Health[],
): ClusterFinding[] {
  const object = formatRef(ref);
  if (resource === undefined) {
    return [finding('unchecked', check, object, `is not understood: ${problem ?? '?'}`, 'update kubectl-ovpn')];
  }
  const found = judge(resource);
  if (found.length === 0) return [ok(check, object, 'is as it should be')];
  return found.map(({ node, condition, reason, message, remedy }) => ({
    ...finding(
      mild.has(reason) || condition === 'Contested' ? 'warning' : 'error',
      check,
      object,
      [condition, reason, message].filter((part) => part !== undefined && part !== '').join(': '),
      remedy,
    ),
    ...(node === undefined ? {} : { node }),
  }));
}

/** Also while no controller runs that would say so by the condition Expiring. */
function pkiFindings({ ref, resource }: Seen<'VpnNetwork'>, { now }: ClusterFacts): ClusterFinding[] {
  const { pki, conditions = [] } = resource?.status ?? {};
  if (pki === undefined || conditions.some(({ type, status }) => type === 'Expiring' && status === 'True')) return [];
  const dates = [
    ['its newest CA', pki.caNotAfter],
    ["the server's certificate", pki.certificateNotAfter],
  ] as const;
  return dates.flatMap(([what, text]) => {
    const left = Date.parse(text) - now;
    if (Number.isNaN(left) || left > soonMs) return [];
    const remedy = 'see that the controller runs: it renews both by itself';
    const object = `VpnNetwork ${ref.name}`;
    if (left <= 0) return [finding('error', 'certificates', object, `${what} expired on ${text}`, remedy)];
    return [finding('warning', 'certificates', object, `${what} expires in ${duration(left)}`, remedy)];
  });
}

/** A span of time for people. */
export function duration(ms: number): string {
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 2 * hourMs) return `${Math.round(ms / 60_000)} min`;
  return ms < 2 * dayMs ? `${Math.round(ms / hourMs)} h` : `${Math.floor(ms / dayMs)} days`;
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, 3).join(', ');
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}
