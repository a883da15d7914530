import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { issueClientKey } from '../../operator/src/openvpn/wrap/client-key.ts';
import { formatClientKey, parseServerKey } from '../../operator/src/openvpn/wrap/key-file.ts';
import type { Host } from './hosts.ts';
import type { Certificate } from './pki.ts';
import { globalAddresses } from './links.ts';
import { attempt, eventually, patienceMs, run, Service } from './run.ts';

/** Stock OpenVPN, as distributions ship it, on a host of the lab. */

/** One kind of it. */
export interface OpenvpnBuild {
  readonly name: string;
  readonly program: string;
  /** Whether its data channel is the kernel's ovpn driver. */
  readonly offload: boolean;
  readonly options: readonly string[];
  toString(): string;
}

const build = (name: string, program: string, offload: boolean, options: readonly string[] = []): OpenvpnBuild => ({
  ...{ name, program, offload, options },
  toString: () => name,
});

export const openvpn26 = build('2.6.14', 'openvpn-2.6', false);
export const openvpn27 = build('2.7.8 with offload', 'openvpn', true);
export const openvpn27Userspace = build('2.7.8 without offload', 'openvpn', false, ['disable-dco']);
export const openvpnBuilds: readonly OpenvpnBuild[] = [openvpn26, openvpn27, openvpn27Userspace];

export interface OpenvpnSettings {
  readonly build: OpenvpnBuild;
  /** The configuration, an option a line. */
  readonly config: readonly string[];
  /** Files inside of the configuration: certificates and keys. */
  readonly inline?: Readonly<Record<string, string>>;
}

/** One OpenVPN process with its log. */
export class OpenvpnProcess {
  readonly host: Host;
  readonly build: OpenvpnBuild;
  readonly #service: Service;

  private constructor(host: Host, build: OpenvpnBuild, service: Service) {
    this.host = host;
    this.build = build;
    this.#service = service;
  }

  static start(host: Host, { build, config, inline = {} }: OpenvpnSettings): OpenvpnProcess {
    const blocks = Object.entries(inline).map(([name, text]) => `<${name}>\n${text.trimEnd()}\n</${name}>`);
    return OpenvpnProcess.startFile(host, build, [...config, ...build.options, 'verb 3', ...blocks, ''].join('\n'));
  }

  /** The same with a configuration file as it is. */
  static startFile(host: Host, build: OpenvpnBuild, text: string): OpenvpnProcess {
    const file = join(mkdtempSync(join(host.hosts.folder, `${host.name}-`)), 'openvpn.conf');
    writeFileSync(file, text, { mode: 0o600 });
    const service = new Service('nsenter', host.command(build.program, '--config', file));
    const process = new OpenvpnProcess(host, build, service);
    host.hosts.onCleanup(() => process.end('SIGKILL'));
    return process;
  }

  get log(): string {
    return this.#service.log;
  }

  /** The end of the log, for messages of failures. */
  get tail(): string {
    const lines = this.log
      .split('\n')
      .filter((line) => !/ (VERIFY|Validating|\+\+ Certificate|peer info:) /.test(line));
    return lines.slice(-40).join('\n');
  }

  get running(): boolean {
    return this.#service.running;
  }

  /** Waits until the log has a line like this so many times; a process that ends before has failed. */
  async until(
    line: RegExp,
    { times = 1, timeoutMs = patienceMs }: { times?: number; timeoutMs?: number } = {},
  ): Promise<void> {
    const pattern = new RegExp(line.source, `${line.flags.replace('g', '')}g`);
    const seen = (): boolean => (this.log.match(pattern)?.length ?? 0) >= times;
    try {
      const result = await eventually(
        `${this.build.name} on ${this.host.name} says ${String(line)}`,
        () => {
          const { running } = this;
          return seen() ? 'seen' : running ? undefined : 'ended';
        },
        { timeoutMs, stepMs: 50 },
      );
      if (result === 'ended') throw new Error(`${this.build.name} on ${this.host.name} ended`);
    } catch (error) {
      throw new Error(`${String(error)}; its log:\n${this.tail}`, { cause: error });
    }
  }

  /** Waits until the tunnel stands, or stands again. */
  async connected(times = 1, timeoutMs = patienceMs): Promise<void> {
    await this.until(/Initialization Sequence Completed/, { times, timeoutMs });
  }

  /** Waits until the process has ended by itself. */
  async ended(timeoutMs = patienceMs): Promise<void> {
    const what = `${this.build.name} on ${this.host.name} ends`;
    await eventually(what, () => !this.running || undefined, { timeoutMs, stepMs: 50 }).catch((error: unknown) => {
      throw new Error(`${String(error)}; its log:\n${this.tail}`, { cause: error });
    });
  }

  /** SIGTERM says goodbye to the other end, SIGKILL does not. */
  async end(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    await this.#service.end(signal);
    // A killed process leaves the device of its offload behind, and would fail on it when it is started again.
    if (signal === 'SIGKILL') await attempt('ip', ['-n', this.host.namespace, 'link', 'del', 'tun0']);
  }

