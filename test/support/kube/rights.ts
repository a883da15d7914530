import type { AuditEvent } from './audit.ts';
import type { KubeUser } from './kube-user.ts';

/** One right, as `verb group/resource @scope`; the scope is a namespace, or `*` for all. */
export type Right = string;

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
}

const rightOf = (verb: string, group: string, resource: string, scope: string): Right =>
  `${verb} ${group}/${resource} @${scope}`;

interface Binding {
  readonly metadata: { readonly namespace?: string };
  readonly roleRef: { readonly kind: string; readonly name: string };
  readonly subjects?: readonly { readonly name: string; readonly namespace?: string }[];
}

/** What is granted to one of our service accounts, by all roles that are bound to it. */
export async function grantedRights(admin: KubeUser, account: string, namespace: string): Promise<Set<Right>> {
  const base = '/apis/rbac.authorization.k8s.io/v1';
  const all = async (plural: string): Promise<readonly Binding[]> =>
    (await admin.get<{ items: readonly Binding[] }>(`${base}/${plural}`)).items;
  const rights = new Set<Right>();
  for (const { metadata, roleRef, subjects } of [
    ...(await all('clusterrolebindings')),
    ...(await all('rolebindings')),
  ]) {
    if (subjects?.some((subject) => subject.name === account && subject.namespace === namespace) !== true) continue;
    const scope = metadata.namespace ?? '*';
    const place = roleRef.kind === 'ClusterRole' ? 'clusterroles' : `namespaces/${scope}/roles`;
    const { rules } = await admin.get<{ rules: readonly Rule[] }>(`${base}/${place}/${roleRef.name}`);
    for (const { apiGroups, resources, verbs } of rules) {
      for (const group of apiGroups)
        for (const resource of resources) for (const verb of verbs) rights.add(rightOf(verb, group, resource, scope));
    }
  }
  return rights;
}

/** The rights that requests made use of: for each, that of the namespace where it is granted, else that of all. */
export function usedRights(events: readonly AuditEvent[], granted: ReadonlySet<Right>): Set<Right> {
  const used = new Set<Right>();
  for (const { verb, objectRef } of events) {
    if (objectRef === undefined) continue;
    const { apiGroup = '', resource, subresource, namespace } = objectRef;
    const name = subresource === undefined ? resource : `${resource}/${subresource}`;
    const scopes = namespace === undefined ? ['*'] : [namespace, '*'];
    const [right] = scopes.map((scope) => rightOf(verb, apiGroup, name, scope)).filter((each) => granted.has(each));
    used.add(right ?? rightOf(verb, apiGroup, name, namespace ?? '*'));
  }
  return used;
}
