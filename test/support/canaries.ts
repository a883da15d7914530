import { createPrivateKey } from 'node:crypto';

/** How many bytes of a secret in a row, or 15 of base64, count as found: no chance brings as many about. */
const windowBytes = 16;
/** Base64 goes by threes: the digits of 15 bytes are the same wherever these stand in what was encoded. */
const base64Bytes = 15;

/**
 * Secrets that a test has put where secrets belong, and the hunt for them where they do not. Any 16 bytes in a row of
 * one are found: as they are, in hexadecimal, in base64 of any alignment and alphabet, through line breaks and the
 * escapes of JSON, and as the lists of numbers that JSON makes of bytes.
 */
export class Canaries {
  readonly #windows = {
    raw: new Map<string, string>(),
    hex: new Map<string, string>(),
    base64: new Map<string, string>(),
  };
  readonly #names = new Set<string>();

  /** What has been planted. */
  get names(): readonly string[] {
    return [...this.#names];
  }

  /** Plants bytes: the key itself, without what goes around it in a file and is the same for all. */
  plant(name: string, bytes: Uint8Array): void {
    if (bytes.length < windowBytes) throw new Error(`${name} is too short to be told from chance`);
    this.#names.add(name);
    const all = Buffer.from(bytes);
    // What is planted twice keeps its first name.
    const add = (windows: Map<string, string>, window: string): void => {
      if (!windows.has(window)) windows.set(window, name);
    };
    for (let at = 0; at + windowBytes <= all.length; at++) {
      const window = all.subarray(at, at + windowBytes);
      add(this.#windows.raw, window.toString('latin1'));
      add(this.#windows.hex, window.toString('hex'));
    }
    for (let at = 0; at + base64Bytes <= all.length; at++) {
      add(this.#windows.base64, all.toString('base64', at, at + base64Bytes));
    }
  }

  /**
   * Plants the private numbers of a key in PEM: the rest of such a file (names of algorithms, the public key) stands in
   * certificates, too.
   */
  plantPrivateKey(name: string, pem: string): void {
    const jwk = createPrivateKey(pem).export({ format: 'jwk' });
    for (const part of ['d', 'p', 'q', 'dp', 'dq', 'qi'] as const) {
      const number = jwk[part];
      if (typeof number === 'string') this.plant(name, Buffer.from(number, 'base64url'));
    }
  }

  /** Plants what stands between the lines BEGIN and END: base64, or the hexadecimal digits of a static key. */
  plantBlock(name: string, text: string, bytes?: number): void {
    const body = text.replaceAll(/^(?:-----.*|#.*)$/gm, '').replaceAll(/\s/g, '');
    const key = Buffer.from(body, /^[0-9a-f]+$/i.test(body) ? 'hex' : 'base64');
    this.plant(name, key.subarray(0, bytes));
  }

  /** The names of the secrets of which a text, or bytes, have a part. */
  findIn(haystack: string | Uint8Array): string[] {
    const bytes = Buffer.from(haystack as Uint8Array);
    const found = new Set<string>();
    const look = (text: string, windows: ReadonlyMap<string, string>, length: number): void => {
      for (let at = 0; at + length <= text.length; at++) {
        const name = windows.get(text.slice(at, at + length));
        if (name !== undefined) found.add(name);
      }
    };
    const text = bytes.toString('latin1');
    look(text, this.#windows.raw, windowBytes);
    // Line breaks of PEM, also as JSON escapes them, once or twice over; colons and blanks between bytes.
    const compact = text.replaceAll(/\s|(?:\\+[nrt])|:/g, '');
    look(compact.toLowerCase(), this.#windows.hex, 2 * windowBytes);
    look(compact.replaceAll('-', '+').replaceAll('_', '/').replaceAll('\\/', '/'), this.#windows.base64, 20);
    // [1,2,3] of a Buffer, and {"0":1,"1":2} of a Uint8Array.
    for (const [numbers] of compact.replaceAll(/"\d+"/g, '').matchAll(/(?:\d{1,3},){15,}\d{1,3}/g)) {
      look(Buffer.from(numbers.split(',').map(Number)).toString('latin1'), this.#windows.raw, windowBytes);
    }
    return [...found].sort();
  }
}
