import { constants } from 'node:crypto';
import { EventEmitter } from 'node:events';
import tls from 'node:tls';
import { exportedBytes } from '../negotiate/data-keys.ts';
import { ControlPipe } from './control-pipe.ts';
import { type PeerChecks, whyNotWanted } from './peer-checks.ts';
import { type PeerIdentity, peerIdentity } from './peer-identity.ts';
import { mayHeal, tlsFailureReason } from './tls-failure.ts';

/**
 * One TLS session over the control packets of one key, in either role, by Node's OpenSSL.
 *
 * A server-side session is made only by a `tls.Server`: a bare server-side TLSSocket accepts client
 * certificates that do not verify, whatever `rejectUnauthorized` says.
 */

export type TlsVersion = 'TLSv1.2' | 'TLSv1.3';

export interface TlsCredentials {
  /** PEM: the CAs that the peer's certificate has to come from, and no others. */
  readonly ca: string | readonly string[];
  readonly cert: string;
  readonly key: string;
  /** PEM: with a CRL, every CA of a chain needs one. */
  readonly crl?: string | readonly string[] | undefined;
  readonly minVersion?: TlsVersion | undefined;
  readonly maxVersion?: TlsVersion | undefined;
}

export interface Secured {
  readonly identity: PeerIdentity;
  readonly version: string;
  readonly cipher: string;
}

export interface TlsEvents {
  /** The peer is verified; keys can be exported. */
  secured(secured: Secured): void;
  /**
   * At a server: the handshake is done, but the peer is not one to let in. Plaintext goes to and fro all the same, so
   * that it can be told; keys cannot be exported.
   *
   * @param temporary time alone may mend it: dates of certificates, faults of CRLs
   */
  refused(reason: string, temporary: boolean): void;
  /** Plaintext from the peer, one TLS record at a time. */
  data(plaintext: Buffer): void;
  /** The session is over, at any time and at most once; what it still has to say can be taken. */
  failed(reason: string): void;
  /** There is something to `take`. */
  output(): void;
  /** `deliver` is welcome again after it returned false. */
  hungry(): void;
}

/** Makes one TLS session a call; keeps what all of them share. */
export interface TlsFactory {
  open(events: TlsEvents): TlsEndpoint;
}

/** The server's side for any number of clients. */
export function tlsServer(credentials: TlsCredentials, checks: PeerChecks = {}): TlsFactory {
  const server = tls.createServer({
    ...contextOptions(credentials),
    requestCert: true,
    // Node verifies after the handshake, too late for an alert that would tell the client why. So it is let through
    // to where OpenVPN's own messages can, and `attach` looks at what was found.
    rejectUnauthorized: false,
  });
  return {
    open: (events) => {
      const endpoint = new TlsEndpoint('server', events, checks);
      // A server emits what becomes of a connection without saying which connection it was. This one stands in
      // for it towards a single connection: all its state is the real server's, only its events come here.
      const standIn = Object.create(server) as tls.Server;
      standIn.emit = (event: string | symbol, ...args: unknown[]): boolean => {
        if (event === 'connection') {
          return EventEmitter.prototype.emit.call(standIn, event, ...args);
        }
        if (event === 'secureConnection' && args[0] instanceof tls.TLSSocket) {
          endpoint.attach(args[0]);
          return true;
        }
        if (event === 'tlsClientError') {
          endpoint.fail(args[0], args[1] instanceof tls.TLSSocket ? args[1] : undefined);
          return true;
        }
        return false;
      };
      standIn.emit('connection', endpoint.pipe);
      return endpoint;
    },
  };
}

/**
 * The client's side.
 *
 * @param checks by which the server is known; see `PeerChecks`
 */
export function tlsClient(credentials: TlsCredentials, checks: PeerChecks): TlsFactory {
  const secureContext = tls.createSecureContext(contextOptions(credentials));
  return {
    open: (events) => {
      const endpoint = new TlsEndpoint('client', events, checks);
      const socket = tls.connect({
        socket: endpoint.pipe,
        secureContext,
        rejectUnauthorized: true,
        // OpenVPN's certificates carry no host name; `attach` holds them against `checks` instead.
        checkServerIdentity: () => undefined,
      });
      socket.once('secureConnect', () => endpoint.attach(socket));
      socket.on('error', (error) => endpoint.fail(error, socket));
      return endpoint;
    },
  };
}

/**
 * All of TLS 1.3, and of TLS 1.2 what has an ephemeral key exchange and authenticated encryption (RFC 9325, sections
 * 4.1 and 4.2). Node's own list would end with RSA key transport, under which who steals the server's key later reads
 * the data keys, and so the data, of every session recorded before.
 */
const ciphers = [
  ...['TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256', 'TLS_AES_128_GCM_SHA256'],
  ...['ECDHE+AESGCM', 'ECDHE+CHACHA20', 'DHE+AESGCM', 'DHE+CHACHA20', '!aDSS'],
].join(':');

