import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { formatStaticKey } from '../../../operator/src/openvpn/static-key.ts';

const run = promisify(execFile);

/** Part of the folder's name: a change of what is below makes a new one. */
const version = 1;

/** A certificate authority with a server and many clients, all EC P-256, and a tls-crypt key: paths of PEM files. */
export interface BenchPki {
  readonly folder: string;
  readonly ca: string;
  readonly serverCert: string;
  readonly serverKey: string;
  /** All clients have the same private key, each in a certificate of its own: no server can make use of that. */
  readonly clientKey: string;
  readonly tlsCryptKey: string;
}

export function benchPki(folder: string): BenchPki {
  const file = (name: string): string => join(folder, name);
  return {
    folder,
    ca: file('ca.crt'),
    serverCert: file('server.crt'),
    serverKey: file('server.key'),
    clientKey: file('client.key'),
    tlsCryptKey: file('tls-crypt.key'),
  };
}

export const clientName = (index: number): string => `client-${index}`;
export const clientCert = ({ folder }: BenchPki, index: number): string => join(folder, `${clientName(index)}.crt`);

/**
 * Makes the certificates by openssl(1), unless the cache has them already: outside of the lab, where starting a
 * program takes milliseconds.
 *
 * @returns the folder
 */
export async function makePki(cache: string, clients: number): Promise<string> {
  const target = join(cache, `pki-${version}-${clients}`);
  if (await stat(target).catch(() => undefined)) return target;
  const temporary = `${target}.${process.pid}`;
  await mkdir(temporary, { recursive: true });
  try {
    await fill(temporary, clients);
    await rename(temporary, target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return target;
}

async function fill(folder: string, clients: number): Promise<void> {
  const openssl = async (...args: string[]): Promise<void> => {
    await run('openssl', args, { cwd: folder });
  };
  for (const name of ['ca', 'server', 'client']) {
    await openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', `${name}.key`);
    await openssl('pkey', '-in', `${name}.key`, '-pubout', '-out', `${name}.pub`);
  }
  await openssl(
    ...['req', '-x509', '-new', '-key', 'ca.key', '-out', 'ca.crt', '-days', '3650', '-subj', '/CN=Benchmark CA'],
    ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
  );
  let serial = 1;
  const issue = async (owner: 'server' | 'client', name: string): Promise<void> =>
    openssl(
      ...['x509', '-new', '-subj', `/CN=${name}`, '-force_pubkey', `${owner}.pub`, '-CA', 'ca.crt', '-CAkey', 'ca.key'],
      ...['-set_serial', String(serial++), '-days', '3650', '-extfile', `${owner}.ext`, '-out', `${name}.crt`],
    );
  for (const owner of ['server', 'client'] as const) {
    const extensions = ['basicConstraints=CA:FALSE', 'keyUsage=digitalSignature', `extendedKeyUsage=${owner}Auth`];
    await writeFile(join(folder, `${owner}.ext`), extensions.map((line) => `${line}\n`).join(''));
  }
  await issue('server', 'server');
  for (let index = 0; index < clients; index++) await issue('client', clientName(index));
  await writeFile(join(folder, 'tls-crypt.key'), formatStaticKey(randomBytes(256)));
  await readFile(join(folder, 'server.crt'));
}
