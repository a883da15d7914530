import { readFileSync } from 'node:fs';
import { cpuMs } from '../process-usage.ts';

/** What processes have used, by the word of the kernel they run on. */
export interface Usage {
  /** User and system time of all threads. The kernel tells it in steps of 10 ms. */
  readonly cpuMs: number;
  /** Proportional set size: memory of its own, and a share of what others map as well. */
  readonly pssKiB: number;
}

export function usageOf(pids: readonly number[]): Usage {
  return {
    cpuMs: sum(pids.map(cpuMs)),
    pssKiB: sum(pids.map(pssKiB)),
  };
}

function pssKiB(pid: number): number {
  return Number(/^Pss:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))?.[1] ?? Number.NaN);
}

/**
 * Datagrams that programs have read in the network namespace of a process (Udp: InDatagrams). What found no room
 * in a socket's buffer is not among them.
 */
export function datagramsRead(pid: number): number {
  const lines = readFileSync(`/proc/${pid}/net/snmp`, 'latin1')
    .split('\n')
    .filter((line) => line.startsWith('Udp: '));
  const [names = [], values = []] = lines.map((line) => line.split(' '));
  const udp6 = /^Udp6InDatagrams\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/net/snmp6`, 'latin1'))?.[1] ?? '0';
  return Number(values[names.indexOf('InDatagrams')]) + Number(udp6);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
