import { resolve } from 'node:path';
import { isSuiteName, type SuiteName, suiteNames } from './suite.ts';

/** Which kernel the measured programs run on; as in the lab. */
const kernels = ['auto', 'uml', 'qemu', 'host'] as const;
export type BenchKernel = (typeof kernels)[number];

export interface BenchOptions {
  readonly suites: readonly SuiteName[];
  readonly peers: readonly number[];
  readonly clients: readonly number[];
  readonly nodes: readonly number[];
  readonly kernel: BenchKernel;
  /** Where the rows go as JSON. */
  readonly json: string | undefined;
  /** Whether the ratios go into the history, and the charts are drawn anew. */
  readonly record: boolean;
}

export const defaultPeers: readonly number[] = [1_000, 10_000];
export const defaultClients: readonly number[] = [200, 1_000];
export const defaultNodes: readonly number[] = [10, 50, 200];
/** Each has a certificate, which takes some 20 ms to make. */
export const maxClients = 10_000;
/** All nodes of a mesh are in one process, and each has six watches and more. */
export const maxNodes = 500;
/** Above this, the addresses that peers get would leave their pool. */
export const maxPeers = 60_000;

export const benchHelp = `Usage: npm run bench -- [SUITE…] [OPTION…]

Runs the benchmark suites, all of them unless some are named, and prints one table. Each row sets our figure
beside that of a peer (a program that does the same work) which ran in the same minute on the same kernel;
a ratio below 1 is better for us. Needs a C compiler (cc) for the peer; the kernel comes from the lab.

  --json FILE      also write the rows as JSON
  --peers N,N      numbers of VPN peers to measure with (default ${defaultPeers.join(',')})
  --clients N,N    numbers of VPN clients: the first connect at once, the last is held (default ${defaultClients.join(',')})
  --nodes N,N      numbers of nodes of a mesh (default ${defaultNodes.join(',')})
  --kernel KIND    auto, uml, qemu or host, as in npm run lab (default auto)
  --record         keep the ratios in test/bench/history.json, and draw the charts of the docs
  --list           name the suites
  --help           this text
`;

/** A mistake on the command line: the message is for the person who made it. */
export class BenchUsageError extends Error {
  override readonly name = 'BenchUsageError';
}

function fail(message: string): never {
  throw new BenchUsageError(`${message}\nSee: npm run bench -- --help`);
}

/** Parses the command line of `bench`. */
export function parseBenchArgs(words: readonly string[], cwd: string): BenchOptions | 'help' | 'list' {
  const suites: SuiteName[] = [];
  const options: {
    peers: readonly number[];
    clients: readonly number[];
    nodes: readonly number[];
    kernel: BenchKernel;
    json: string | undefined;
    record: boolean;
  } = {
    peers: defaultPeers,
    clients: defaultClients,
    nodes: defaultNodes,
    kernel: 'auto',
    json: undefined,
    record: false,
  };
  const rest = words.flatMap((word) => (/^--\w+=/.test(word) ? splitOnce(word) : [word]));
  while (rest.length > 0) {
    const word = rest.shift() ?? '';
    if (word === '--help' || word === '-h') return 'help';
    if (word === '--list') return 'list';
    if (word === '--') continue;
    if (word === '--record') {
      options.record = true;
      continue;
    }
    if (!word.startsWith('-')) {
      if (!isSuiteName(word)) fail(`there is no suite '${word}'; there are: ${suiteNames.join(', ')}`);
      if (!suites.includes(word)) suites.push(word);
      continue;
    }
    if (!['--json', '--peers', '--clients', '--nodes', '--kernel'].includes(word)) fail(`there is no option ${word}`);
    const value = rest.shift();
    if (value === undefined || value === '') fail(`${word} needs a value`);
    if (word === '--json') options.json = resolve(cwd, value);
    else if (word === '--peers') options.peers = parseCounts('--peers', value, maxPeers);
    else if (word === '--clients') options.clients = parseCounts('--clients', value, maxClients);
    else if (word === '--nodes') options.nodes = parseCounts('--nodes', value, maxNodes);
    else options.kernel = parseKernel(value);
  }
  return { suites: suites.length === 0 ? suiteNames : suiteNames.filter((name) => suites.includes(name)), ...options };
}

function splitOnce(word: string): [string, string] {
  const equals = word.indexOf('=');
  return [word.slice(0, equals), word.slice(equals + 1)];
}

function parseCounts(option: string, text: string, most: number): number[] {
  const counts = text.split(',').map((part) => (/^\d{1,6}$/.test(part) ? Number(part) : Number.NaN));
  if (!counts.every((count) => count >= 1 && count <= most)) {
    fail(`${option} '${text}' is not a list of whole numbers from 1 to ${most}`);
  }
  return [...new Set(counts)].sort((a, b) => a - b);
}

function parseKernel(text: string): BenchKernel {
  return kernels.find((kernel) => kernel === text) ?? fail(`--kernel '${text}' is not one of ${kernels.join(', ')}`);
}
