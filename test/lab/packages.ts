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

/** Where the parts of a stock kernel come from: binary, modules, and the files depmod needs. */
export type StockKernel =
  /** The newest of its series in a suite. */
  | { readonly suite: string; readonly pattern: RegExp; readonly packages: (release: string) => readonly string[] }
  /**
   * Files of Debian's pool. A backport that a newer one took the place of leaves the suite's index, all but its signed
   * binary, and stays in the pool; so what the index vouched for is said here.
   */
  | { readonly files: readonly PoolFile[] };

/** A file below a mirror's root. */
export interface PoolFile {
  readonly path: string;
  readonly sha256: string;
}

/** The stock kernels for QEMU, by their series. */
export const stockKernels = {
  // The driver as it was from Linux 6.16 on: no transmit ids, no notices of peers that float.
  '7.0': {
    files: [
      {
        path: 'pool/main/l/linux-signed-amd64/linux-binary-7.0.13+deb13-cloud-amd64_7.0.13-1~bpo13+1_amd64.deb',
        sha256: '7e2f91866f9d857e5b08fcd915491b4cff79fbe51cdcb081b42658612074a552',
      },
      {
        path: 'pool/main/l/linux/linux-modules-7.0.13+deb13-cloud-amd64_7.0.13-1~bpo13+1_amd64.deb',
        sha256: 'cfa17c8f281ed3a001eb82c05cf23e01250872cc9b44f073fff1aa13d645e4c4',
      },
      {
        path: 'pool/main/l/linux/linux-base-7.0.13+deb13-cloud-amd64_7.0.13-1~bpo13+1_amd64.deb',
        sha256: '15e67125bf03183497575af47889475afd0d46546e8abe4c170a53e84473e056',
      },
    ],
  },
  '7.3': {
    suite: 'trixie-backports',
    pattern: /^linux-binary-(7\.3\.\d+\+deb\d+-cloud-amd64)$/,
    packages: (release) => ['binary', 'modules', 'base'].map((part) => `linux-${part}-${release}`),
  },
} as const satisfies Record<string, StockKernel>;

export type StockSeries = keyof typeof stockKernels;

/** The one that is taken when nobody says which. */
export const defaultSeries: StockSeries = '7.3';

/** All of them, oldest first. */
export const stockSeries = Object.keys(stockKernels) as readonly StockSeries[];

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
