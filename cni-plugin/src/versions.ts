/**
 * Which operations each version of the CNI specification asks of a plugin, and which versions this plugin
 * can therefore claim. https://github.com/containernetworking/cni/blob/main/SPEC.md
 */

export const operations = ['ADD', 'DEL', 'CHECK', 'STATUS', 'GC', 'VERSION'] as const;
export type Operation = (typeof operations)[number];

/** Section 2, "CNI operations", of each version. 0.4.0 brought CHECK; 1.1.0 brought STATUS and GC. */
const operationsOf = {
  '0.3.0': ['ADD', 'DEL', 'VERSION'],
  '0.3.1': ['ADD', 'DEL', 'VERSION'],
  '0.4.0': ['ADD', 'DEL', 'CHECK', 'VERSION'],
  '1.0.0': ['ADD', 'DEL', 'CHECK', 'VERSION'],
  '1.1.0': ['ADD', 'DEL', 'CHECK', 'STATUS', 'GC', 'VERSION'],
} as const satisfies Record<string, readonly Operation[]>;

export type CniVersion = keyof typeof operationsOf;

/** The operations that do in this plugin what the specification says. */
const implemented: ReadonlySet<Operation> = new Set(['ADD', 'DEL', 'STATUS', 'VERSION'] satisfies Operation[]);

/** Versions whose configuration and result formats this plugin reads and writes, oldest first. */
export const knownVersions = Object.keys(operationsOf) as readonly CniVersion[];

export const newestVersion: CniVersion = '1.1.0';

/**
 * What VERSION lists: the versions all of whose operations work. A runtime may take a failed CHECK for a
 * container that is broken for good, so a version with CHECK is not claimed before CHECK works. ADD, DEL
 * and STATUS themselves accept every known version.
 */
export const supportedVersions = knownVersions.filter((version) =>
  operationsOf[version].every((operation) => implemented.has(operation)),
);

/** Whether this plugin reads and writes that version's formats. */
export function isKnownVersion(version: string): version is CniVersion {
  return Object.hasOwn(operationsOf, version);
}

/** Whether that version of the specification has the operation at all. */
export function hasOperation(version: CniVersion, operation: Operation): boolean {
  return (operationsOf[version] as readonly Operation[]).includes(operation);
}
