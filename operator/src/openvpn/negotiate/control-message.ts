import { printable, ProtocolFault } from './protocol-fault.ts';

/**
 * The text messages that the two sides exchange over TLS after key method 2: each ends in a NUL. OpenVPN's
 * management interface documents most of them (management-notes.txt, "client-deny", "PUSH_REPLY", "AUTH_PENDING").
 */

export type AdvanceTo = 'addr' | 'remote' | 'no';

export type ControlMessage =
  | { readonly kind: 'push-request' }
  | { readonly kind: 'push-reply'; readonly options: string }
  | { readonly kind: 'auth-failed'; readonly failure: AuthFailure }
  | { readonly kind: 'auth-pending'; readonly timeoutSeconds: number | undefined }
  | {
      readonly kind: 'restart';
      readonly reason: string;
      /** `[N]`: try the next server. */
      readonly nextRemote: boolean;
    }
  | { readonly kind: 'halt'; readonly reason: string }
  | { readonly kind: 'exit' }
  | { readonly kind: 'info'; readonly text: string }
  | { readonly kind: 'other'; readonly name: string };

export interface AuthFailure {
  readonly reason: string;
  /** The credentials were good once: the session (auth-token) has ended. */
  readonly session: boolean;
  /** Not refused for good: come again. */
  readonly temporary: boolean;
  readonly backoffSeconds: number | undefined;
  readonly advance: AdvanceTo | undefined;
}

/** Longer than any message of OpenVPN, whose buffer for them has 2048 bytes. */
export const maxMessageBytes = 4096;

/** Reads one message, without its NUL. Total: what is unknown becomes `other`. */
export function parseControlMessage(text: string): ControlMessage {
  const comma = text.indexOf(',');
  const name = comma < 0 ? text : text.slice(0, comma);
  const rest = comma < 0 ? '' : text.slice(comma + 1);
  switch (name) {
    case 'PUSH_REQUEST':
      return { kind: 'push-request' };
    case 'PUSH_REPLY':
      return { kind: 'push-reply', options: rest };
    case 'AUTH_FAILED':
      return { kind: 'auth-failed', failure: parseAuthFailure(rest) };
    case 'AUTH_PENDING':
      return { kind: 'auth-pending', timeoutSeconds: pendingTimeout(rest) };
    case 'RESTART': {
      const [, flags = '', reason = ''] = /^(?:\[([^\]]*)\])?([\s\S]*)$/.exec(rest) ?? [];
      return { kind: 'restart', reason: printable(reason), nextRemote: flags.includes('N') };
    }
    case 'HALT':
      return { kind: 'halt', reason: printable(rest) };
    case 'EXIT':
      return { kind: 'exit' };
    case 'INFO':
    case 'INFO_PRE':
      return { kind: 'info', text: printable(rest) };
    default:
      return { kind: 'other', name: printable(name, 64) };
  }
}

export const pushRequest = 'PUSH_REQUEST';
export const exitMessage = 'EXIT';

/** The refusal of a client, with the reason for its log. */
export function formatAuthFailed(failure: { reason?: string; temporary?: boolean; backoffSeconds?: number }): string {
  const { reason = '', temporary = false, backoffSeconds } = failure;
  const text = printable(reason);
  if (!temporary) {
    // Reasons that begin with a keyword would be taken for it.
    return text === '' ? 'AUTH_FAILED' : `AUTH_FAILED,${text.replace(/^(TEMP|SESSION|CRV1)/, '-$1')}`;
  }
  return `AUTH_FAILED,TEMP${backoffSeconds === undefined ? '' : `[backoff ${backoffSeconds}]`}:${text}`;
}

export function formatRestart(reason = '', options: { nextRemote?: boolean } = {}): string {
  const flags = options.nextRemote === true ? '[N]' : '';
  return flags === '' && reason === '' ? 'RESTART' : `RESTART,${flags}${printable(reason)}`;
}

export function formatHalt(reason = ''): string {
  return reason === '' ? 'HALT' : `HALT,${printable(reason)}`;
}

function parseAuthFailure(rest: string): AuthFailure {
  const [, keyword, flags = '', reason] = /^(TEMP|SESSION)(?:\[([^\]]*)\])?(?::([\s\S]*))?$/.exec(rest) ?? [];
  const words = new Map(flags.split(',').map((flag) => flag.trim().split(/\s+/, 2) as [string, string | undefined]));
  const advance = words.get('advance');
  return {
    reason: printable(keyword === undefined ? rest : (reason ?? '')),
    session: keyword === 'SESSION',
    temporary: keyword === 'TEMP',
    backoffSeconds: seconds(words.get('backoff')),
    advance: advance === 'addr' || advance === 'remote' || advance === 'no' ? advance : undefined,
  };
}

function pendingTimeout(rest: string): number | undefined {
  return seconds(/(?:^|,)timeout (\d+)/.exec(rest)?.[1]);
}

function seconds(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,6}$/.test(text) ? Number(text) : undefined;
}

export function encodeMessage(text: string): Buffer {
  return Buffer.from(`${text.replaceAll('\0', '')}\0`);
}

/** Cuts the TLS stream into messages; holds at most one unfinished message. */
export class MessageFramer {
  #partial = Buffer.alloc(0);

  /** @throws ProtocolFault when a message grows past the limit */
  push(bytes: Buffer): string[] {
    const all = Buffer.concat([this.#partial, bytes]);
    const messages: string[] = [];
    let start = 0;
    for (let end = all.indexOf(0, start); end >= 0; end = all.indexOf(0, start)) {
      assertLength(end - start);
      if (end > start) {
        messages.push(all.toString('utf8', start, end));
      }
      start = end + 1;
    }
    assertLength(all.length - start);
    this.#partial = Buffer.from(all.subarray(start));
    return messages;
  }
}

function assertLength(length: number): void {
  if (length > maxMessageBytes) {
    throw new ProtocolFault(`sent a control message longer than ${maxMessageBytes} bytes`);
  }
}
