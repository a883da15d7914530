import { createServer } from 'node:net';
import { join } from 'node:path';
import { tied } from '../../lab/run.ts';
import { eventually, Service } from '../run.ts';
import type { KubeUser } from './kube-user.ts';

const program = join(import.meta.dirname, '../../../operator/src/cli/ovpn-controller.ts');

/** The controller's program, with the rights of its service account, beside a control plane of tests. */
export class ControllerProcess {
  readonly name: string;
  readonly #user: KubeUser;
  readonly #server: string;
  readonly #options: readonly string[];
  #port = 0;
  #service: Service | undefined;

  /**
   * @param user from `plane.controller(name)`
   * @param server another way to the API server
   * @param options more of its options
   */
  constructor(name: string, user: KubeUser, server?: string, options: readonly string[] = []) {
    this.name = name;
    this.#user = user;
    this.#options = options;
    this.#server = `${user.kubeconfig}.local`;
    // It runs where the test runs, also when the control plane is on a host of the lab.
    user.writeKubeconfig(this.#server, server);
  }

  async start(): Promise<void> {
    const port = await freePort();
    this.#port = port;
    const args = ['--kubeconfig', this.#server, '--name', this.name, '--health', `127.0.0.1:${port}`, ...this.#options];
    this.#service = new Service(...tied(process.execPath, [program, ...args], 'KILL'));
    await eventually(
      `controller ${this.name} is up`,
      async () => {
        if (this.#service?.running !== true) throw new Error(`the controller ended:\n${this.log}`);
        const response = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
        return response?.ok === true ? true : undefined;
      },
      { timeoutMs: 60_000 },
    );
  }

  get log(): string {
    return this.#service?.log ?? '';
  }

  /** Its metrics as Prometheus gets them. */
  async metrics(): Promise<string> {
    return (await fetch(`http://127.0.0.1:${this.#port}/metrics`)).text();
  }

  get running(): boolean {
    return this.#service?.running === true;
  }

  get pid(): number {
    return this.#service?.pid ?? 0;
  }

  /** Who it is to the API server, as it stands in the audit log. */
  get userName(): string {
    return this.#user.credentials.name;
  }

  stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    return this.#service?.end(signal) ?? Promise.resolve();
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}
