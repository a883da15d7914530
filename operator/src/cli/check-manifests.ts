import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { planPeer, secretOf } from '../agent/plan.ts';
import { planServer, type SecretLookup, systemNamespace } from '../agent/sessions/plan-sessions.ts';
import { parseManifests } from '../api/parse.ts';
import { NetworkIndex } from '../api/rules.ts';
import { formatRef, refOf, type Resource, type VpnKey, type VpnNetwork } from '../api/types.ts';
import { describe, OvpnError } from '../errors.ts';

/** What reading manifests as the agent does finds out. */
export interface ManifestCheck {
  readonly objects: number;
  readonly problems: readonly OvpnError[];
}

/** Reads files and folders of manifests and looks for everything that the agent would refuse. */
export function checkManifests(paths: readonly string[]): ManifestCheck {
  const { resources, problems } = readAll(paths);
  return { objects: resources.length, problems: [...problems, ...crossCheck(resources)] };
}

function readAll(paths: readonly string[]): { resources: Resource[]; problems: OvpnError[] } {
  const resources = new Map<string, { resource: Resource; origin: string }>();
  const problems: OvpnError[] = [];
  const reading = <T>(path: string, read: () => T): T | undefined => {
    try {
      return read();
    } catch (error) {
      problems.push(new OvpnError('ManifestUnreadable', `cannot be read: ${describe(error)}`, { object: path }));
      return undefined;
    }
  };
  // A file that is named twice is still one file.
  const files = new Set(paths.flatMap((path) => reading(path, () => filesOf(path)) ?? []).map((file) => resolve(file)));
  for (const file of files) {
    const shown = relative('', file);
    const result = reading(shown, () =>
      parseManifests(readFileSync(file, 'utf8'), shown, { defaultNamespace: 'default' }),
    );
    problems.push(...(result?.rejections ?? []).flatMap(({ errors }) => errors));
    for (const { resource, origin } of result?.resources ?? []) {
      const object = formatRef(refOf(resource));
      const first = resources.get(object);
      if (first === undefined) resources.set(object, { resource, origin });
      else {
        problems.push(new OvpnError('DuplicateObject', `is in ${first.origin} and again in ${origin}`, { object }));
      }
    }
  }
  return { resources: [...resources.values()].map(({ resource }) => resource), problems };
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
  const lookup: SecretLookup = (namespace, name) => {
    const secret = find('Secret', namespace, name);
    return secret?.kind === 'Secret' ? secret : undefined;
  };
  for (const network of networks.values()) {
    try {
      planServer(network, { addresses: [], mtu: 0 }, systemNamespace, lookup);
    } catch (error) {
      if (!(error instanceof OvpnError)) throw error;
      problems.push(error);
    }
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
    const { keyRef } = peer.spec;
    const key =
      keyRef === undefined ? undefined : (find('VpnKey', peer.metadata.namespace, keyRef.name) as VpnKey | undefined);
    const reference = key === undefined ? undefined : secretOf(key);
    const secret = reference === undefined ? undefined : lookup(reference.namespace, reference.name);
    // Labels and MTU do not matter for what can be wrong; every peer is looked at as if placed here.
    const labels = { ...peer.spec.placement.nodeSelector };
    const found = indexes.get(network.metadata.name)?.problemsOf(refOf(peer)) ?? [];
    const plan = planPeer(network, peer, { key, secret, lookup }, { name: '', labels, underlayMtu: 0 }, found);
    problems.push(...plan.problems);
    if (plan.keyProblem !== undefined) problems.push(plan.keyProblem);
  }
  return problems;
}
