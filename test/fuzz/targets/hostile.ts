import type { TLSSocket } from 'node:tls';
import type { ControlPacket } from '../../../operator/src/openvpn/wire/packet.ts';
import { clearHeaderBytes, parseHeader } from '../../../operator/src/openvpn/wire/packet.ts';
import type { TlsEndpoint, TlsFactory } from '../../../operator/src/openvpn/tls/tls-endpoint.ts';
import type { Envelope } from '../../../operator/src/openvpn/wrap/envelope.ts';
import { noEnvelope } from '../../../operator/src/openvpn/wrap/none.ts';
import {
  SessionWrapper,
  type WrapConfig,
  type WrapperOptions,
} from '../../../operator/src/openvpn/wrap/session-wrapper.ts';
import { tlsAuthEnvelope } from '../../../operator/src/openvpn/wrap/tls-auth.ts';
import { tlsCryptEnvelope, type TlsRole } from '../../../operator/src/openvpn/wrap/tls-crypt.ts';
import type { InputReader } from './reader.ts';

/**
 * A peer that is real, has the keys and a certificate, and departs from the protocol where its script says so: on the
 * wire, inside the wrapping, and inside TLS. A decision below `hostileFrom` is to do the right thing, so that scripts
 * get far into a handshake.
 */

const hostileFrom = 0xc0;

/** Whether the script wants a departure here, and which. */
function departure(script: InputReader): number | undefined {
  const decision = script.byte();
  return decision < hostileFrom ? undefined : decision & 0x0f;
}

function flipped(bytes: Buffer, script: InputReader): Buffer {
  const copy = Buffer.from(bytes);
  const at = script.below(copy.length);
  if (copy.length > 0) {
    copy[at] = (copy[at] ?? 0) ^ (script.byte() | 1);
  }
  return copy;
}

/** What goes over the wire instead of one packet. */
export class HostileWire {
  readonly #script: InputReader;
  readonly #sent: Buffer[] = [];
  #held: Buffer | undefined;

  constructor(script: InputReader) {
    this.#script = script;
  }

  send(packet: Buffer): Buffer[] {
    const script = this.#script;
    const held = this.#held === undefined ? [] : [this.#held];
    this.#held = undefined;
    this.#sent.push(packet);
    switch (departure(script)) {
      case 0:
        return held;
      case 1:
        return [packet, packet, ...held];
      case 2:
        this.#held = packet;
        return held;
      case 3:
      case 4:
        return [flipped(packet, script), ...held];
      case 5:
        return [packet.subarray(0, script.below(packet.length + 1)), ...held];
      case 6:
        return [Buffer.concat([packet, script.bytes(script.byte())]), ...held];
      case 7:
        return [this.#sent[script.below(this.#sent.length)] ?? packet, packet, ...held];
      case 8:
        return [script.piece(), packet, ...held];
      case 9:
        return [...Array.from({ length: script.byte() }, () => packet), ...held];
      default:
        return [packet, ...held];
    }
  }
}

interface Sealing {
  /** Of our packets, in the peer's hands. */
  readonly theirs: Envelope;
  readonly ours: Envelope;
}

/** Wraps properly what is no proper packet. */
export class HostileWrapper extends SessionWrapper {
  readonly #script: InputReader;
  readonly #role: TlsRole;
  readonly #static: Sealing | undefined;
  /** Missing at a tls-crypt-v2 server, who does not know it from the start. */
  readonly #base: Uint8Array | undefined;
  readonly #tail: Buffer;
  #dynamic: Sealing | undefined;
  #dynamicInUse = false;

  constructor(config: WrapConfig, options: WrapperOptions, script: InputReader) {
    super(config, options);
    this.#script = script;
    this.#role = options.role;
    this.#static = sealing(config, options.role);
    this.#base = 'key' in config ? config.key : config.kind === 'none' ? new Uint8Array(256) : undefined;
    this.#tail = config.kind === 'tls-crypt-v2-client' ? config.wrapped : Buffer.alloc(0);
  }

  override useDynamicKey(exported: Uint8Array): void {
    super.useDynamicKey(exported);
    this.#dynamicInUse = true;
    const base = this.#base;
    this.#dynamic =
      base === undefined
        ? undefined
        : cryptSealing(
            exported.map((byte, i) => byte ^ (base[i] ?? 0)),
            this.#role,
          );
  }

