import type { Command } from 'commander';
import { loadKubeConfig } from '../../cluster/kube-access.ts';
import { asRecord } from '../../cluster/json.ts';
import { type Candidate, type Nameable, planCompletion, type Plan } from './complete-plan.ts';
import { type Cluster, connect } from './connection.ts';
import { list, listRaw } from './read.ts';

/** Nobody waits longer for a key press. */
const patienceMs = 3_000;

/**
 * What `__complete` prints: the protocol by which kubectl asks its plugins, which is that of Cobra's programs. A line
 * for each candidate, with a tab and a description behind it; at last what the shell shall do: `:4`, offer no files;
 * `:0`, offer them. https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/
 */
export async function complete(program: Command, words: readonly string[]): Promise<string> {
  const plan = planCompletion(program, words);
  if (plan.next.kind === 'file') return ':0\n';
  const lines = (await candidates(plan))
    .filter(({ text }) => text.startsWith(plan.prefix))
    .map(({ text, description = '' }) => {
      const word = `${plan.flag ?? ''}${text}`;
      return description === '' ? word : `${word}\t${description.replaceAll(/\s+/g, ' ')}`;
    });
  return [...lines, ':4', ''].join('\n');
}

async function candidates({ next, options }: Plan): Promise<readonly Candidate[]> {
  if (next.kind === 'words') return next.words;
  if (next.kind !== 'names') return [];
  const text = (name: keyof typeof options): string | undefined => {
    const value = options[name];
    return typeof value === 'string' ? value : undefined;
  };
  const [kubeconfig, context, namespace] = [text('kubeconfig'), text('context'), text('namespace')];
  const access = { ...(kubeconfig === undefined ? {} : { kubeconfig }), ...(context === undefined ? {} : { context }) };
  // What cannot be found out is not offered: there is nowhere to say why.
  try {
    if (next.of === 'context') return (await loadKubeConfig(access)).getContexts().map(({ name }) => ({ text: name }));
    const cluster = await connect({
      ...access,
      ...(namespace === undefined ? {} : { namespace }),
      requestTimeout: patienceMs,
      operatorNamespace: text('operatorNamespace') ?? 'ovpn-system',
    });
    return await named(cluster, next.of);
  } catch {
    return [];
  }
}

async function named(cluster: Cluster, of: Exclude<Nameable, 'context'>): Promise<readonly Candidate[]> {
  const { namespace } = cluster;
  switch (of) {
    case 'network':
      return (await list(cluster, 'VpnNetwork')).map(({ ref }) => ({ text: ref.name }));
    case 'peer': {
      const peers = await list(cluster, 'VpnPeer', namespace);
      return peers.map(({ ref, resource }) => ({ text: ref.name, description: resource?.spec.networkRef.name ?? '' }));
    }
    case 'node': {
      // Those that carry a VPN, which more people may see than the Nodes.
      const networks = await list(cluster, 'VpnNetwork');
      const nodes = networks.flatMap(({ resource }) => resource?.status?.nodes ?? []).map(({ name }) => name);
      return [...new Set(nodes)].sort().map((text) => ({ text }));
    }
    case 'pod':
      return namesOf(await listRaw(cluster, 'Pod', { namespace }));
    case 'namespace':
      return namesOf(await listRaw(cluster, 'Namespace'));
  }
}

function namesOf(objects: readonly unknown[]): Candidate[] {
  return objects
    .map((object) => asRecord(asRecord(object)?.['metadata'])?.['name'])
    .flatMap((name) => (typeof name === 'string' ? [{ text: name }] : []));
}
