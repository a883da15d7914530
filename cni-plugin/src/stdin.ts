/** The network configuration on stdin, within bounds. */
import { OvpnError } from '@ovpn-operator/operator/errors';
import { CniFailure, cniCode } from './cni-error.ts';
import { codeOf, type Host } from './host.ts';

/** Configurations are a few kilobytes; a long chain's prevResult and a GC's list of attachments are more. */
const maxBytes = 4 * 1024 * 1024;
const maxMs = 10_000;

/** All of stdin; throws CNI code 5 on failure, excess or a stream without an end, code 6 when it is no text. */
export function readConfigText(host: Host): string {
  try {
    return host.readStdin(maxBytes, maxMs);
  } catch (error) {
    const code = codeOf(error);
    const cni = code === 'EILSEQ' ? cniCode.decodingFailure : cniCode.ioFailure;
    throw new CniFailure(cni, new OvpnError('CniConfigInvalid', problemOf(code)).message, { cause: error });
  }
}

function problemOf(code: string): string {
  switch (code) {
    case 'EILSEQ':
      return 'the network configuration on stdin is not UTF-8';
    case 'EMSGSIZE':
      return `stdin holds more than ${maxBytes} bytes`;
    case 'ETIMEDOUT':
      return `stdin did not end within ${maxMs} ms`;
    default:
      return `stdin cannot be read: ${code}`;
  }
}

/**
 * VERSION works for a person at a terminal and for a caller that leaves stdin open: neither has an end of input to
 * wait for, and the input matters little.
 */
export function readVersionText(host: Host): string {
  if (host.isTerminal) return '';
  try {
    return host.readStdin(maxBytes, 500);
  } catch {
    return '';
  }
}
