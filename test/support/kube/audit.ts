import { readFileSync } from 'node:fs';

/** What the API server notes of one request (audit.k8s.io/v1 Event, the parts that tests read). */
export interface AuditEvent {
  readonly auditID: string;
  readonly stage: 'ResponseStarted' | 'ResponseComplete' | 'Panic';
  readonly requestURI: string;
  readonly verb: string;
  readonly user: { readonly username: string; readonly groups?: readonly string[] };
  readonly userAgent?: string;
  readonly objectRef?: {
    readonly apiGroup?: string;
    readonly resource: string;
    readonly subresource?: string;
    readonly namespace?: string;
    readonly name?: string;
  };
  readonly responseStatus?: { readonly code: number; readonly message?: string };
  readonly requestReceivedTimestamp: string;
  readonly stageTimestamp: string;
}

/** Every request once it is answered, and watches also when they begin. */
export const auditPolicy = {
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  omitStages: ['RequestReceived'],
  rules: [{ level: 'Metadata' }],
};

/** The events of an audit log, from a position on. A line that is being written is left for the next time. */
export function readAuditLog(path: string, from = 0): { readonly events: AuditEvent[]; readonly end: number } {
  const bytes = readFileSync(path).subarray(from);
  const whole = bytes.subarray(0, bytes.lastIndexOf(0x0a) + 1);
  const lines = whole.toString('utf8').split('\n').filter(Boolean);
  return { events: lines.map((line) => JSON.parse(line) as AuditEvent), end: from + whole.length };
}
