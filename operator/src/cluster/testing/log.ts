import { createLog } from '../../telemetry/log.ts';
import type { Log } from '../../telemetry/log.ts';

/** A log whose lines a test can look at. */
export function recordingLog(): { log: Log; lines: Record<string, unknown>[]; events: () => unknown[] } {
  const lines: Record<string, unknown>[] = [];
  const write = (line: string): void => void lines.push(JSON.parse(line) as Record<string, unknown>);
  return { log: createLog({ level: 'debug', to: { write } }), lines, events: () => lines.map((line) => line['event']) };
}
