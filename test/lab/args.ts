import { resolve } from 'node:path';
import { UsageError } from './errors.ts';
import { defaultSeries, type StockSeries, stockSeries } from './packages.ts';

/** Which kernel a job runs on; `auto` and `fast` choose. */
export type KernelChoice = 'auto' | 'fast' | 'host' | 'uml' | 'qemu';
/** The kernels there are. */
export type KernelKind = 'host' | 'uml' | 'qemu';

/** A parsed `lab` command line. */
export interface LabOptions {
  kernel: KernelChoice;
  /** Which of Debian's kernels QEMU runs. */
  series: StockSeries;
  /** Never compile: without a cached user-mode Linux, `auto` takes QEMU. */
  noBuild: boolean;
  results: string | undefined;
  cpus: number | undefined;
  /** In MiB. */
  memory: number | undefined;
  /** In seconds; undefined means no limit. */
  timeout: number | undefined;
  env: Record<string, string>;
  argv: string[];
}

/** What `lab --help` prints. */
export const labHelp = `Usage: lab [OPTION]… [--] COMMAND [ARGUMENT]…

Runs COMMAND as root on a kernel that has the ovpn driver: in the same folder, with the same files and the
same programs as here, but all it changes is thrown away, except what it writes to $LAB_RESULTS. Its output,
arguments and exit code are passed on as they are.

  --kernel KIND    auto  the host's own kernel if it has ovpn, else user-mode Linux (built at the first
                         use; the default)
                   fast  like auto, but takes QEMU rather than compile
                   host  the host's own kernel, in network and mount namespaces of its own
                   uml   user-mode Linux
                   qemu  Debian's stock kernel in QEMU; qemu:7.0 or qemu:7.3 says which (default ${defaultSeries})
  --no-build       never compile a kernel: auto becomes fast, and uml fails if it is not built
  --results DIR    where $LAB_RESULTS ends up (default: a new temporary folder, named if anything is in it)
  --cpus N         CPUs of the guest (default 2; 1 in QEMU without KVM)
  --memory SIZE    memory of the guest, such as 512M or 3G (default 3G)
  --timeout SECS   kill the guest after that time; the exit code is then 124
  --env NAME=VALUE set a variable for COMMAND (may be given again)
  --help           this text

Exit codes: COMMAND's own; 124 after a timeout; 125 when the lab itself failed.
In the guest, LAB_KERNEL says which kernel it is: host, uml or qemu.
`;

const kernels: readonly string[] = ['auto', 'fast', 'host', 'uml', 'qemu'] satisfies KernelChoice[];

function isKernelChoice(text: string): text is KernelChoice {
  return kernels.includes(text);
}

/** The series in `qemu:7.0`; undefined where it is of another kind, or not one that there is. */
function seriesOf(text: string): StockSeries | undefined {
  return stockSeries.find((series) => text === `qemu:${series}`);
}

function fail(message: string): never {
  throw new UsageError(message, 'npm run lab --');
}

/** Reads a size such as `512M` or `3G` as MiB. */
export function parseMemory(text: string): number {
  const match = /^(\d+)([MG])$/i.exec(text);
  if (match?.[1] === undefined || match[2] === undefined) fail(`--memory '${text}' is not a size such as 512M or 3G`);
  const size = Number(match[1]) * (match[2].toUpperCase() === 'G' ? 1024 : 1);
  if (size < 256) fail(`--memory '${text}' is too little to boot: at least 256M`);
  return size;
}

function parseCount(option: string, text: string, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= 1 && value <= most)) fail(`${option} '${text}' is not a whole number from 1 to ${most}`);
  return value;
}

