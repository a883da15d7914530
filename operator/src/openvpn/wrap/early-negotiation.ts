import { PacketError } from '../wire/packet.ts';

/**
 * Early negotiation of tls-crypt-v2: the payload of the server's hard reset says, as type (16 bits), length (16 bits)
 * and value, what the client shall do before TLS begins.
 */

const flagsType = 1;
const resendClientKey = 1;

export interface EarlyNegotiation {
  /** The server kept nothing: the client's next packet must be a CONTROL_WKC_V1. */
  readonly resendClientKey: boolean;
}

/** The payload by which a server that keeps no state asks for the client key once more. */
export const resendClientKeyPayload: Buffer = Buffer.from([0, flagsType, 0, 2, 0, resendClientKey]);

/**
 * Reads the payload of a server's hard reset. Types that are not known are passed over, as is an empty payload.
 *
 * @throws PacketError
 */
export function parseEarlyNegotiation(payload: Buffer): EarlyNegotiation {
  let resend = false;
  let offset = 0;
  while (offset < payload.length) {
    if (payload.length - offset < 4) {
      throw new PacketError('truncated', 'has half a field of early negotiation');
    }
    const type = payload.readUInt16BE(offset);
    const length = payload.readUInt16BE(offset + 2);
    offset += 4;
    if (payload.length - offset < length) {
      throw new PacketError('truncated', 'has half a value of early negotiation');
    }
    if (type === flagsType) {
      if (length !== 2) {
        throw new PacketError('malformed', 'has flags of early negotiation of a wrong length');
      }
      resend ||= (payload.readUInt16BE(offset) & resendClientKey) !== 0;
    }
    offset += length;
  }
  return { resendClientKey: resend };
}
