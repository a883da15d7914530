import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { programPath } from '../../programs/location.ts';
import type { Containerd } from '../containerd.ts';
import type { Host } from '../hosts.ts';
import { attempt, eventually, run, Service } from '../run.ts';
import { type ControlPlane, serviceAddress } from './control-plane.ts';

const cpuinfo = '/proc/cpuinfo';
const mounts = '/proc/self/mounts';
const podCgroups = '/sys/fs/cgroup/kubepods';

/** A real kubelet on a host of the lab: the host is a Node, and what is placed there runs in its containerd. */
export class Kubelet {
  readonly host: Host;
  readonly #containerd: Containerd;
  readonly #folder: string;
  #service: Service | undefined;

  private constructor(containerd: Containerd) {
    this.host = containerd.host;
    this.#containerd = containerd;
    this.#folder = join(this.host.hosts.folder, `${this.host.name}-kubelet`);
    mkdirSync(this.#folder);
  }

  /**
   * Starts it; resolves when the Node is ready. The control plane must have been started for this node.
   * @throws with the kubelet's last words
   */
  static async start(containerd: Containerd, plane: ControlPlane): Promise<Kubelet> {
    const kubelet = new Kubelet(containerd);
    kubelet.host.hosts.onCleanup(() => kubelet.#remove());
    await kubelet.#tellClockRate();
    await kubelet.#serveApiServer(plane);
    kubelet.#run(plane);
    await eventually('the node is ready', async () => {
      if (kubelet.#service?.running !== true) return 'ended';
      const path = `/api/v1/nodes/${kubelet.host.name}`;
      const { status } = await plane.admin.get<{ status: { conditions?: { type: string; status: string }[] } }>(path);
      const ready = status.conditions?.find(({ type }) => type === 'Ready');
      if (ready?.status !== 'True') throw new Error(JSON.stringify(ready));
      return 'ready';
    }).then(
      (state) => {
        if (state === 'ended') throw new Error(`the kubelet ended:\n${kubelet.log.slice(-8000)}`);
      },
      (error: unknown) => {
        throw new Error(`${String(error)}\n${kubelet.log.slice(-8000)}`, { cause: error });
      },
    );
    return kubelet;
  }

  get log(): string {
    return this.#service?.log ?? '';
  }

  #path(name: string): string {
    return join(this.#folder, name);
  }

  #run(plane: ControlPlane): void {
    // https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
    const config = {
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      containerRuntimeEndpoint: `unix://${this.#containerd.socket}`,
      address: this.host.ipv4,
      authentication: {
        anonymous: { enabled: false },
        webhook: { enabled: true },
        x509: { clientCAFile: plane.caFile },
      },
      authorization: { mode: 'Webhook' },
      resolvConf: this.#path('resolv.conf'),
      podLogsDir: this.#path('logs'),
      volumePluginDir: this.#path('volume-plugins'),
      failSwapOn: false,
      makeIPTablesUtilChains: false,
      // The lab's file systems are in memory, and go with it.
      localStorageCapacityIsolation: false,
      imageGCHighThresholdPercent: 100,
      evictionHard: { 'memory.available': '0%', 'nodefs.available': '0%', 'imagefs.available': '0%' },
    };
    writeFileSync(this.#path('resolv.conf'), '');
    writeFileSync(this.#path('config.json'), JSON.stringify(config));
    const args = [
      ...['--config', this.#path('config.json'), '--kubeconfig', plane.kubelet(this.host.name).kubeconfig],
      ...['--root-dir', this.#path('root'), '--cert-dir', this.#path('pki')],
      ...['--hostname-override', this.host.name, '--node-ip', this.host.ipv4],
    ];
    this.#service = new Service('nsenter', this.host.command(programPath('kubelet'), ...args));
  }

  /** The kubelet does not start where no clock rate of the CPUs is told; user-mode Linux tells none. */
  async #tellClockRate(): Promise<void> {
    const told = readFileSync(cpuinfo, 'utf8');
    if (process.arch !== 'x64' || told.includes('cpu MHz')) return;
    const file = this.#path('cpuinfo');
    writeFileSync(file, told.replaceAll(/^bogomips/gm, 'cpu MHz\t\t: 1000.000\nbogomips'));
    await run('mount', '--bind', file, cpuinfo);
    this.host.hosts.onCleanup(async () => {
      await attempt('umount', [cpuinfo]);
    });
  }

  /** kube-proxy's part: the node and its pods reach the API server by its Service, the only one there is. */
  async #serveApiServer(plane: ControlPlane): Promise<void> {
    const { hostname, host } = new URL(plane.serverForHosts);
    await this.host.exec('ip', 'route', 'add', serviceAddress, 'via', hostname);
    const rule = `ip daddr ${serviceAddress} tcp dport 443 dnat to ${host}`;
    const chains = (['prerouting', 'output'] as const).flatMap((hook) => [
      `add chain ip services ${hook} { type nat hook ${hook} priority -100; }`,
      `add rule ip services ${hook} ${rule}`,
    ]);
    await this.host.exec('nft', ['add table ip services', ...chains].join('; '));
  }

  async #remove(): Promise<void> {
    await this.#service?.end();
    await this.#containerd.crictl('rmp', '--force', '--all');
    const left = readFileSync(mounts, 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '');
    for (const path of left.filter((one) => one.startsWith(`${this.#folder}/`))) await attempt('umount', ['-l', path]);
    await attempt('find', [podCgroups, '-depth', '-type', 'd', '-exec', 'rmdir', '{}', ';']);
  }
}