  override wrap(packet: ControlPacket): Buffer {
    const wrapped = super.wrap(packet);
    const what = departure(this.#script);
    const seal = this.#dynamicInUse && packet.keyId > 0 ? this.#dynamic : this.#static;
    if (what === undefined || seal === undefined) {
      return wrapped;
    }
    const { opcode } = parseHeader(wrapped);
    const tail = opcode === 'hard-reset-client-v3' || opcode === 'control-wkc-v1' ? this.#tail : Buffer.alloc(0);
    const sealed = wrapped.subarray(0, wrapped.length - tail.length);
    const { id = { id: 0, time: 0 }, body } = seal.theirs.open(sealed);
    const header = Buffer.from(sealed.subarray(0, clearHeaderBytes));
    const changed = this.#change(what, header, Buffer.from(body));
    return Buffer.concat([seal.ours.seal(header, id, changed), tail]);
  }

  /** May write into the header. */
  #change(what: number, header: Buffer, body: Buffer): Buffer {
    const script = this.#script;
    switch (what) {
      case 0:
      case 1:
        return flipped(body, script);
      case 2:
        return body.subarray(0, script.below(body.length + 1));
      case 3:
        body[0] = script.byte();
        return body;
      case 4:
        header[0] = script.byte();
        return body;
      case 5:
        // Another key id.
        header[0] = ((header[0] ?? 0) & 0xf8) | script.below(8);
        return body;
      case 6: {
        // The payload replaced, so that TLS reads it.
        const acks = body[0] ?? 0;
        const start = 1 + acks * 4 + (acks > 0 ? 8 : 0) + 4;
        return Buffer.concat([body.subarray(0, start), script.piece()]);
      }
      case 7: {
        const acks = body[0] ?? 0;
        const at = 1 + acks * 4 + (acks > 0 ? 8 : 0);
        if (body.length >= at + 4) {
          body.writeUInt32BE(script.below(4) === 0 ? script.uint32() : script.below(32), at);
        }
        return body;
      }
      case 8:
        return Buffer.concat([body, Buffer.alloc(script.uint16() % 3000, script.byte())]);
      case 9:
        header[1 + script.below(8)] = script.byte();
        return body;
      default:
        return flipped(flipped(body, script), script);
    }
  }
}

function sealing(config: WrapConfig, role: TlsRole): Sealing | undefined {
  switch (config.kind) {
    case 'none':
      return { ours: noEnvelope, theirs: noEnvelope };
    case 'tls-auth': {
      const { key, digest, direction } = config;
      const other = direction === 'bidirectional' ? direction : direction === 0 ? 1 : 0;
      return { ours: tlsAuthEnvelope(key, digest, direction), theirs: tlsAuthEnvelope(key, digest, other) };
    }
    case 'tls-crypt':
    case 'tls-crypt-v2-client':
      return cryptSealing(config.key, role);
    case 'tls-crypt-v2-server':
      // The server does not know the key until the client has sent it.
      return undefined;
  }
}

function cryptSealing(key: Uint8Array, role: TlsRole): Sealing {
  const other = role === 'client' ? 'server' : 'client';
  return { ours: tlsCryptEnvelope(key, role), theirs: tlsCryptEnvelope(key, other) };
}

/** A TLS end that says other things than it is told to. */
export class HostileTls implements TlsFactory {
  readonly #real: TlsFactory;
  readonly #script: InputReader;
  #latest: { readonly endpoint: TlsEndpoint; readonly write: (plaintext: Buffer) => void } | undefined;
  #socket: TLSSocket | undefined;

  constructor(real: TlsFactory, script: InputReader) {
    this.#real = real;
    this.#script = script;
  }

  open(events: Parameters<TlsFactory['open']>[0]): TlsEndpoint {
    const endpoint = this.#real.open(events);
    const write = endpoint.write.bind(endpoint);
    const attach = endpoint.attach.bind(endpoint);
    endpoint.attach = (socket) => {
      this.#socket = socket;
      attach(socket);
    };
    endpoint.write = (plaintext) => this.#said(plaintext).forEach(write);
    this.#latest = { endpoint, write };
    return endpoint;
  }

  /** Says something of its own accord. */
  say(plaintext: Buffer): void {
    this.#latest?.write(plaintext);
  }

  /** close_notify */
  end(): void {
    this.#socket?.end();
  }

  #said(plaintext: Buffer): Buffer[] {
    const script = this.#script;
    switch (departure(script)) {
      case undefined:
        return [plaintext];
      case 0:
      case 1:
        return [flipped(plaintext, script)];
      case 2:
        return [plaintext.subarray(0, script.below(plaintext.length + 1))];
      case 3: {
        const at = script.below(plaintext.length + 1);
        return [plaintext.subarray(0, at), plaintext.subarray(at)].filter(({ length }) => length > 0);
      }
      case 4:
        setImmediate(() => this.end());
        return [plaintext];
      case 5:
        return [Buffer.concat([plaintext, script.piece()])];
      case 6:
        return [plaintext, plaintext];
      case 7:
        return [];
      case 8: {
        const bytes = script.piece();
        return bytes.length === 0 ? [plaintext] : Array.from({ length: script.byte() }, () => bytes);
      }
      case 9:
        return [script.piece(), plaintext].filter(({ length }) => length > 0);
      case 10:
        return [...plaintext].map((byte) => Buffer.of(byte));
      case 11:
        this.end();
        return [];
      default: {
        // At a place of the message's own, something else.
        const at = script.below(plaintext.length + 1);
        return [Buffer.concat([plaintext.subarray(0, at), script.piece(), plaintext.subarray(at)])];
      }
    }
  }
}
