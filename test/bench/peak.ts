import { readFileSync } from 'node:fs';

/** The most memory this process had, in KiB. Not getrusage(2): that counts what the parent had before exec. */
export function peakKiB(): number {
  return Number(/^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? Number.NaN);
}
