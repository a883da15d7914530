import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isSuiteName, type Row, type SuiteName } from './suite.ts';

/** The ratios of past runs, kept in the repository. Never absolute figures: those are of one machine. */

/** One run of one suite. */
export interface Past {
  /** A day, as 2026-11-27. */
  readonly date: string;
  /** `uname -r`, and what it ran as. */
  readonly kernel: string;
  /** ours / peer, by the row's name and whom it is beside. */
  readonly ratios: Readonly<Record<string, number>>;
}

export type History = Readonly<Partial<Record<SuiteName, readonly Past[]>>>;

export const historyFile = join(import.meta.dirname, 'history.json');
/** Runs of a suite that are kept: what is older, git has. */
const kept = 8;

/** What a row is called in the history. */
export function rowKey({ name, peerName }: Pick<Row, 'name' | 'peerName'>): string {
  return `${name} | ${peerName}`;
}

/** The history with one more run, of the suites that are among the rows. */
export function recorded(history: History, rows: readonly Row[], about: Omit<Past, 'ratios'>): History {
  const bySuite = new Map<SuiteName, Record<string, number>>();
  for (const row of rows) {
    const ratios = bySuite.get(row.suite) ?? {};
    ratios[rowKey(row)] = row.ratio;
    bySuite.set(row.suite, ratios);
  }
  const next: Partial<Record<SuiteName, readonly Past[]>> = { ...history };
  for (const [suite, ratios] of bySuite) next[suite] = [...(history[suite] ?? []), { ...about, ratios }].slice(-kept);
  return next;
}

/** Reads the history; there is none before the first run. @throws Error when the file is something else */
export async function readHistory(file = historyFile): Promise<History> {
  if (!existsSync(file)) return {};
  const text = await readFile(file, 'utf8');
  const value: unknown = JSON.parse(text);
  if (!isHistory(value)) throw new Error(`${file} is no history of benchmarks`);
  return value;
}

export async function writeHistory(history: History, file = historyFile): Promise<void> {
  await writeFile(file, `${JSON.stringify(history, undefined, 2)}\n`);
}

function isHistory(value: unknown): value is History {
  return isRecord(value) && Object.entries(value).every(([name, runs]) => isSuiteName(name) && isRuns(runs));
}

function isRuns(value: unknown): boolean {
  return Array.isArray(value) && value.every(isPast);
}

function isPast(value: unknown): value is Past {
  if (!isRecord(value) || typeof value['date'] !== 'string' || typeof value['kernel'] !== 'string') return false;
  const { ratios } = value;
  return isRecord(ratios) && Object.values(ratios).every((ratio) => typeof ratio === 'number' && ratio > 0);
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
