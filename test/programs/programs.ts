/**
 * The Go programs of the tests. Each is built from a small module of the project's own (a folder beside this
 * file): its go.mod pins the versions, its go.sum the contents, and its `tool` lines keep what is built required.
 */
export interface Program {
  /** The folder with the go.mod. */
  readonly folder: string;
  /** The Go package of the program. */
  readonly package: string;
  /** The module whose version is the program's. */
  readonly module: string;
  /** The Go variable that the program reads its version from, where it has one. */
  readonly stamp?: string;
}

const kubernetes = {
  folder: 'kubernetes',
  module: 'k8s.io/kubernetes',
  stamp: 'k8s.io/component-base/version.gitVersion',
};

const cni = { folder: 'cni', module: 'github.com/containernetworking/cni' };
const multus = { folder: 'multus', module: 'gopkg.in/k8snetworkplumbingwg/multus-cni.v4' };
const containerd = { folder: 'cri', module: 'github.com/containerd/containerd/v2' };
const cniPlugins = { folder: 'cni', module: 'github.com/containernetworking/plugins' };

export const programs = {
  'kube-apiserver': { ...kubernetes, package: 'k8s.io/kubernetes/cmd/kube-apiserver' },
  'kube-controller-manager': { ...kubernetes, package: 'k8s.io/kubernetes/cmd/kube-controller-manager' },
  'kube-scheduler': { ...kubernetes, package: 'k8s.io/kubernetes/cmd/kube-scheduler' },
  kubectl: { ...kubernetes, package: 'k8s.io/kubernetes/cmd/kubectl' },
  kubelet: { ...kubernetes, package: 'k8s.io/kubernetes/cmd/kubelet' },
  etcd: { folder: 'etcd', module: 'go.etcd.io/etcd/server/v3', package: 'go.etcd.io/etcd/server/v3' },
  cnitool: { ...cni, package: 'github.com/containernetworking/cni/cnitool' },
  bridge: { ...cniPlugins, package: 'github.com/containernetworking/plugins/plugins/main/bridge' },
  loopback: { ...cniPlugins, package: 'github.com/containernetworking/plugins/plugins/main/loopback' },
  ptp: { ...cniPlugins, package: 'github.com/containernetworking/plugins/plugins/main/ptp' },
  'host-local': { ...cniPlugins, package: 'github.com/containernetworking/plugins/plugins/ipam/host-local' },
  multus: { ...multus, package: 'gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus' },
  containerd: { ...containerd, package: 'github.com/containerd/containerd/v2/cmd/containerd' },
  'containerd-shim-runc-v2': {
    ...containerd,
    package: 'github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2',
  },
  ctr: { ...containerd, package: 'github.com/containerd/containerd/v2/cmd/ctr' },
  helm: {
    folder: 'helm',
    module: 'helm.sh/helm/v4',
    package: 'helm.sh/helm/v4/cmd/helm',
    stamp: 'helm.sh/helm/v4/internal/version.version',
  },
  crictl: { folder: 'cri', module: 'sigs.k8s.io/cri-tools', package: 'sigs.k8s.io/cri-tools/cmd/crictl' },
  // For monitoring.ts alone.
  'controller-gen': {
    folder: 'monitoring',
    module: 'sigs.k8s.io/controller-tools',
    package: 'sigs.k8s.io/controller-tools/cmd/controller-gen',
  },
} as const satisfies Readonly<Record<string, Program>>;

export type ProgramName = keyof typeof programs;

/** What a control plane is made of, and what installs our chart in it. */
export const controlPlanePrograms: readonly ProgramName[] = [
  'etcd',
  'kube-apiserver',
  'kube-controller-manager',
  'kubectl',
  'helm',
];

/** What brings pods to a node and runs them there. */
export const nodePrograms: readonly ProgramName[] = ['kube-scheduler', 'kubelet'];

/** What the CNI plugin is tried with: the runtime's side (libcni), and plugins that stand before it. */
export const cniPrograms: readonly ProgramName[] = ['cnitool', 'bridge', 'loopback', 'ptp', 'host-local'];

/** A meta plugin that calls ours by what a pod names. */
export const metaPrograms: readonly ProgramName[] = ['multus'];

/** A container runtime as a node has it, and the way to ask it for sandboxes as a kubelet does. */
export const runtimePrograms: readonly ProgramName[] = ['containerd', 'containerd-shim-runc-v2', 'ctr', 'crictl'];

/** The version of a module that a go.mod requires. */
export function versionIn(goMod: string, module: string): string | undefined {
  const line = new RegExp(String.raw`^(?:require)?\s*${module.replaceAll('.', String.raw`\.`)} (v\S+)`, 'm');
  return line.exec(goMod)?.[1];
}
