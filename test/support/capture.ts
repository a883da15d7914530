import { eventually, Service } from './run.ts';

/** tcpdump on an interface, started and listening. */
export class Capture {
  readonly #service: Service;

  private constructor(service: Service) {
    this.#service = service;
  }

  /** @param filter in tcpdump's language */
  static async start(netns: string, device: string, filter: string): Promise<Capture> {
    return Capture.#running(netns, ['-Z', 'root', '-nn', '-l', '-U', '--immediate-mode', '-i', device, filter]);
  }

  static async #running(netns: string, args: readonly string[]): Promise<Capture> {
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

  /**
   * A capture of whole packets into a file, for much traffic.
   *
   * @param file is whole once `stopWhole` has come back
   */
  static async toFile(netns: string, device: string, filter: string, file: string): Promise<Capture> {
    // A buffer of 64 MiB, for when tcpdump has to wait.
    const args = ['-Z', 'root', '-nn', '-s', '0', '-B', '65536', '-i', device, '-w', file, filter];
    return Capture.#running(netns, args);
  }

  /** Ends it. @throws Error when the kernel had to drop packets, so that some are not there */
  async stopWhole(): Promise<void> {
    await this.#service.end('SIGINT');
    const dropped = /(\d+) packets? dropped by kernel/.exec(this.#service.log)?.[1];
    if (dropped !== '0') throw new Error(`the capture is not whole: ${this.#service.log}`);
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
