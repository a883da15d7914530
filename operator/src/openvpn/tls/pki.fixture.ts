import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A certificate authority for tests, run by the `openssl` command in a folder of its own. */

export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

export interface IssueOptions {
  /** Extended key usage; none when undefined. */
  readonly usage?: 'serverAuth' | 'clientAuth' | undefined;
  readonly expired?: boolean;
  readonly notYetValid?: boolean;
  /** An RSA key instead of one on P-256. */
  readonly rsa?: boolean;
  readonly subject?: string;
  readonly altNames?: string;
}

export interface TestPki {
  readonly ca: string;
  readonly folder: string;
  issue(name: string, options?: IssueOptions): Certificate;
  revoke(name: string): void;
  crl(): string;
  remove(): void;
}

export function testPki(commonName = 'Test CA'): TestPki {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-pki-'));
  const run = (...args: string[]): void => void execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  const read = (name: string): string => readFileSync(join(folder, name), 'utf8');
  const newKey = (file: string, rsa = false): void => {
    const kind = rsa ? ['RSA', '-pkeyopt', 'rsa_keygen_bits:2048'] : ['EC', '-pkeyopt', 'ec_paramgen_curve:P-256'];
    run('genpkey', '-algorithm', ...kind, '-out', file);
  };

  mkdirSync(join(folder, 'issued'));
  writeFileSync(join(folder, 'index.txt'), '');
  writeFileSync(join(folder, 'serial'), '01\n');
  writeFileSync(join(folder, 'crlnumber'), '01\n');
  writeFileSync(
    join(folder, 'ca.cnf'),
    [
      '[ca]\ndefault_ca=test\n[test]\ndatabase=index.txt\nserial=serial\ncrlnumber=crlnumber\nnew_certs_dir=issued',
      'certificate=ca.crt\nprivate_key=ca.key\ndefault_md=sha256\ndefault_days=3650\ndefault_crl_days=365',
      'policy=any\nunique_subject=no\nemail_in_dn=no\nrand_serial=no\npreserve=yes\nstring_mask=utf8only\nutf8=yes',
      '[any]\ncountryName=optional\norganizationName=optional\ncommonName=optional\n',
      '[req]\ndistinguished_name=dn\nx509_extensions=root\n[dn]\n',
      '[root]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n',
    ].join('\n'),
  );
  newKey('ca.key');
  run(
    'req',
    '-x509',
    '-new',
    '-key',
    'ca.key',
    '-out',
    'ca.crt',
    '-days',
    '3650',
    '-config',
    'ca.cnf',
    '-subj',
    `/CN=${commonName}`,
  );

  return {
    folder,
    ca: read('ca.crt'),
    issue: (name, options = {}) => {
      newKey(`${name}.key`, options.rsa);
      run(
        'req',
        '-new',
        '-key',
        `${name}.key`,
        '-out',
        `${name}.csr`,
        '-config',
        'ca.cnf',
        '-utf8',
        '-subj',
        options.subject ?? `/CN=${name}`,
      );
      writeFileSync(
        join(folder, `${name}.ext`),
        [
          'basicConstraints=CA:FALSE',
          `keyUsage=digitalSignature${options.rsa === true ? ',keyEncipherment' : ''}`,
          ...(options.usage === undefined ? [] : [`extendedKeyUsage=${options.usage}`]),
          ...(options.altNames === undefined ? [] : [`subjectAltName=${options.altNames}`]),
          '',
        ].join('\n'),
      );
      const [from, to] = options.expired === true ? [2020, 2021] : [2120, 2121];
      const limited = options.expired === true || options.notYetValid === true;
      const dates = limited ? ['-startdate', `${from}0101000000Z`, '-enddate', `${to}0101000000Z`] : [];
      run(
        'ca',
        '-batch',
        '-notext',
        '-config',
        'ca.cnf',
        '-in',
        `${name}.csr`,
        '-out',
        `${name}.crt`,
        '-extfile',
        `${name}.ext`,
        ...dates,
      );
      return { cert: read(`${name}.crt`), key: read(`${name}.key`) };
    },
    revoke: (name) => run('ca', '-config', 'ca.cnf', '-revoke', `${name}.crt`),
    crl: () => {
      run('ca', '-config', 'ca.cnf', '-gencrl', '-out', 'crl.pem');
      return read('crl.pem');
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Bytes as a CRL in PEM. */
export function crlPem(der: Uint8Array): string {
  return `-----BEGIN X509 CRL-----\n${Buffer.from(der).toString('base64')}\n-----END X509 CRL-----\n`;
}
