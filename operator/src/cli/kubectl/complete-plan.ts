import type { Argument, Command, Option } from 'commander';

/** One candidate, with what the shell may show beside it. */
export interface Candidate {
  readonly text: string;
  readonly description?: string;
}

/** What comes next on a command line. */
export type Next =
  | { readonly kind: 'words'; readonly words: readonly Candidate[] }
  /** The name of something in the cluster or, of a context, in the kubeconfig. */
  | { readonly kind: 'names'; readonly of: Nameable }
  | { readonly kind: 'file' }
  | { readonly kind: 'nothing' };

export type Nameable = 'network' | 'peer' | 'node' | 'pod' | 'namespace' | 'context';

export interface Plan {
  readonly next: Next;
  /** What is typed of it. */
  readonly prefix: string;
  /** What stands before it in the same word, and has to be said with it: the flag of `-nvalue`. Shells cut at `=` themselves. */
  readonly flag?: string;
  /** The options before it, by their attributes. */
  readonly options: Readonly<Record<string, string | true>>;
}

/** Arguments and options whose values are names, by the names that these have in the help. */
const nameable: Readonly<Record<string, Nameable>> = {
  network: 'network',
  peer: 'peer',
  name: 'peer',
  node: 'node',
  pod: 'pod',
  namespace: 'namespace',
  operatorNamespace: 'namespace',
  context: 'context',
};

/**
 * What can come next. Pure.
 *
 * @param words of the command line behind the program's name; the last is the one that is being typed, perhaps empty
 */
export function planCompletion(program: Command, words: readonly string[]): Plan {
  // Bash takes --output=json for three words.
  const before = words.slice(0, -1).filter((word) => word !== '=');
  const last = words.at(-1) ?? '';
  const typed = last === '=' ? '' : last;
  const options: Record<string, string | true> = {};
  let command: Command | undefined;
  let positional = 0;
  let open: Option | undefined;
  let onlyArguments = false;
  const find = (flag: string): Option | undefined =>
    optionsOf(program, command).find((one) => one.long === flag || one.short === flag);
  for (const word of before) {
    if (open !== undefined) {
      options[open.attributeName()] = word;
      open = undefined;
    } else if (word === '--') onlyArguments = true;
    else if (!onlyArguments && /^-./.test(word)) {
      const [flag, value] = split(word);
      const option = find(flag);
      if (option === undefined) continue;
      if (value !== undefined) options[option.attributeName()] = value;
      else if (option.required) open = option;
      else options[option.attributeName()] = true;
    } else if (command === undefined) {
      command = program.commands.find((one) => one.name() === word);
      if (command === undefined) return { next: { kind: 'nothing' }, prefix: typed, options };
    } else positional++;
  }
  if (open !== undefined) return { next: valueOf(open), prefix: typed, options };
  if (!onlyArguments && typed.startsWith('-')) {
    const [flag, value] = split(typed);
    const option = value === undefined ? undefined : find(flag);
    if (option !== undefined) {
      const joined = typed.includes('=') ? {} : { flag };
      return { next: valueOf(option), prefix: value ?? '', options, ...joined };
    }
    const flags = optionsOf(program, command).flatMap(({ long, description }) =>
      long === undefined ? [] : [{ text: long, description }],
    );
    return {
      next: { kind: 'words', words: [...flags, { text: '--help', description: 'display help' }] },
      prefix: typed,
      options,
    };
  }
  if (command === undefined) {
    const commands = program.commands.map((one) => ({ text: one.name(), description: one.description() }));
    return { next: { kind: 'words', words: commands }, prefix: typed, options };
  }
  return { next: argumentOf(command.registeredArguments, positional), prefix: typed, options };
}

/** `--name=value` and `-nvalue` in two. */
function split(word: string): [flag: string, value: string | undefined] {
  if (word.startsWith('--')) {
    const at = word.indexOf('=');
    return at === -1 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
  }
  return [word.slice(0, 2), word.length > 2 ? word.slice(2).replace(/^=/, '') : undefined];
}

function optionsOf(program: Command, command: Command | undefined): readonly Option[] {
  // `--version` stands alone.
  return [
    ...(command?.options ?? []),
    ...program.options.filter(({ long }) => command === undefined || long !== '--version'),
  ];
}

function valueOf(option: Option): Next {
  if (option.argChoices !== undefined) return choices(option.argChoices);
  if (/<(file|folder|path)>/.test(option.flags)) return { kind: 'file' };
  const of = nameable[option.attributeName()];
  return of === undefined ? { kind: 'nothing' } : { kind: 'names', of };
}

function argumentOf(all: readonly Argument[], index: number): Next {
  const argument = all[index] ?? (all.at(-1)?.variadic === true ? all.at(-1) : undefined);
  if (argument === undefined) return { kind: 'nothing' };
  if (argument.argChoices !== undefined) return choices(argument.argChoices);
  const of = nameable[argument.name()];
  return of === undefined ? { kind: 'nothing' } : { kind: 'names', of };
}

function choices(values: readonly string[]): Next {
  return { kind: 'words', words: values.map((text) => ({ text })) };
}
