/** What all suites share: their names, the rows that they give, and the figures in them. */

/** Those that need an ovpn kernel, and so run in the lab. */
export const labSuiteNames = [
  'netlink',
  'reconcile',
  'cni',
  'control-channel',
  'datapath',
  'footprint',
  'apply',
] as const;
export type LabSuiteName = (typeof labSuiteNames)[number];
/** The others run on the machine itself: in the lab, an API server would take ten times as long for everything. */
export const hostSuiteNames = ['kube', 'mesh'] as const;
export type HostSuiteName = (typeof hostSuiteNames)[number];
export const suiteNames = [...labSuiteNames, ...hostSuiteNames] as const;
export type SuiteName = (typeof suiteNames)[number];

export function isLabSuiteName(name: SuiteName): name is LabSuiteName {
  return labSuiteNames.some((one) => one === name);
}

export function isHostSuiteName(name: SuiteName): name is HostSuiteName {
  return !isLabSuiteName(name);
}

export function isSuiteName(text: string): text is SuiteName {
  return suiteNames.some((name) => name === text);
}

/** One comparison. Figures are times or costs, never rates: a ratio below 1 is better for us. */
export interface Row {
  readonly suite: SuiteName;
  readonly name: string;
  readonly unit: string;
  readonly ours: number;
  readonly peer: number;
  /** What ours is compared with, so that nobody has to guess how fair it is. */
  readonly peerName: string;
  /** ours / peer. */
  readonly ratio: number;
}

/** What a suite is given. */
export interface SuiteContext {
  readonly peers: readonly number[];
  /** Path of the compiled C program. */
  readonly reference: string;
  /** Path of the built CNI binary. */
  readonly cni: string;
  /** Numbers of VPN clients, ascending: the first connect at once, all of them are held together. */
  readonly clients: readonly number[];
  /** Folder of certificates for them; see suites/handshake-pki.ts. */
  readonly pki: string;
  /** Numbers of nodes of a mesh, ascending. */
  readonly nodes: readonly number[];
  /** Tells the person who waits what goes on. */
  readonly progress: (text: string) => void;
}

export type Suite = (context: SuiteContext) => Promise<readonly Row[]>;

/** A row of two series that were measured alternately. */
export function row(
  suite: SuiteName,
  name: string,
  unit: string,
  figures: { readonly ours: readonly number[]; readonly peer: readonly number[]; readonly peerName: string },
): Row {
  const ours = median(figures.ours);
  const peer = median(figures.peer);
  if (!(peer > 0)) throw new RangeError(`${suite} ${name}: the peer's figure is ${peer}`);
  return {
    suite,
    name,
    unit,
    ours: significant(ours),
    peer: significant(peer),
    peerName: figures.peerName,
    ratio: significant(ours / peer),
  };
}

/** The middle value; the mean of the two in the middle of an even number. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.floor((sorted.length - 1) / 2)];
  if (upper === undefined || lower === undefined) throw new RangeError('no values to take the median of');
  return (lower + upper) / 2;
}

/** The value that this share of all values does not exceed (nearest rank). */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const found = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)];
  if (found === undefined) throw new RangeError('no values to take a percentile of');
  return found;
}

/** Four significant digits: more would be noise. */
export function significant(value: number): number {
  return Number(value.toPrecision(4));
}

/** Reads rows back. @throws Error when something is not a row */
export function parseRows(text: string): Row[] {
  const values: unknown = JSON.parse(text);
  if (!Array.isArray(values)) throw new Error('the rows are not a list');
  return values.map((value: unknown) => {
    if (!isRow(value)) throw new Error(`not a row: ${JSON.stringify(value)}`);
    return value;
  });
}

const rowFields: Readonly<Record<keyof Row, 'string' | 'number'>> = {
  suite: 'string',
  name: 'string',
  unit: 'string',
  ours: 'number',
  peer: 'number',
  peerName: 'string',
  ratio: 'number',
};

function isRow(value: unknown): value is Row {
  if (typeof value !== 'object' || value === null) return false;
  const fields = new Map<string, unknown>(Object.entries(value));
  const types = Object.entries(rowFields);
  return fields.size === types.length && types.every(([name, type]) => typeof fields.get(name) === type);
}
