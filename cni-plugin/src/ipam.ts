/**
 * Addresses from another plugin (section 4, "Plugin Delegation"): it is found in CNI_PATH, gets the same
 * environment but for the operation, and the same configuration byte for byte.
 */
import { OvpnError } from '@ovpn-operator/operator/errors';
import { CniFailure, cniCode } from './cni-error.ts';
import { quote } from './environment.ts';
import { codeOf, type Executed, type Host } from './host.ts';
import { isObject, Reader } from './json-reader.ts';
import { parsePrefix } from './prefix.ts';
import type { Operation } from './versions.ts';

/** A DHCP server may take its time; the runtime's own patience ends later. */
const executeMs = 60_000;
const maxOutputBytes = 1024 * 1024;

export class IpamPlugin {
  readonly #host: Host;
  readonly #type: string;
  readonly #path: string;
  readonly #config: string;

  /** @throws OvpnError CniEnvironmentInvalid when CNI_PATH does not hold it */
  constructor(host: Host, type: string, config: string) {
    this.#host = host;
    this.#type = type;
    this.#path = findPlugin(host, type);
    this.#config = config;
  }

  /** Allocates. The addresses have prefix lengths. @throws CniFailure with the plugin's own code and text */
  add(): readonly string[] {
    const stdout = this.run('ADD');
    const addresses = this.#read(stdout)
      .objects('ips')
      .map((entry) => parsePrefix(entry, 'address'));
    if (addresses.length === 0) this.#refuse('ips', 'are missing: it has allocated no address');
    return addresses;
  }

  /** Runs it and gives what it says. @throws CniFailure with the plugin's own code and text */
  run(operation: Operation): string {
    const { exitCode, stdout } = this.#execute(operation);
    if (exitCode === 0) return stdout;
    throw this.#failure(operation, exitCode, stdout);
  }

  #execute(operation: Operation): Executed {
    try {
      return this.#host.execute(this.#path, operation, this.#config, executeMs, maxOutputBytes);
    } catch (error) {
      const problem = `${operation} of the IPAM plugin failed: ${codeOf(error)}`;
      throw new CniFailure(
        cniCode.tryAgainLater,
        new OvpnError('IpamFailed', problem, { object: this.#path }).message,
        {
          cause: error,
        },
      );
    }
  }

  /** Its error object (section 5, "Error") with the name of the plugin before its text. */
  #failure(operation: Operation, exitCode: number, stdout: string): CniFailure {
    const value = decode(stdout);
    const code = isObject(value) ? value['code'] : undefined;
    const msg = isObject(value) ? value['msg'] : undefined;
    const details = isObject(value) ? value['details'] : undefined;
    const said = [msg, details].filter((text): text is string => typeof text === 'string' && text !== '').join('; ');
    const text = said === '' ? `exit code ${exitCode} without a word` : said.slice(0, 4_096);
    const error = new OvpnError('IpamFailed', `${operation} of the IPAM plugin failed: ${text}`, {
      object: this.#path,
    });
    const known = typeof code === 'number' && Number.isSafeInteger(code) && code > 0;
    return new CniFailure(known ? code : cniCode.ipamFailed, error.message);
  }

  #read(stdout: string): Reader {
    return new Reader(decode(stdout), '', (field, problem) => this.#refuse(field, problem));
  }

  #refuse(field: string, problem: string): never {
    throw new OvpnError('IpamFailed', problem, { object: `result of ${this.#type}`, field });
  }
}

function decode(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function findPlugin(host: Host, type: string): string {
  const folders = (host.env['CNI_PATH'] ?? '').split(':').filter((folder) => folder.startsWith('/'));
  const found = folders.map((folder) => `${folder}/${type}`).find((path) => host.isExecutable(path));
  if (found !== undefined) return found;
  throw new OvpnError(
    'CniEnvironmentInvalid',
    `holds no plugin ${quote(type)}, which the configuration's ipam.type names`,
    { field: 'CNI_PATH' },
    { remedy: "put the plugin into the runtime's plugin folder, or correct ipam.type" },
  );
}
