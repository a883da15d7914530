import { spawnSync } from 'node:child_process';
import { closeSync } from 'node:fs';
import { inNamespace } from '../../operator/src/kernel/netns.ts';
import { openUdpSocket } from '../../operator/src/kernel/transport-socket.ts';
import { Namespace } from '../kernel/support.ts';

/** What programs/netlink.ts and reference/ovpn-netlink.c print. Times in nanoseconds. */
export interface ProgramResult {
  readonly peerNew: number;
  readonly keyNew: number;
  readonly dump: readonly number[];
  readonly keyGet: readonly number[];
  readonly peers: number;
  readonly keys: number;
  readonly peakKiB: number;
}

/** A program to measure: ours or its peer. */
export interface Program {
  readonly command: string;
  readonly script?: readonly string[];
  /** Arguments after the common ones. */
  readonly after?: readonly string[];
}

/**
 * A namespace with an empty multi-peer device in it, and a UDP socket in the host's namespace that keeps the
 * peers: as the agent has it. The socket stays here, so that a program's end does not release its peers.
 */
export class Bed {
  readonly namespace = new Namespace();
  readonly device = this.namespace.device('mp', ['10.80.255.254/16']);
  readonly #socket = openUdpSocket({ address: '0.0.0.0', port: 0 });

  run(program: Program, mode: 'load' | 'read', count: number, last: number): Finished {
    return runProgram(this.namespace.path, program, [mode, this.device, count, last], this.#socket);
  }

  close(): void {
    closeSync(this.#socket);
    this.namespace.deleteDevice(this.device);
    this.namespace.close();
  }
}

export type Finished = ProgramResult & {
  /** From before the program's start until it is gone. */
  readonly wallMs: number;
};

/** Runs a program to its end in a namespace, with a socket as its descriptor 3 if one is given. */
export function runProgram(
  namespace: string,
  program: Program,
  words: readonly (string | number)[],
  socket?: number,
): Finished {
  const { command, script = [], after = [] } = program;
  const args = [...script, ...words.map(String), ...after];
  const start = performance.now();
  // The child is made by this thread and so starts in the namespace that it is in.
  const { status, stdout, error } = inNamespace(namespace, () =>
    spawnSync(command, args, { stdio: ['ignore', 'pipe', 'inherit', socket ?? 'ignore'], encoding: 'utf8' }),
  );
  const wallMs = performance.now() - start;
  if (status !== 0)
    throw new Error(`${command} ${args.join(' ')} failed: ${error?.message ?? `exit code ${String(status)}`}`);
  return { ...(JSON.parse(stdout) as ProgramResult), wallMs };
}
