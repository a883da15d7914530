import { eventually, Service } from './run.ts';

/** tcpdump on an interface, started and listening. */
export class Capture {
  readonly #service: Service;

  private constructor(service: Service) {
    this.#service = service;
  }

  /** @param filter in tcpdump's language */
  static async start(netns: string, device: string, filter: string): Promise<Capture> {
    const args = ['-Z', 'root', '-nn', '-l', '-U', '--immediate-mode', '-i', device, filter];
    const service = new Service('nsenter', [`--net=${netns}`, 'tcpdump', ...args]);
    await eventually(
      'tcpdump listens',
      () => {
        if (!service.running) throw new Error(`tcpdump ended: ${service.log}`);
        return /listening on/.test(service.log) || undefined;
      },
      { stepMs: 20 },
    );
    return new Capture(service);
  }

  /** The packets so far, a line each. */
  get packets(): string[] {
    return this.#service.log.split('\n').filter((line) => /^\d\d:\d\d:\d\d\.\d+ /.test(line));
  }

  async stop(): Promise<string[]> {
    await this.#service.end('SIGINT');
    return this.packets;
  }
}
