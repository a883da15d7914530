import { readFileSync } from 'node:fs';

/** What processes have used, by the word of the kernel they run on. */

/** User and system time of a process, all threads, in milliseconds. */
export function cpuMs(pid: number): number {
  return cpuFrom(String(pid), 11);
}

/** The same of all children of this process that have ended. */
export function childrenCpuMs(): number {
  return cpuFrom('self', 13);
}

/** Memory that is in use and in RAM, what is shared counted whole, in MiB. */
export function rssMiB(pid: number): number {
  return Number(/^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN) / 1024;
}

/**
 * proc_pid_stat(5): user time and, after it, system time. Clock ticks are 10 ms on all that Node.js runs on.
 * @param from the field of user time, counted from 0 behind the program's name, which may hold blanks
 */
function cpuFrom(process: string, from: number): number {
  const text = readFileSync(`/proc/${process}/stat`, 'latin1');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[from]) + Number(fields[from + 1])) * 10;
}
