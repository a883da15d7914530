import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Host } from './hosts.ts';
import { eventually, Service } from './run.ts';

/** The addresses of names, both families mixed. */
export type NameRecords = Readonly<
  Record<string, { readonly addresses: readonly string[]; readonly ttlSeconds: number }>
>;

const resolverFile = '/etc/resolv.conf';

/** A name server on a host of the lab, which the whole machine asks, as far as it reaches the host. */
export class NameServer {
  readonly #file: string;
  readonly #service: Service;

  private constructor(file: string, service: Service) {
    this.#file = file;
    this.#service = service;
  }

  /** Starts it, and makes it the machine's until the hosts are removed. Only one test file may. */
  static async start(host: Host, records: NameRecords): Promise<NameServer> {
    const file = join(host.hosts.folder, 'names.json');
    writeFileSync(file, JSON.stringify(records));
    const program = join(import.meta.dirname, 'name-server-program.ts');
    const service = new Service('nsenter', host.command(process.execPath, program, host.ipv4, file));
    const before = readFileSync(resolverFile);
    host.hosts.onCleanup(async () => {
      writeFileSync(resolverFile, before);
      await service.end('SIGKILL');
    });
    await eventually('the name server listens', () => {
      if (!service.running) throw new Error(service.log);
      return service.log.includes('ready') || undefined;
    });
    writeFileSync(resolverFile, `nameserver ${host.ipv4}\noptions timeout:1 attempts:2\n`);
    return new NameServer(file, service);
  }

  change(records: NameRecords): void {
    writeFileSync(this.#file, JSON.stringify(records));
  }

  /** How often each question for a name was asked. */
  questions(name: string): Readonly<Record<'A' | 'AAAA', number>> {
    const lines = this.#service.log.split('\n');
    const count = (type: string): number => lines.filter((line) => line === `${type} ${name}`).length;
    return { A: count('A'), AAAA: count('AAAA') };
  }

  async stop(): Promise<void> {
    await this.#service.end('SIGKILL');
  }
}
