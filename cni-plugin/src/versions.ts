/**
 * Which operations each version of the CNI specification asks of a plugin, and which versions this plugin
 * can therefore claim. https://github.com/containernetworking/cni/blob/main/SPEC.md
 */
import { type CniVersion, cniVersions } from '@ovpn-operator/operator/cni-versions';

export { type CniVersion, isCniVersion as isSupportedVersion } from '@ovpn-operator/operator/cni-versions';

export const operations = ['ADD', 'DEL', 'CHECK', 'STATUS', 'GC', 'VERSION'] as const;
export type Operation = (typeof operations)[number];

/** Section 2, "CNI operations", of each version. 0.4.0 brought CHECK; 1.1.0 brought STATUS and GC. */
const operationsOf = {
  '0.3.0': ['ADD', 'DEL', 'VERSION'],
  '0.3.1': ['ADD', 'DEL', 'VERSION'],
  '0.4.0': ['ADD', 'DEL', 'CHECK', 'VERSION'],
  '1.0.0': ['ADD', 'DEL', 'CHECK', 'VERSION'],
  '1.1.0': ['ADD', 'DEL', 'CHECK', 'STATUS', 'GC', 'VERSION'],
} as const satisfies Record<CniVersion, readonly Operation[]>;

/** Every version whose formats this plugin reads and writes and whose operations it has, oldest first: what VERSION lists. */
export const supportedVersions: readonly CniVersion[] = cniVersions;

export const newestVersion: CniVersion = '1.1.0';

/** Whether that version of the specification has the operation at all. */
export function hasOperation(version: CniVersion, operation: Operation): boolean {
  return (operationsOf[version] as readonly Operation[]).includes(operation);
}
