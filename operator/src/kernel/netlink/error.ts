import { errnoName } from '../libc.ts';
import { forEachAttribute, type Message, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_HDRLEN } from './message.ts';

// enum nlmsgerr_attrs
const NLMSGERR_ATTR_MSG = 1;
const NLMSGERR_ATTR_OFFS = 2;
const NLMSGERR_ATTR_MISS_TYPE = 5;

/** What the kernel says beside the number, when extended acknowledgements are on. */
export interface ExtendedAck {
  readonly text?: string;
  /** Offset of the offending attribute in the request, in bytes. */
  readonly offset?: number;
  /** Type of an attribute that is missing from the request. */
  readonly missing?: number;
}

/**
 * A request that the kernel refused.
 *
 * `code` is the errno name (`EADDRINUSE`), `kernelText` the extended acknowledgement: for the ovpn family
 * often the only place of the true reason (every socket failure is ENOTSOCK).
 */
export class NetlinkError extends Error {
  override readonly name = 'NetlinkError';
  readonly operation: string;
  readonly errno: number;
  readonly code: string;
  readonly kernelText: string | undefined;
  readonly offset: number | undefined;
  readonly missing: number | undefined;

  constructor(operation: string, errno: number, ack: ExtendedAck = {}) {
    const code = errnoName(errno);
    super(`${operation}: ${code}${ack.text === undefined ? '' : ` (kernel: ${ack.text})`}`);
    this.operation = operation;
    this.errno = errno;
    this.code = code;
    this.kernelText = ack.text;
    this.offset = ack.offset;
    this.missing = ack.missing;
  }
}

/** A dump that kept changing while it was read (NLM_F_DUMP_INTR on every try). */
export class DumpInterrupted extends Error {
  override readonly name = 'DumpInterrupted';
}

/** errno of an NLMSG_ERROR or NLMSG_DONE, 0 for success; {@link parseOutcome} tells more. */
export function parseErrno({ payload }: Message): number {
  // A DONE without payload ends a dump of an old kernel: success.
  return payload.length < 4 ? 0 : -payload.readInt32LE(0);
}

/** errno of an NLMSG_ERROR or NLMSG_DONE (0 for an acknowledgement) and what came with it. */
export function parseOutcome(message: Message): { readonly errno: number; readonly ack: ExtendedAck } {
  const { payload, flags, type } = message;
  const errno = parseErrno(message);
  if (payload.length < 4) return { errno, ack: {} };
  if ((flags & NLM_F_ACK_TLVS) === 0) return { errno, ack: {} };
  let tlvs = 4;
  if (type !== NLMSG_DONE) {
    // struct nlmsgerr holds the request's header, and all of the request unless capped.
    if (payload.length < 4 + NLMSG_HDRLEN) return { errno, ack: {} };
    tlvs += (flags & NLM_F_CAPPED) !== 0 ? NLMSG_HDRLEN : (payload.readUInt32LE(4) + 3) & ~3;
  }
  return { errno, ack: parseTlvs(payload.subarray(tlvs)) };
}

function parseTlvs(data: Buffer): ExtendedAck {
  const ack: { text?: string; offset?: number; missing?: number } = {};
  try {
    forEachAttribute(data, (type, value) => {
      if (type === NLMSGERR_ATTR_MSG) ack.text = value.toString('utf8').replace(/\0+$/, '');
      else if (type === NLMSGERR_ATTR_OFFS && value.length === 4) ack.offset = value.readUInt32LE();
      else if (type === NLMSGERR_ATTR_MISS_TYPE && value.length === 4) ack.missing = value.readUInt32LE();
    });
  } catch {
    // The errno is what counts; garbled decoration must not hide it.
  }
  return ack;
}
