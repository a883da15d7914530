import { matchesSelector } from '../api/label-selector.ts';
import { allowsNamespace } from '../api/rules.ts';
import type { VpnNetwork } from '../api/types.ts';
import { canonical } from '../cluster/json.ts';
import type { View } from './caches.ts';

/** Whether a network takes peers of a namespace, by the labels that the namespace has now. */
export function admits({ namespaces }: Pick<View, 'namespaces'>, network: VpnNetwork, namespace: string): boolean {
  const choice = network.spec.allowedPeers.namespaces;
  if (choice.from !== 'Selector') return allowsNamespace(choice, namespace);
  const labels = namespaces.get(namespace)?.meta.labels;
  return labels !== undefined && choice.selector !== undefined && matchesSelector(choice.selector, labels);
}

/** The names of the namespaces that a network's selector takes; undefined for one without a selector. */
export function admittedNamespaces(view: Pick<View, 'namespaces'>, network: VpnNetwork): string[] | undefined {
  if (network.spec.allowedPeers.namespaces.from !== 'Selector') return undefined;
  return [...view.namespaces.list()]
    .map(({ key }) => key)
    .filter((name) => admits(view, network, name))
    .sort();
}

/** Calls with every network that may judge a namespace otherwise now, because its labels changed. */
export function onAdmissionChange(
  { namespaces, networks }: Pick<View, 'namespaces' | 'networks'>,
  handle: (network: string, namespace: string) => void,
): void {
  namespaces.onChange((now, before) => {
    const [one, other] = [now?.meta.labels, before?.meta.labels];
    if (now !== undefined && before !== undefined && canonical(one) === canonical(other)) return;
    for (const { key, value } of networks.list()) {
      if (value?.spec.allowedPeers.namespaces.from === 'Selector') handle(key, now?.key ?? before?.key ?? '');
    }
  });
}
