/** The versions of the CNI specification that `ovpn-cni` reads and writes, oldest first. */
export const cniVersions = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

export type CniVersion = (typeof cniVersions)[number];

/** Whether the plugin speaks that version. */
export function isCniVersion(version: unknown): version is CniVersion {
  return (cniVersions as readonly unknown[]).includes(version);
}
