/** Reading of stdin to its end, within bounds. */
import { OvpnError } from '@ovpn-operator/operator/errors';
import { CniFailure, cniCode } from './cni-error.ts';

export interface StdinBounds {
  readonly bytes: number;
  readonly ms: number;
}

/** Configurations are a few kilobytes; a long chain's prevResult and a GC's list of attachments are more. */
export const configBounds: StdinBounds = { bytes: 4 * 1024 * 1024, ms: 10_000 };

/** Everything up to the end of the stream; rejects with CNI code 5 on failure, excess or a stream without an end. */
export async function readAll(stream: AsyncIterable<Uint8Array>, bounds: StdinBounds): Promise<Uint8Array> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(ioFailure(`stdin did not end within ${bounds.ms} ms`)), bounds.ms);
  });
  try {
    return await Promise.race([collect(stream, bounds.bytes), timeout]);
  } finally {
    clearTimeout(timer);
  }
}

async function collect(stream: AsyncIterable<Uint8Array>, limit: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of stream) {
      size += chunk.length;
      if (size > limit) {
        break;
      }
      chunks.push(chunk);
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException | undefined)?.code ?? 'unknown error';
    throw ioFailure(`stdin cannot be read: ${code}`, error);
  }
  if (size > limit) {
    throw ioFailure(`stdin holds more than ${limit} bytes`);
  }
  return Buffer.concat(chunks);
}

function ioFailure(problem: string, cause?: unknown): CniFailure {
  return new CniFailure(cniCode.ioFailure, new OvpnError('CniEnvironmentInvalid', problem).message, { cause });
}