  /** Its addresses inside of the tunnel, IPv4 first. */
  async addresses(): Promise<string[]> {
    return globalAddresses(this.host.namespace, 'tun0');
  }

  /** Whether the kernel's driver carries its data. */
  async offloads(): Promise<boolean> {
    return (await run('ip', '-n', this.host.namespace, '-d', 'link', 'show', 'tun0')).includes(' ovpn mode ');
  }
}

export type Transport = 'UDP' | 'TCP';
export type Family = 4 | 6;

/** `proto` of one end. */
export const protoOption = (transport: Transport, family: Family, role: 'server' | 'client'): string =>
  `proto ${transport.toLowerCase()}${family}${transport === 'TCP' ? `-${role}` : ''}`;

export interface ClientSettings {
  readonly remotes: readonly { readonly address: string; readonly port: number }[];
  readonly transport: Transport;
  readonly family: Family;
  readonly config?: readonly string[];
}

/** What a client's user writes. */
export const clientConfig = ({ remotes, transport, family, config = [] }: ClientSettings): string[] => [
  'client',
  'dev tun0',
  'dev-type tun',
  protoOption(transport, family, 'client'),
  ...remotes.map(({ address, port }) => `remote ${address} ${port}`),
  'nobind',
  'persist-key',
  'connect-retry 1 2',
  'remote-cert-tls server',
  ...(transport === 'UDP' ? ['explicit-exit-notify 1'] : []),
  ...config,
];

export interface ServerSettings {
  readonly transport: Transport;
  readonly family: Family;
  readonly port: number;
  readonly config?: readonly string[];
}

/** The addresses of a server inside of its tunnels. */
export const serverAddresses = ['10.90.0.1', 'fd90::1'] as const;

/** What a server's administrator writes. */
export const serverConfig = ({ transport, family, port, config = [] }: ServerSettings): string[] => [
  'server 10.90.0.0 255.255.255.0',
  'server-ipv6 fd90::/112',
  'topology subnet',
  'dev tun0',
  'dev-type tun',
  protoOption(transport, family, 'server'),
  `port ${port}`,
  'dh none',
  'keepalive 2 10',
  'remote-cert-tls client',
  ...(transport === 'UDP' ? ['explicit-exit-notify 1'] : []),
  ...config,
];

export const credentials = (ca: string, { cert, key }: Certificate): Record<string, string> => ({ ca, cert, key });

export type Wrap = 'none' | 'tls-auth' | 'tls-crypt' | 'tls-crypt-v2';
export const wraps: readonly Wrap[] = ['none', 'tls-auth', 'tls-crypt', 'tls-crypt-v2'];

/** Wrapping keys, made by OpenVPN's own program. */
export class WrapKeys {
  readonly shared: string;
  readonly v2Server: string;
  readonly v2Client: string;

  private constructor(shared: string, v2Server: string, v2Client: string) {
    this.shared = shared;
    this.v2Server = v2Server;
    this.v2Client = v2Client;
  }

  static async create(folder: string): Promise<WrapKeys> {
    const place = mkdtempSync(join(folder, 'wrap-'));
    const file = (name: string): string => join(place, name);
    const { program } = openvpn27;
    await Promise.all([
      run(program, '--genkey', 'secret', file('shared')),
      run(program, '--genkey', 'tls-crypt-v2-server', file('server')),
    ]);
    await run(program, '--tls-crypt-v2', file('server'), '--genkey', 'tls-crypt-v2-client', file('client'));
    const read = (name: string): string => readFileSync(file(name), 'utf8');
    return new WrapKeys(read('shared'), read('server'), read('client'));
  }

  /** The same, but for the client's key of tls-crypt-v2, which says that it was issued at another time. */
  issuedAt(seconds: number): WrapKeys {
    const server = parseServerKey(this.v2Server, {});
    const client = issueClientKey(server, { kind: 'timestamp', seconds }, randomBytes);
    return new WrapKeys(this.shared, this.v2Server, formatClientKey(client));
  }

  /** The text of the key file of one end. */
  of(wrap: Wrap, role: 'server' | 'client'): string | undefined {
    if (wrap === 'none') return undefined;
    if (wrap !== 'tls-crypt-v2') return this.shared;
    return role === 'server' ? this.v2Server : this.v2Client;
  }

  /** The lines and blocks of an OpenVPN configuration; tls-auth with directions, the usual ones. */
  openvpn(wrap: Wrap, role: 'server' | 'client'): { config: string[]; inline: Record<string, string> } {
    const text = this.of(wrap, role);
    if (text === undefined) return { config: [], inline: {} };
    const direction = wrap === 'tls-auth' ? [`key-direction ${role === 'server' ? 0 : 1}`] : [];
    return { config: direction, inline: { [wrap]: text } };
  }
}