/** Parses the command line of `lab`. Options end at the first word that is not one, or at `--`. */
export function parseLabArgs(words: readonly string[], cwd: string): LabOptions | 'help' {
  const options: LabOptions = {
    kernel: 'auto',
    series: defaultSeries,
    noBuild: false,
    results: undefined,
    cpus: undefined,
    memory: undefined,
    timeout: undefined,
    env: {},
    argv: [],
  };
  const rest = [...words];
  while (rest[0]?.startsWith('-') === true) {
    const word = rest.shift() ?? '';
    if (word === '--') break;
    if (word === '--help' || word === '-h') return 'help';
    if (word === '--no-build') {
      options.noBuild = true;
      continue;
    }
    const equals = word.indexOf('=');
    const name = equals < 0 ? word : word.slice(0, equals);
    const setter = setters[name];
    if (setter === undefined) fail(`there is no option ${name}`);
    const value = equals < 0 ? rest.shift() : word.slice(equals + 1);
    if (value === undefined) fail(`${name} needs a value`);
    setter(options, value, cwd);
  }
  options.argv = rest;
  if (rest.length === 0) fail('no command given');
  return options;
}

const setters: Readonly<Record<string, (options: LabOptions, value: string, cwd: string) => void>> = {
  '--kernel': (options, value) => {
    const series = seriesOf(value);
    if (series !== undefined) {
      options.kernel = 'qemu';
      options.series = series;
      return;
    }
    if (!isKernelChoice(value))
      fail(`--kernel '${value}' is not one of ${[...kernels, ...stockSeries.map((one) => `qemu:${one}`)].join(', ')}`);
    options.kernel = value;
    options.series = defaultSeries;
  },
  '--results': (options, value, cwd) => {
    options.results = resolve(cwd, value);
  },
  '--cpus': (options, value) => {
    options.cpus = parseCount('--cpus', value, 4);
  },
  '--memory': (options, value) => {
    options.memory = parseMemory(value);
  },
  '--timeout': (options, value) => {
    options.timeout = parseCount('--timeout', value, 86_400);
  },
  '--env': (options, value) => {
    const match = /^([A-Za-z_]\w*)=(.*)$/s.exec(value);
    if (match?.[1] === undefined || match[2] === undefined) fail(`--env '${value}' is not of the form NAME=VALUE`);
    options.env[match[1]] = match[2];
  },
};

/** Something that the lab prepares: user-mode Linux, or QEMU with a kernel of Debian's. */
export type Preparable = { readonly kind: 'uml' } | { readonly kind: 'qemu'; readonly series: StockSeries };

/** What `setup --help` prints. */
export const setupHelp = `Usage: setup [--kernel uml|qemu|qemu:SERIES|all]

Prepares what the lab needs and does not have yet: guest tools, and a kernel with the ovpn driver.

  --kernel uml     user-mode Linux, compiled here from Debian's kernel source (the default)
  --kernel qemu    Debian's stock kernel, to run in QEMU; compiles nothing. qemu:${stockSeries.join(', qemu:')}
                   say which one (default ${defaultSeries})
  --kernel all     user-mode Linux and all of Debian's kernels
  --help           this text

Everything goes to \${OVPN_LAB_CACHE:-\${XDG_CACHE_HOME:-~/.cache}/ovpn-operator/lab}; deleting that folder
is safe. Missing programs are installed by apt-get when run as root, else named.
`;

/** Parses the command line of `setup`. */
export function parseSetupArgs(words: readonly string[]): readonly Preparable[] | 'help' {
  let choice: readonly Preparable[] = [{ kind: 'uml' }];
  const rest = words.flatMap((word) => (word.startsWith('--kernel=') ? ['--kernel', word.slice(9)] : [word]));
  while (rest.length > 0) {
    const word = rest.shift() ?? '';
    if (word === '--help' || word === '-h') return 'help';
    const value = word === '--kernel' ? rest.shift() : undefined;
    if (word !== '--kernel') throw new UsageError(`there is no option or argument '${word}'`, 'npm run lab:setup --');
    choice = preparable(value ?? '');
  }
  return choice;
}

function preparable(value: string): readonly Preparable[] {
  const series = value === 'qemu' ? defaultSeries : seriesOf(value);
  if (series !== undefined) return [{ kind: 'qemu', series }];
  if (value === 'uml') return [{ kind: 'uml' }];
  if (value === 'all') return [...stockSeries.map((one) => ({ kind: 'qemu', series: one }) as const), { kind: 'uml' }];
  const all = ['uml', 'qemu', ...stockSeries.map((one) => `qemu:${one}`), 'all'];
  throw new UsageError(`--kernel '${value}' is not one of ${all.join(', ')}`, 'npm run lab:setup --');
}