function contextOptions({ ca, cert, key, crl, minVersion, maxVersion }: TlsCredentials): tls.SecureContextOptions {
  return {
    ca: [ca].flat(),
    cert,
    key,
    ...(crl === undefined ? {} : { crl: [crl].flat() }),
    ciphers,
    minVersion: minVersion ?? 'TLSv1.2',
    ...(maxVersion === undefined ? {} : { maxVersion }),
    // Every handshake verifies the certificate anew: no resumption past a revocation, and no renegotiation inside
    // of TLS, for which OpenVPN has its own.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  };
}

export class TlsEndpoint {
  /** For the factories of this module. */
  readonly pipe: ControlPipe;
  readonly #role: 'client' | 'server';
  readonly #events: TlsEvents;
  readonly #checks: PeerChecks;
  #socket: tls.TLSSocket | undefined;
  #verified = false;
  #over = false;
  #queue: Buffer[] = [];
  #writing = false;

  constructor(role: 'client' | 'server', events: TlsEvents, checks: PeerChecks) {
    this.#role = role;
    this.#events = events;
    this.#checks = checks;
    this.pipe = new ControlPipe(
      () => events.output(),
      () => events.hungry(),
    );
  }

  /** Bytes that control packets brought, in order; false when no more should come until `hungry`. */
  deliver(bytes: Buffer): boolean {
    return this.pipe.deliver(bytes);
  }

  /** Up to `max` bytes for the next control packet. */
  take(max: number): Buffer | undefined {
    return this.pipe.takeOutput(max);
  }

  get hasOutput(): boolean {
    return this.pipe.hasOutput;
  }

  /** Everything written has been taken. */
  get idle(): boolean {
    return !this.pipe.hasOutput && !this.#writing && this.#queue.length === 0;
  }

  /** Sends plaintext as a record of its own, as OpenVPN reads one message a record. */
  write(plaintext: Buffer): void {
    this.#queue.push(plaintext);
    this.#writeNext();
  }

  /** RFC 5705 exporter without a context (an empty one gives other bytes on TLS 1.2). Only while secured. */
  exportKey(label: string): Buffer {
    if (this.#socket === undefined || !this.#verified) {
      throw new Error('keys can be exported only after a handshake with a verified peer');
    }
    // The declaration asks for a context; Node takes none when it is undefined.
    return this.#socket.exportKeyingMaterial(exportedBytes, label, undefined as unknown as Buffer);
  }

  /** Ends the session without a word. */
  destroy(): void {
    this.#over = true;
    this.#queue = [];
    this.#socket?.destroy();
    this.pipe.destroy();
  }

  /** For the factories of this module: the handshake is done and the certificate looked at. */
  attach(socket: tls.TLSSocket): void {
    if (this.#over) {
      socket.destroy();
      return;
    }
    const certificate = socket.getPeerX509Certificate();
    if (certificate === undefined || !socket.authorized) {
      const code = verifyCode(socket);
      this.#refuse(tlsFailureReason(new Error('no certificate was verified'), code), mayHeal(code), socket);
      return;
    }
    const identity = peerIdentity(certificate);
    const unwanted = whyNotWanted(identity, this.#checks);
    if (unwanted !== undefined) {
      this.#refuse(`the peer was refused: ${unwanted}`, false, socket);
      return;
    }
    this.#verified = true;
    this.#listen(socket);
    this.#events.secured({ identity, version: socket.getProtocol() ?? 'unknown', cipher: socket.getCipher().name });
    this.#writeNext();
  }

  /** A client has nothing to say to a server that is not the one it meant. */
  #refuse(reason: string, temporary: boolean, socket: tls.TLSSocket): void {
    if (this.#role === 'client') {
      this.#end(reason, socket);
      return;
    }
    this.#listen(socket);
    this.#events.refused(reason, temporary);
  }

  #listen(socket: tls.TLSSocket): void {
    this.#socket = socket;
    socket.on('error', (error) => this.fail(error, socket));
    socket.on('data', (plaintext: Buffer) => {
      if (!this.#over) {
        this.#events.data(plaintext);
      }
    });
  }

  /** For the factories of this module. */
  fail(error: unknown, socket: tls.TLSSocket | undefined): void {
    this.#end(tlsFailureReason(error, verifyCode(socket)), socket);
  }

  #end(reason: string, socket: tls.TLSSocket | undefined): void {
    if (this.#over) {
      return;
    }
    this.#over = true;
    socket?.destroy();
    this.#events.failed(reason);
  }

  #writeNext(): void {
    const next = this.#queue[0];
    if (this.#socket === undefined || this.#writing || this.#over || next === undefined) {
      return;
    }
    this.#queue.shift();
    this.#writing = true;
    // Node would put waiting writes into one record.
    this.#socket.write(next, () => {
      this.#writing = false;
      this.#writeNext();
    });
  }
}

/** Node sets it to a code when the certificate does not verify, though its type says Error. */
function verifyCode(socket: tls.TLSSocket | undefined): string | undefined {
  const code: unknown = socket?.authorizationError;
  return typeof code === 'string' ? code : undefined;
}
