import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { buildKubectlPlugin } from '../../../scripts/kubectl-plugin.ts';
import { tied } from '../../lab/run.ts';
import { programPath } from '../../programs/location.ts';
import { attempt, type Finished, Service } from '../run.ts';

/** `kubectl ovpn` as a person has it: the plugin as one file on PATH, started by a real kubectl. */
export class KubectlPlugin {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async build(): Promise<KubectlPlugin> {
    const plugin = new KubectlPlugin(mkdtempSync(join(tmpdir(), 'ovpn-plugin-')));
    await buildKubectlPlugin(plugin.file);
    return plugin;
  }

  get file(): string {
    return join(this.folder, 'kubectl-ovpn');
  }

  /** What its processes get to see of the world. */
  env(kubeconfig: string): NodeJS.ProcessEnv {
    const path = [this.folder, dirname(process.execPath), dirname(programPath('kubectl')), '/usr/bin', '/bin'];
    return { PATH: path.join(delimiter), KUBECONFIG: kubeconfig, HOME: this.folder };
  }

  /** Runs `kubectl ovpn` to its end; an exit code other than 0 is a result. */
  run(kubeconfig: string, ...args: string[]): Promise<Finished> {
    return this.kubectl(kubeconfig, 'ovpn', ...args);
  }

  /** Runs kubectl itself, which finds the plugin and what completes it. */
  kubectl(kubeconfig: string, ...args: string[]): Promise<Finished> {
    return attempt('env', this.#words(kubeconfig, args));
  }

  /** Starts one that goes on. */
  start(kubeconfig: string, ...args: string[]): Service {
    return new Service(...tied('env', this.#words(kubeconfig, ['ovpn', ...args]), 'KILL'));
  }

  #words(kubeconfig: string, args: readonly string[]): string[] {
    const settings = Object.entries(this.env(kubeconfig)).map(([name, value]) => `${name}=${value ?? ''}`);
    return ['-i', ...settings, 'kubectl', ...args];
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
