import { Command } from 'commander';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseManifests } from '../api/parse.ts';
import { NetworkIndex } from '../api/rules.ts';
import { formatRef, refOf, type Resource, type VpnKey, type VpnNetwork } from '../api/types.ts';
import { describe, OvpnError } from '../errors.ts';
import { planPeer, secretOf } from '../agent/plan.ts';

/** `ovpn-agent check`: reads manifests as the agent would and changes nothing. */
export function checkCommand(): Command {
  return new Command('check')
    .description('Check manifests as the agent would read them; changes nothing. Exits 1 when something is wrong.')
    .argument('<path...>', 'files or folders of manifests')
    .action((paths: string[]) => {
      const { resources, problems } = readAll(paths);
      problems.push(...crossCheck(resources));
      for (const problem of problems) process.stdout.write(`${problem.message}\n`);
      process.stdout.write(`${resources.length} objects, ${problems.length} problems\n`);
      if (problems.length > 0) process.exitCode = 1;
    });
}

function readAll(paths: readonly string[]): { resources: Resource[]; problems: OvpnError[] } {
  const resources: Resource[] = [];
  const problems: OvpnError[] = [];
  for (const file of paths.flatMap(filesOf)) {
    try {
      const result = parseManifests(readFileSync(file, 'utf8'), file);
      resources.push(...result.resources.map(({ resource }) => resource));
      problems.push(...result.rejections.flatMap(({ errors }) => errors));
    } catch (error) {
      problems.push(new OvpnError('ManifestUnreadable', `cannot be read: ${describe(error)}`, { object: file }));
    }
  }
  return { resources, problems };
}

function filesOf(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  const names = readdirSync(path).filter((name) => /\.(ya?ml|json)$/.test(name) && !name.startsWith('.'));
  return names.sort().map((name) => join(path, name));
}

/** What no single object shows: conflicts, missing references, unusable keys. */
function crossCheck(resources: readonly Resource[]): OvpnError[] {
  const problems: OvpnError[] = [];
  const indexes = new Map<string, NetworkIndex>();
  const networks = new Map<string, VpnNetwork>();
  const find = (kind: Resource['kind'], namespace: string, name: string): Resource | undefined =>
    resources.find(({ kind: k, metadata }) => k === kind && metadata.namespace === namespace && metadata.name === name);
  for (const resource of resources) {
    if (resource.kind !== 'VpnNetwork') continue;
    networks.set(resource.metadata.name, resource);
    indexes.set(resource.metadata.name, new NetworkIndex(resource));
  }
  const peers = resources.filter((resource) => resource.kind === 'VpnPeer');
  for (const peer of peers) indexes.get(peer.spec.networkRef.name)?.set(peer);
  for (const peer of peers) {
    const network = networks.get(peer.spec.networkRef.name);
    if (network === undefined) {
      const missing = `there is no VpnNetwork ${peer.spec.networkRef.name}`;
      problems.push(
        new OvpnError('ReferenceNotFound', missing, { object: formatRef(refOf(peer)), field: 'spec.networkRef.name' }),
      );
      continue;
    }
    const key = find('VpnKey', peer.metadata.namespace, peer.spec.keyRef.name) as VpnKey | undefined;
    const reference = key === undefined ? undefined : secretOf(key);
    const secret = reference === undefined ? undefined : find('Secret', reference.namespace, reference.name);
    // Labels and MTU do not matter for what can be wrong; every peer is looked at as if placed here.
    const labels = { ...peer.spec.placement.nodeSelector };
    const found = indexes.get(network.metadata.name)?.problemsOf(refOf(peer)) ?? [];
    const plan = planPeer(
      network,
      peer,
      { key, secret: secret?.kind === 'Secret' ? secret : undefined },
      { name: '', labels, underlayMtu: 0 },
      found,
    );
    problems.push(...plan.problems);
    if (plan.keyProblem !== undefined) problems.push(plan.keyProblem);
  }
  return problems;
}
