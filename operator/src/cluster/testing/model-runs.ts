import fc, { type Parameters } from 'fast-check';

/** How long a test of a model looks: so many runs, or for `OVPN_MODEL_SECONDS` if that is set (docs/fuzzing.md). */
export function modelRuns(runs: number): Parameters<unknown> {
  const seconds = Number(process.env['OVPN_MODEL_SECONDS'] ?? 0);
  return seconds > 0
    ? { numRuns: Number.MAX_SAFE_INTEGER, plugins: [fc.interruptAfterTimeLimit(seconds * 1000)] }
    : { numRuns: runs };
}

/** For jest: that time, and some for what is under way then. Milliseconds. */
export function modelTimeout(milliseconds: number): number {
  return milliseconds + Number(process.env['OVPN_MODEL_SECONDS'] ?? 0) * 1000;
}
