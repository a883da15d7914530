import {
  type Certificate,
  type IssueOptions,
  type TestPki,
  testPki,
} from '../../operator/src/openvpn/tls/pki.fixture.ts';

export type { Certificate } from '../../operator/src/openvpn/tls/pki.fixture.ts';

/** A CA, and the certificates of those who meet in a test: each is made when it is first asked for. */
export class Pki {
  readonly ca: string;
  readonly #pki: TestPki;
  readonly #issued = new Map<string, Certificate>();

  constructor(commonName = 'Test CA') {
    this.#pki = testPki(commonName);
    this.ca = this.#pki.ca;
  }

  /** A certificate for TLS servers. */
  server(name = 'server', options: IssueOptions = {}): Certificate {
    return this.#issue(name, { usage: 'serverAuth', ...options });
  }

  /** A certificate for TLS clients. */
  client(name: string, options: IssueOptions = {}): Certificate {
    return this.#issue(name, { usage: 'clientAuth', ...options });
  }

  /** Revokes what was issued under this name, and returns the new CRL. */
  revoke(name: string): string {
    this.#pki.revoke(name);
    return this.crl();
  }

  crl(): string {
    return this.#pki.crl();
  }

  remove(): void {
    this.#pki.remove();
  }

  #issue(name: string, options: IssueOptions): Certificate {
    const made = this.#issued.get(name) ?? this.#pki.issue(name, options);
    this.#issued.set(name, made);
    return made;
  }
}
