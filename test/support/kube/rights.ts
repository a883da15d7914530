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

/** What the roles of the chart grant to one of our service accounts: its ClusterRole and its Role share its name. */
export async function grantedRights(admin: KubeUser, account: string, namespace: string): Promise<Set<Right>> {
  const base = '/apis/rbac.authorization.k8s.io/v1';
  const roles = [
    ['*', `${base}/clusterroles/${account}`],
    [namespace, `${base}/namespaces/${namespace}/roles/${account}`],
  ] as const;
  const rights = new Set<Right>();
  for (const [scope, path] of roles) {
    const { rules } = await admin.get<{ rules: readonly Rule[] }>(path);
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
