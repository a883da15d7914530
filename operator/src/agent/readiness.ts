import type { ErrorName, OvpnError } from '../errors.ts';

/** Whether a program does its work, and what keeps it. */
export interface Readiness {
  readonly ok: boolean;
  readonly message: string;
}

/** What is wrong with the agent or its node, and not with what it was told to do. */
const ownFaults: ReadonlySet<ErrorName> = new Set<ErrorName>([
  'KernelWithoutOvpn',
  'NotPermitted',
  'LedgerUnusable',
  'StateUnusable',
  'AgentInternal',
]);

/** What the readiness of an agent is judged by. */
export interface ReadinessFacts {
  /** Whether all resources were read once; before, the kernel was seen to have the driver. */
  readonly started: boolean;
  /** Networks whose last pass ended by a defect. */
  readonly defects: ReadonlySet<string>;
  readonly networks: ReadonlyMap<string, { readonly problem: OvpnError | undefined }>;
}

/**
 * Whether the agent is ready. A network that nobody could bring about, because a Secret is missing or the kernel refuses
 * what was asked for, says so in its own status: restarting the agent or stopping a rollout would mend nothing.
 */
export function readinessOf({ started, defects, networks }: ReadinessFacts): Readiness {
  if (!started) return { ok: false, message: 'the resources have not been read yet' };
  const [defect] = defects;
  if (defect !== undefined)
    return { ok: false, message: `VpnNetwork ${defect}: the last round ended by a defect of the agent; see its log` };
  for (const { problem } of networks.values())
    if (problem !== undefined && ownFaults.has(problem.name)) return { ok: false, message: problem.message };
  return { ok: true, message: '' };
}
