/**
 * Errors as the CNI specification wants them (section 5, "Error"): a number, a short and a long text. The
 * texts come from the project's one table of errors, so that a person finds the same OVPN code everywhere.
 */
import { OvpnError, describe } from '@ovpn-operator/operator/errors';
import type { AgentFailure } from '@ovpn-operator/operator/attach-protocol';
import type { CniVersion } from './versions.ts';

/** The well-known codes, 0-99. Code 3 is missing on purpose: it tells the runtime to clean up nothing. */
export const cniCode = {
  incompatibleVersion: 1,
  unsupportedField: 2,
  invalidEnvironment: 4,
  ioFailure: 5,
  decodingFailure: 6,
  invalidConfig: 7,
  tryAgainLater: 11,
  /** Section 5, "Error": ADD cannot be served; or it cannot, and what stands has no or little connectivity. */
  notAvailable: 50,
  limitedConnectivity: 51,
  /** OVPN508: an IPAM plugin that ends without saying a code of its own. */
  ipamFailed: 508,
  /** Not in the specification, but what containernetworking/cni's own skeleton uses for a defect. */
  internal: 999,
} as const;

export interface CniErrorObject {
  readonly cniVersion: string;
  readonly code: number;
  readonly msg: string;
  readonly details: string;
}

/** A failure with its CNI code decided. */
export class CniFailure extends Error {
  override readonly name = 'CniFailure';
  readonly cniCode: number;

  constructor(code: number, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.cniCode = code;
  }
}

/** A failure of the configuration with another well-known code than 7. */
export function configFailure(code: number, problem: string, field?: string): CniFailure {
  return new CniFailure(code, new OvpnError('CniConfigInvalid', problem, field === undefined ? {} : { field }).message);
}

/** What the agent answered, as an error: the text is the agent's, the code follows from name and retry. */
export function agentFailure(failure: AgentFailure): CniFailure {
  return new CniFailure(failure.retry ? cniCode.tryAgainLater : codeOf(failure.name, failure.code), failure.message);
}

/** Anything thrown as a CNI failure; what is not one of ours is a defect and says so without a stack trace. */
export function toCniFailure(error: unknown): CniFailure {
  if (error instanceof CniFailure) {
    return error;
  }
  if (error instanceof OvpnError) {
    return new CniFailure(codeOf(error.name, error.code), error.message, { cause: error });
  }
  const text = describe(error).slice(0, 500);
  return new CniFailure(cniCode.internal, `a defect of ovpn-cni: ${text}; to mend it: please report it`, {
    cause: error,
  });
}

/** The object for stdout. */
export function toErrorObject(failure: CniFailure, cniVersion: CniVersion): CniErrorObject {
  // A runtime prints "msg; details", so the text is cut in two rather than repeated.
  const cut = failure.message.indexOf('; to mend it: ');
  return cut === -1
    ? { cniVersion, code: failure.cniCode, msg: failure.message, details: '' }
    : {
        cniVersion,
        code: failure.cniCode,
        msg: failure.message.slice(0, cut),
        details: failure.message.slice(cut + 2),
      };
}

/** Codes from 100 on are the plugin's own: the number of the OVPN code, so that both are one table. */
function codeOf(name: string, code: string): number {
  switch (name) {
    case 'CniConfigInvalid':
      return cniCode.invalidConfig;
    case 'CniEnvironmentInvalid':
      return cniCode.invalidEnvironment;
    case 'AgentUnreachable':
      return cniCode.tryAgainLater;
    default: {
      const digits = /^OVPN([1-9]\d{2})$/.exec(code)?.[1];
      return digits === undefined ? cniCode.internal : Number(digits);
    }
  }
}
