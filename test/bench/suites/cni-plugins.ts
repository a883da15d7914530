import { spawn, spawnSync, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inNamespace } from '../../../operator/src/kernel/netns.ts';
import { programPath } from '../../programs/location.ts';

/** The CNI plugins that are compared, called as a runtime calls them: a process per call, in the node's namespace. */

export type Verb = 'ADD' | 'DEL' | 'CHECK' | 'STATUS' | 'VERSION';

export interface Pod {
  readonly id: string;
  readonly netns: string;
}

export interface PluginSetup {
  /** As it stands in the table. */
  readonly name: string;
  readonly binary: string;
  /** All files that a node needs for it. */
  readonly files: readonly string[];
  readonly config: object;
  /** Path of the namespace that it runs in. */
  readonly node: string;
  readonly cniPath: string;
  readonly ifname: string;
  /** For files of the plugin's own. */
  readonly folder: string;
}

/** One plugin with its configuration. */
export class Plugin {
  readonly name: string;
  readonly #setup: PluginSetup;
  readonly #results = new Map<string, object>();

  constructor(setup: PluginSetup) {
    this.name = setup.name;
    this.#setup = setup;
  }

  /** Milliseconds from the start of the process to its end. @throws Error when the call fails */
  call(verb: Verb, pod?: Pod): number {
    const { binary, node } = this.#setup;
    const { input, options } = this.#process(verb, pod);
    const start = performance.now();
    // The child is made by this thread and so starts in the namespace that it is in.
    const done = inNamespace(node, () => spawnSync(binary, [], { ...options, input, encoding: 'utf8' }));
    const ms = performance.now() - start;
    if (done.status !== 0) throw new Error(`${this.name}: ${verb} failed: ${done.stderr}${done.stdout}`);
    this.#keep(verb, pod, done.stdout);
    return ms;
  }

  /** All at once, started by a shell; milliseconds until the last one is done. @throws Error when one fails */
  async callAll(verb: Verb, pods: readonly Pod[]): Promise<number> {
    const { binary, node, config, folder } = this.#setup;
    const file = join(folder, `${this.name.replaceAll(' ', '-')}.json`);
    writeFileSync(file, JSON.stringify(config));
    const calls = pods.map((pod) => {
      const env = Object.entries(this.#environment(verb, pod)).map(([name, value]) => `'${name}=${value}'`);
      return `env ${env.join(' ')} ${binary} <${file} >/dev/null || echo ${pod.id} failed >&2 &\n`;
    });
    const start = performance.now();
    // Not spawnSync: meanwhile somebody has to read the agent's log, or it waits for room in its pipe.
    const shell = inNamespace(node, () =>
      spawn('sh', ['-c', `${calls.join('')}wait`], { stdio: ['ignore', 'ignore', 'pipe'] }),
    );
    let failed = '';
    shell.stderr.on('data', (data: Buffer) => (failed += data.toString()));
    await once(shell, 'close');
    const ms = performance.now() - start;
    if (failed !== '') throw new Error(`${this.name}: ${verb} failed: ${failed}`);
    return ms;
  }

  /** The most memory that one process of a call had, in KiB. */
  peakKiB(verb: Verb, pod?: Pod): number {
    const { binary, node } = this.#setup;
    const { input, options } = this.#process(verb, pod);
    // A small parent: what it has before exec(2) counts.
    const args = ['time', '-v', binary];
    const done = inNamespace(node, () => spawnSync('/usr/bin/busybox', args, { ...options, input, encoding: 'utf8' }));
    if (done.status !== 0) throw new Error(`${this.name}: ${verb} failed: ${done.stderr}${done.stdout}`);
    this.#keep(verb, pod, done.stdout);
    return Number(/Maximum resident set size \(kbytes\): (\d+)/.exec(done.stderr)?.[1] ?? Number.NaN);
  }

  /** Size of its files, in KiB. */
  get diskKiB(): number {
    return this.#setup.files.reduce((sum, file) => sum + statSync(file).size / 1024, 0);
  }

  #process(verb: Verb, pod: Pod | undefined): { input: string; options: SpawnOptions } {
    const { config } = this.#setup;
    const prevResult = verb === 'CHECK' && pod !== undefined ? { prevResult: this.#results.get(pod.id) } : {};
    const env = { PATH: process.env['PATH'], ...this.#environment(verb, pod) };
    return { input: JSON.stringify({ ...config, ...prevResult }), options: { env } };
  }

  #environment(verb: Verb, pod: Pod | undefined): Record<string, string> {
    const { cniPath, ifname } = this.#setup;
    const call = { CNI_COMMAND: verb, CNI_PATH: cniPath };
    if (pod === undefined) return call;
    return {
      ...call,
      CNI_CONTAINERID: pod.id,
      CNI_NETNS: pod.netns,
      CNI_IFNAME: ifname,
      CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${pod.id}`,
    };
  }

  #keep(verb: Verb, pod: Pod | undefined, stdout: string): void {
    if (verb === 'ADD' && pod !== undefined) this.#results.set(pod.id, JSON.parse(stdout) as object);
  }
}

/** What the reference plugins have in common: a folder with those they call, and one for the addresses they gave away. */
export function referencePlugins(folder: string, node: string): Plugin[] {
  const cniPath = join(folder, 'reference-plugins');
  mkdirSync(cniPath);
  const hostLocal = programPath('host-local');
  symlinkSync(hostLocal, join(cniPath, 'host-local'));
  const config = { cniVersion: '1.1.0', name: 'reference' };
  const ipam = (name: string, subnet: string): object => ({
    ipam: {
      type: 'host-local',
      dataDir: join(folder, `reference-${name}`),
      ranges: [[{ subnet }]],
      routes: [{ dst: '192.168.10.0/24' }],
    },
  });
  const setup = (type: 'ptp' | 'bridge', more: object): Plugin =>
    new Plugin({
      name: `${type} with host-local`,
      binary: programPath(type),
      files: [programPath(type), hostLocal],
      config: { ...config, type, ...more },
      ...{ node, cniPath, ifname: 'eth0', folder },
    });
  return [
    setup('ptp', ipam('ptp', '10.98.0.0/16')),
    setup('bridge', { bridge: 'cni0', isGateway: true, ...ipam('bridge', '10.99.0.0/16') }),
  ];
}
