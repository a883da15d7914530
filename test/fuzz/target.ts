import { OvpnError } from '../../operator/src/errors.ts';
import { ProtocolFault } from '../../operator/src/openvpn/negotiate/protocol-fault.ts';
import { PacketError } from '../../operator/src/openvpn/wire/packet-error.ts';

/** One thing to be fed with bytes. */
export interface Target {
  readonly name: string;
  /** What it takes for bytes, in a line for people. */
  readonly input: string;
  /** Longest input (default 5000 bytes: more than any control packet). */
  readonly maxBytes?: number;
  /** Words of the format that mutations put in. */
  readonly words?: readonly string[];
  /** How many times the usual time it gets (default 1): for what is slow and says much. */
  readonly share?: number;
  /** CPU time that one input may take (default 50 ms). */
  readonly maxMilliseconds?: number;
  /** Throws, or rejects, when the code under test does what its documentation does not allow. */
  run(input: Buffer): void | Promise<void>;
  /**
   * Feeds all inputs to one object and returns it. What it holds on to then has to stay below a bound that does not
   * depend on how many there were.
   */
  hold?(inputs: readonly Buffer[]): unknown;
  /** For `hold` (default 1 MiB). */
  readonly maxHeldBytes?: number;
  /** What a recorder writes as the target's first corpus: name and bytes. */
  seeds?(): Readonly<Record<string, Buffer>> | Promise<Readonly<Record<string, Buffer>>>;
}

export type DocumentedError = abstract new (...args: never[]) => Error;

/**
 * The result of a parser, or undefined when it threw one of the errors that it documents. Everything else is passed on
 * and so is a find.
 */
export function parsed<T>(parse: () => T, ...documented: readonly DocumentedError[]): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (documented.some((type) => error instanceof type)) {
      return undefined;
    }
    throw error;
  }
}

export const errors = { PacketError, ProtocolFault, OvpnError };

/** A target's own check. */
export function require(condition: boolean, what: string): asserts condition {
  if (!condition) {
    throw new Error(what);
  }
}
