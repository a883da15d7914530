import { asRecord } from '../../cluster/json.ts';

/** One line of a pod's log, as the kubelet hands it out with its time in front. */
export interface LogLine {
  /** Who wrote it: the Node of an agent, the pod of a controller. */
  readonly source: string;
  /** When the runtime took it, RFC 3339 in UTC with nanoseconds; empty for what has no time. */
  readonly time: string;
  /** What was written. */
  readonly text: string;
  /** The fields of a line of ours; undefined for any other. */
  readonly fields: Readonly<Record<string, unknown>> | undefined;
}

/** Takes a line of `GET …/log?timestamps=true` apart. Never throws. */
export function parseLogLine(source: string, line: string): LogLine {
  const [, time = '', text = ''] = /^(\d{4}-\d\d-\d\dT[\d:.]+Z) ?(.*)$/s.exec(line) ?? ['', '', line];
  return { source, time, text, fields: fieldsOf(text) };
}

function fieldsOf(text: string): LogLine['fields'] {
  if (!text.startsWith('{')) return undefined;
  try {
    return asRecord(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** What lines are looked for; each that is given has to fit. */
export interface LogFilter {
  /** A peer or a key of it, as `NAMESPACE/NAME`. */
  readonly objects?: readonly string[];
  readonly network?: string;
}

/** The fields that say which object a line is about. */
const objectFields = ['peer', 'object', 'key', 'source'] as const;

/** Whether a line is about what is looked for. A line that is none of ours is about nothing. */
export function fits({ fields }: LogLine, { objects, network }: LogFilter): boolean {
  if (objects !== undefined) {
    // `peer` and `object` name the kind, too: VpnPeer team-a/alice.
    const named = objectFields.map((field) => fields?.[field]).map((value) => String(value).replace(/^Vpn\w+ /, ''));
    if (!named.some((name) => objects.includes(name))) return false;
  }
  return network === undefined || fields?.['network'] === network || fields?.['object'] === `VpnNetwork ${network}`;
}

/** What stands at the beginning of a line, or would only fill it. */
const shown = new Set(['time', 'level', 'node', 'event', 'message', 'pid', 'hostname', 'path']);

/** The line for a person: `TIME LEVEL SOURCE EVENT message field=value…`. */
export function formatLogLine({ source, time, text, fields }: LogLine): string {
  // Milliseconds do; the runtime has nine digits.
  const when = time.replace(
    /^(.*T[\d:]+)(\.\d{1,3})?\d*Z$/,
    (_, second: string, part = '.') => `${second}${String(part).padEnd(4, '0')}Z`,
  );
  if (fields === undefined) return [when, '-', source, text].filter((part) => part !== '').join(' ');
  const level = word(fields['level'] ?? '-').toUpperCase();
  const rest = Object.entries(fields)
    .filter(([name, value]) => !shown.has(name) && value !== undefined && value !== null)
    .map(([name, value]) => `${name}=${quoted(value)}`);
  const message = fields['message'];
  return [
    when,
    level.padEnd(5),
    source,
    word(fields['event'] ?? '-'),
    ...(message === undefined ? [] : [word(message)]),
    ...rest,
  ]
    .filter((part) => part !== '')
    .join(' ');
}

function word(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function quoted(value: unknown): string {
  return typeof value === 'string' && /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
}
