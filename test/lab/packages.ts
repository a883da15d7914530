/**
 * Every Debian package the lab takes, in one place. A name of the form `package/suite` comes from that
 * suite whatever the others hold.
 */

/** The Debian suites the lab reads, and how much each is preferred when a name does not say. */
export const suites = [
  { name: 'trixie', priority: 900, alwaysFresh: true },
  { name: 'trixie-backports', priority: 100, alwaysFresh: true },
  // Mirrors that are snapshots serve a sid whose Release file has run out. It is still signed, and the
  // lab takes single packages from it into a private folder only.
  { name: 'sid', priority: 50, alwaysFresh: false },
] as const;

/** The kernel source for user-mode Linux. */
export const umlSource = { package: 'linux-source-7.3', suite: 'trixie-backports' } as const;

/** The stock kernel for QEMU: signed-less binary, modules, and the files depmod needs. */
export const stockKernel = {
  suite: 'trixie-backports',
  packages: (version: string): string[] => ['binary', 'modules', 'base'].map((part) => `linux-${part}-${version}`),
  /** What apt-cache search finds the kernel by. */
  pattern: /^linux-binary-(7\.3\.\d+\+deb\d+-cloud-amd64)$/,
} as const;

/** Tools that the guests have beside, and before, the host's own programs. */
export const tools = [
  'openvpn/trixie-backports',
  // `ip link add … type ovpn mode mp` came with 7.3.
  'iproute2/sid',
  'iputils-ping',
  'tcpdump',
  'iperf3',
  'wireguard-tools/trixie-backports',
  'nftables',
  'socat',
  'jq',
  'ethtool',
  'strace',
  'conntrack',
  // What containerd starts containers with.
  'runc',
  // What runs inside of containers: one file that needs nothing else.
  'busybox-static',
] as const;

/** OpenVPN of the previous series, without data-channel offload on this kernel: the other interop peer. */
export const previousOpenvpn = { package: 'openvpn/trixie', installAs: 'usr/sbin/openvpn-2.6' } as const;

/** Pulled in by dependencies but of no use without a package manager; some would replace host programs. */
export const notUnpacked: ReadonlySet<string> = new Set([
  'adduser',
  'base-passwd',
  'debconf',
  'gcc-14-base',
  'init-system-helpers',
  'libaudit-common',
  'libdebconfclient0',
  'libpam-modules',
  'libpam-modules-bin',
  'libsemanage-common',
  'libsemanage2',
  'login.defs',
  'passwd',
]);

/** A program the host needs, and the Debian package that has it. */
export interface HostProgram {
  program: string;
  package: string;
}

/** What unpacks packages: needed for every kind. */
export const unpackPrograms: readonly HostProgram[] = [
  { program: 'apt-get', package: 'apt' },
  { program: 'dpkg-deb', package: 'dpkg' },
  { program: 'flock', package: 'util-linux' },
];

/** What compiles user-mode Linux. */
export const umlPrograms: readonly HostProgram[] = [
  { program: 'gcc', package: 'gcc' },
  { program: 'make', package: 'make' },
  { program: 'flex', package: 'flex' },
  { program: 'bison', package: 'bison' },
  { program: 'bc', package: 'bc' },
  { program: 'perl', package: 'perl' },
  { program: 'tar', package: 'tar' },
  { program: 'xz', package: 'xz-utils' },
];

/** What runs the stock kernel. */
export const qemuPrograms: readonly HostProgram[] = [
  { program: 'qemu-system-x86_64', package: 'qemu-system-x86' },
  { program: 'depmod', package: 'kmod' },
];
