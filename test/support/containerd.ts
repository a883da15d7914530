import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { programPath } from '../programs/location.ts';
import type { Host } from './hosts.ts';
import { attempt, eventually, type Finished, run, Service } from './run.ts';

/** A pod as the kubelet describes it to the runtime (CRI, PodSandboxConfig). */
export interface SandboxConfig {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly dnsServers?: readonly string[];
}

/** A pod sandbox that runs. */
export interface Sandbox {
  readonly id: string;
  /** Path of its network namespace. */
  readonly netns: string;
  /** The pod's address for the rest of the cluster: that of eth0. */
  readonly ip: string;
  readonly config: SandboxConfig;
}

const image = 'lab.test/busybox:1';
/** A shell's worth of programs in one file, from the lab's tools. */
const busybox = '/usr/bin/busybox';

/** containerd with runc on a host of the lab, asked by crictl as the kubelet asks it. */
export class Containerd {
  readonly host: Host;
  /** Where it looks for CNI plugins. */
  readonly plugins: string;
  /** Where it looks for network configurations. */
  readonly lists: string;
  readonly #folder: string;
  #service: Service | undefined;
  #logs = '';
  #attempts = 0;

  private constructor(host: Host) {
    this.host = host;
    this.#folder = join(host.hosts.folder, `${host.name}-containerd`);
    this.plugins = join(this.#folder, 'plugins');
    this.lists = join(this.#folder, 'net.d');
    for (const folder of [this.plugins, this.lists]) mkdirSync(folder, { recursive: true });
  }

  /** Starts it without a network configuration, with the image of its sandboxes and the reference plugins. */
  static async start(host: Host): Promise<Containerd> {
    const containerd = new Containerd(host);
    for (const name of ['loopback', 'ptp', 'bridge', 'host-local'] as const) {
      symlinkSync(programPath(name), join(containerd.plugins, name));
    }
    containerd.#configure();
    host.hosts.onCleanup(() => containerd.#remove());
    await containerd.startService();
    await containerd.#loadImage();
    return containerd;
  }

  get log(): string {
    return this.#logs + (this.#service?.log ?? '');
  }

  /** Starts the daemon; sandboxes that run already are its own again. */
  async startService(): Promise<void> {
    this.#logs += this.#service?.log ?? '';
    const service = new Service(
      'nsenter',
      this.host.command(
        ...(['env', `PATH=${this.#path('bin')}:${process.env['PATH'] ?? ''}`] as const),
        ...[programPath('containerd'), '--config', this.#path('config.toml')],
      ),
    );
    this.#service = service;
    await eventually('containerd answers', async () => {
      if (!service.running) throw new Error(`containerd ended:\n${service.log}`);
      return (await this.crictl('version')).code === 0 ? true : undefined;
    });
  }

  async stopService(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.#service?.end(signal);
  }

  /** Any call of crictl. */
  crictl(...args: string[]): Promise<Finished> {
    return attempt(programPath('crictl'), ['--config', this.#path('crictl.yaml'), ...args]);
  }

  /** Starts a pod, as the kubelet tries to. */
  async tryRun(config: SandboxConfig): Promise<Finished> {
    return this.crictl('runp', this.#write(`${config.name}.json`, sandboxConfig(config, (this.#attempts += 1))));
  }

  /** @throws with the runtime's words */
  async runSandbox(config: SandboxConfig): Promise<Sandbox> {
    const { code, stdout, stderr } = await this.tryRun(config);
    if (code !== 0) throw new Error(`${config.name} did not start: ${stderr}`);
    const id = stdout.trim();
    return { id, ...(await this.#networkOf(id, config.name)), config };
  }

  /** Path of the network namespace of a pod that somebody else runs here: the kubelet. */
  async netnsOf(name: string): Promise<string> {
    const { stdout } = await this.#must('pods', '--quiet', '--state', 'Ready', '--name', `^${name}$`);
    return (await this.#networkOf(stdout.trim(), name)).netns;
  }

  async #networkOf(id: string, name: string): Promise<{ netns: string; ip: string }> {
    const found = JSON.parse((await this.#must('inspectp', id)).stdout) as {
      status: { network: { ip: string } };
      info: { runtimeSpec: { linux: { namespaces: { type: string; path?: string }[] } } };
    };
    const netns = found.info.runtimeSpec.linux.namespaces.find(({ type }) => type === 'network')?.path;
    if (netns === undefined) throw new Error(`${name} has no network namespace of its own`);
    return { netns, ip: found.status.network.ip };
  }

  /** Starts a container in the pod that does nothing, and returns a function that runs commands in it for their output. */
  async container({ id, config }: Sandbox): Promise<(...command: string[]) => Promise<string>> {
    const container = this.#write(`${config.name}-main.json`, {
      metadata: { name: 'main' },
      image: { image },
      command: ['/bin/busybox', 'sleep', '1000000'],
      linux: {},
    });
    const made = await this.#must('create', id, container, this.#path(`${config.name}.json`));
    const name = made.stdout.trim();
    await this.#must('start', name);
    return async (...command) => (await this.#must('exec', '--sync', name, '/bin/busybox', ...command)).stdout.trim();
  }

  /** Ends the pod: the runtime calls DEL. */
  async endSandbox({ id }: Sandbox): Promise<void> {
    await this.#must('stopp', id);
    await this.#must('rmp', id);
  }

  /** What the runtime says of its network, as the kubelet reads it: `true`, or why not. */
  async networkReady(): Promise<true | string> {
    const { status } = JSON.parse((await this.#must('info')).stdout) as {
      status: { conditions: { type: string; status: boolean; message: string }[] };
    };
    const found = status.conditions.find(({ type }) => type === 'NetworkReady');
    return found?.status === true ? true : (found?.message ?? 'no condition NetworkReady');
  }

  async #must(...args: string[]): Promise<Finished> {
    const done = await this.crictl(...args);
    if (done.code !== 0) throw new Error(`crictl ${args.join(' ')}: ${done.stderr}\n${this.log.slice(-4000)}`);
    return done;
  }

  #path(name: string): string {
    return join(this.#folder, name);
  }

  #write(name: string, content: object): string {
    writeFileSync(this.#path(name), JSON.stringify(content));
    return this.#path(name);
  }

  /** Its socket: CRI for the kubelet, and its own API. */
  get socket(): string {
    return this.#path('containerd.sock');
  }

  #configure(): void {
    mkdirSync(this.#path('bin'));
    const shim = 'containerd-shim-runc-v2';
    symlinkSync(programPath(shim), join(this.#path('bin'), shim));
    // JSON is YAML.
    this.#write('crictl.yaml', { 'runtime-endpoint': `unix://${this.socket}`, timeout: 60 });
    // https://github.com/containerd/containerd/blob/v2.4.2/docs/cri/config.md
    const runtime = "plugins.'io.containerd.cri.v1.runtime'";
    writeFileSync(
      this.#path('config.toml'),
      [
        'version = 3',
        `root = "${this.#path('root')}"`,
        `state = "${this.#path('state')}"`,
        // What needs devices, or another service.
        `disabled_plugins = [${unneeded.map((name) => `"io.containerd.${name}"`).join(', ')}]`,
        '[grpc]',
        `address = "${this.socket}"`,
        "[plugins.'io.containerd.cri.v1.images'.pinned_images]",
        `sandbox = "${image}"`,
        `[${runtime}.cni]`,
        `bin_dirs = ["${this.plugins}"]`,
        `conf_dir = "${this.lists}"`,
        `[${runtime}.containerd.runtimes.runc]`,
        'runtime_type = "io.containerd.runc.v2"',
        '',
      ].join('\n'),
    );
  }

  /** Makes the image from the one file that it consists of, and imports it: there is no registry. */
  async #loadImage(): Promise<void> {
    const layout = this.#path('image');
    const blobs = join(layout, 'blobs/sha256');
    const files = this.#path('files');
    for (const folder of [blobs, join(files, 'bin')]) mkdirSync(folder, { recursive: true });
    copyFileSync(busybox, join(files, 'bin/busybox'));
    await run('tar', '-C', files, '-cf', this.#path('layer.tar'), 'bin');
    const blob = (content: Buffer | object): { digest: string; size: number } => {
      const bytes = Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content));
      const digest = createHash('sha256').update(bytes).digest('hex');
      writeFileSync(join(blobs, digest), bytes);
      return { digest: `sha256:${digest}`, size: bytes.length };
    };
    // https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
    const oci = (kind: string): string => `application/vnd.oci.image.${kind}`;
    const layer = blob(readFileSync(this.#path('layer.tar')));
    const config = blob({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: { Entrypoint: ['/bin/busybox', 'sleep', '1000000'] },
      rootfs: { type: 'layers', diff_ids: [layer.digest] },
    });
    const manifest = blob({
      schemaVersion: 2,
      mediaType: oci('manifest.v1+json'),
      config: { mediaType: oci('config.v1+json'), ...config },
      layers: [{ mediaType: oci('layer.v1.tar'), ...layer }],
    });
    const annotations = { 'io.containerd.image.name': image };
    const manifests = [{ mediaType: oci('manifest.v1+json'), ...manifest, annotations }];
    writeFileSync(join(layout, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
    writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    await run('tar', '-C', layout, '-cf', this.#path('image.tar'), '.');
    await this.importImage(this.#path('image.tar'));
  }

  /** Takes an image from an OCI layout in one tar file, of which it keeps this machine's architecture. */
  async importImage(archive: string): Promise<void> {
    await run(programPath('ctr'), '-a', this.socket, '-n', 'k8s.io', 'images', 'import', archive);
  }

  async #remove(): Promise<void> {
    if (this.#service?.running !== true) return;
    await this.crictl('rmp', '--force', '--all');
    await this.stopService();
    await attempt('umount', ['-R', '-l', dirname(this.#path('root/x'))]);
  }
}

const unneeded = [
  ...['btrfs', 'zfs', 'devmapper', 'erofs', 'blockfile'].map((name) => `snapshotter.v1.${name}`),
  'nri.v1.nri',
];

/** Two sandboxes of one pod differ in the number of the attempt. */
function sandboxConfig(
  { name, namespace = 'default', uid = `${name}-uid`, dnsServers }: SandboxConfig,
  attempts: number,
): object {
  return {
    metadata: { name, namespace, uid, attempt: attempts },
    log_directory: '/tmp',
    linux: {},
    ...(dnsServers === undefined
      ? {}
      : { dns_config: { servers: dnsServers, searches: ['default.svc.cluster.local'] } }),
  };
}
