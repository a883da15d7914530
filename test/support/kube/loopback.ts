import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { codeOf } from '../../lab/errors.ts';

/** A loopback address that nobody else uses who asks here: on it, services have their usual ports. */
export interface LoopbackAddress {
  readonly address: string;
  release(): void;
}

/** Holds the claim: the lowest port, which nothing listens on. */
const claimPort = 1;

/**
 * Claims an address of 127.0.0.0/8. The kernel holds the claim as long as this process lives, so tests that run
 * side by side, also those of other checkouts, never meet; and no port has to be guessed to be free.
 */
export async function claimLoopback(): Promise<LoopbackAddress> {
  for (;;) {
    const address = `127.${randomInt(16, 255)}.${randomInt(0, 256)}.${randomInt(1, 255)}`;
    const server = createServer().unref();
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject).listen(claimPort, address, resolve);
      });
      return { address, release: () => void server.close() };
    } catch (error) {
      if (codeOf(error) !== 'EADDRINUSE') throw error;
    }
  }
}
