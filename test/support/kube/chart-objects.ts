import type { Rendered } from './chart.ts';

/** What tests look at in the objects of the chart. */

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly args?: readonly string[];
  readonly resources: { readonly requests?: Readonly<Record<string, string>>; readonly limits?: { memory?: string } };
  readonly livenessProbe?: { readonly httpGet?: object };
  readonly startupProbe?: {
    readonly httpGet?: { readonly path: string; readonly port: string | number };
    readonly periodSeconds?: number;
    readonly failureThreshold?: number;
  };
  readonly readinessProbe?: object;
  readonly securityContext: {
    readonly privileged?: boolean;
    readonly allowPrivilegeEscalation?: boolean;
    readonly readOnlyRootFilesystem?: boolean;
    readonly capabilities?: { readonly add?: readonly string[]; readonly drop?: readonly string[] };
  };
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
}

export interface PodTemplate {
  readonly metadata: { readonly labels: Readonly<Record<string, string>> };
  readonly spec: {
    readonly serviceAccountName?: string;
    readonly automountServiceAccountToken?: boolean;
    readonly initContainers?: readonly Container[];
    readonly containers: readonly Container[];
    readonly volumes?: readonly { readonly name: string }[];
  };
}

export interface Workload extends Rendered {
  readonly spec: { readonly selector: Selector; readonly template: PodTemplate; readonly replicas?: number };
}

export interface Selector {
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly matchExpressions?: readonly { readonly key: string; readonly values: readonly string[] }[];
}

function isWorkload(object: Rendered): object is Workload {
  return object.kind === 'Deployment' || object.kind === 'DaemonSet';
}

export function workloadsOf(objects: readonly Rendered[]): Workload[] {
  return objects.filter(isWorkload);
}

/** All containers, with the name of their workload. */
export function containersOf(
  objects: readonly Rendered[],
): { workload: Workload; container: Container; init: boolean }[] {
  return workloadsOf(objects).flatMap((workload) => {
    const { initContainers = [], containers } = workload.spec.template.spec;
    return [
      ...initContainers.map((container) => ({ workload, container, init: true })),
      ...containers.map((container) => ({ workload, container, init: false })),
    ];
  });
}

/** Every selector of labels in the objects, whatever it is called there. */
export function selectorsOf(objects: readonly Rendered[]): { object: Rendered; selector: Selector }[] {
  return objects.flatMap((object) => {
    const spec = (object['spec'] ?? {}) as { selector?: Selector | Record<string, string>; podSelector?: Selector };
    const found = spec.selector ?? spec.podSelector;
    if (found === undefined) return [];
    const selector = object.kind === 'Service' ? { matchLabels: found as Record<string, string> } : (found as Selector);
    return [{ object, selector }];
  });
}

/** Whether a selector finds pods with these labels (operator In only, which is what the chart has). */
export function selects(
  { matchLabels = {}, matchExpressions = [] }: Selector,
  labels: Readonly<Record<string, string>>,
): boolean {
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, values }) => values.includes(labels[key] ?? ''))
  );
}
