import { OvpnError } from '../errors.ts';
import { labelPattern } from './schema-kit.ts';
import { matchesSelector } from './label-selector.ts';
import { formatRef, refOf, type VpnNetwork } from './types.ts';

/** Which pods may join which networks, and which do. Pure. */

/** By this annotation a pod names the networks that it wants to join: `corp,lab`. Empty, it joins none. */
export const networksAnnotation = 'ovpn-operator.io/networks';

/** What decides about a pod. */
export interface PodFacts {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly namespaceLabels: Readonly<Record<string, string>>;
}

/** Whether more must be known of a pod than its name to say if it may join the network. */
export function needsLabels({ spec: { attach } }: VpnNetwork): boolean {
  return attach.namespaces.from === 'Selector' || attach.podSelector !== undefined;
}

/**
 * Refuses a pod that the owner of the network does not let in.
 *
 * @param pod its labels count only where {@link needsLabels} says so
 * @throws OvpnError AttachNotAllowed with the field that says no
 */
export function requireAllowed(network: VpnNetwork, pod: PodFacts): void {
  const refusal = refusalOf(network, pod);
  if (refusal !== undefined) throw refusal;
}

function refusalOf(network: VpnNetwork, pod: PodFacts): OvpnError | undefined {
  const { namespaces, podSelector } = network.spec.attach;
  const object = formatRef(refOf(network));
  const refuse = (problem: string, field: string): OvpnError =>
    new OvpnError('AttachNotAllowed', problem, { object, field: `spec.attach.${field}` });
  const allowed =
    namespaces.from === 'All' ||
    (namespaces.from === 'Names' && namespaces.names.includes(pod.namespace)) ||
    (namespaces.selector !== undefined && matchesSelector(namespaces.selector, pod.namespaceLabels));
  if (!allowed) return refuse(`pods of namespace ${pod.namespace} may not join`, 'namespaces');
  return podSelector === undefined || matchesSelector(podSelector, pod.labels)
    ? undefined
    : refuse(`pod ${pod.namespace}/${pod.name} has other labels than those that may join`, 'podSelector');
}

/**
 * The networks that a pod joins by itself: those of its annotation, in that order, or without one all whose
 * `podSelector` takes it, by name. What the annotation names is not checked further: a network that is not there, or
 * does not let the pod in, must keep it from starting.
 *
 * @throws OvpnError InvalidField when the annotation cannot be read
 */
export function chooseNetworks(networks: Iterable<VpnNetwork>, pod: PodFacts): string[] {
  const annotation = Object.hasOwn(pod.annotations, networksAnnotation)
    ? pod.annotations[networksAnnotation]
    : undefined;
  if (annotation !== undefined) return annotatedNetworks(annotation, pod);
  return [...networks]
    .filter((network) => network.spec.attach.podSelector !== undefined && refusalOf(network, pod) === undefined)
    .map(({ metadata }) => metadata.name)
    .sort();
}

function annotatedNetworks(annotation: string, pod: PodFacts): string[] {
  const names = annotation === '' ? [] : annotation.split(',').map((name) => name.trim());
  const refuse = (problem: string): never => {
    throw new OvpnError(
      'InvalidField',
      problem,
      { object: `Pod ${pod.namespace}/${pod.name}`, field: `metadata.annotations["${networksAnnotation}"]` },
      { remedy: 'write names of VpnNetworks with commas between them, or leave the annotation out' },
    );
  };
  names.forEach((name, index) => {
    if (!new RegExp(labelPattern).test(name)) refuse(`${JSON.stringify(name)} is no name of a VpnNetwork`);
    if (names.indexOf(name) < index) refuse(`names ${name} twice`);
  });
  return names;
}
