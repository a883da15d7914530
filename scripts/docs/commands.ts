import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { allHelp } from './cli-page.ts';
import type { Block, Page } from './pages.ts';
import { repository } from './reference.ts';
import { chartValues } from './values-page.ts';

/** A command of a page: its words, and where it stands. */
export interface Command {
  readonly words: readonly string[];
  readonly place: string;
}

/** The commands in the blocks of pages that a person would type: in `console` behind `$` or `#`, in `sh` all lines. */
export function commandsOf(pages: readonly Page[]): readonly Command[] {
  return pages.flatMap(({ file, blocks }) =>
    blocks.flatMap((block) => linesOf(block).flatMap(({ text, line }) => commandsIn(text, `${file}:${line}`))),
  );
}

function linesOf({ language, text, line }: Block): { text: string; line: number }[] {
  if (language !== 'console' && language !== 'sh') return [];
  const joined = text.replaceAll(/\\\n\s*/g, ' ').split('\n');
  return joined.flatMap((each, index) => {
    const at = { text: language === 'console' ? each.replace(/^[$#] /, '') : each, line: line + index + 1 };
    return language === 'sh' || /^[$#] /.test(each) ? [at] : [];
  });
}

/** The simple commands of a line of shell, without comments, redirections, assignments and sudo. */
function commandsIn(line: string, place: string): Command[] {
  const tokens = line.match(/"[^"]*"|\|\||&&|[|;&]|(?:'[^']*'|[^\s'"|;&])+|\S/g) ?? [];
  const commands: string[][] = [[]];
  for (const token of tokens) {
    if (token.startsWith('#')) break;
    if (/^(\|\||&&|[|;&])$/.test(token)) commands.push([]);
    else commands.at(-1)?.push(token);
  }
  return commands.flatMap((words) => {
    const first = words.findIndex((word) => word !== 'sudo' && !/^[A-Z_]+=/.test(word));
    return first === -1 ? [] : [{ words: words.slice(first), place }];
  });
}

/** Says what is wrong with a command of ours: an unknown command, option or value. Says nothing of others' programs. */
export type CommandCheck = (command: Command) => readonly string[];

/** Reads from the programs, package.json and the chart what there is. */
export async function commandCheck(): Promise<CommandCheck> {
  const help = new Map((await allHelp()).map(({ words, help: text }) => [words.join(' '), text]));
  const { scripts } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8')) as {
    scripts: Readonly<Record<string, string>>;
  };
  const values = chartValues().flatMap(({ path, fallback }) => (fallback === undefined ? [] : [path.join('.')]));

  const ofProgram = (words: readonly string[]): string[] => {
    const [program = '', ...rest] = words;
    const named = rest[0] !== undefined && !rest[0].startsWith('-') ? `${program} ${rest[0]}` : program;
    const text = help.get(named);
    if (text === undefined) return [`there is no command ${named}`];
    return unknownOptions(rest, text).map((option) => `${named} has no option ${option}`);
  };
  const ofNpm = ([, verb, script = '']: readonly string[]): string[] => {
    const name = verb === 'run' ? script : (verb ?? '');
    return /^(run|test)$/.test(verb ?? '') && scripts[name] === undefined ? [`there is no npm script ${name}`] : [];
  };
  const ofHelm = (words: readonly string[]): string[] => {
    const settings = words.flatMap((word, index) => (/^--set(-string)?$/.test(word) ? [words[index + 1] ?? ''] : []));
    const unknown = settings
      .flatMap((setting) => setting.split(','))
      .map((setting) => setting.replace(/[=[{].*$/, ''))
      .filter((path) => !values.some((value) => path === value || path.startsWith(`${value}.`)))
      .map((path) => `the chart has no value ${path}`);
    const charts = words.filter((word) => word.startsWith('charts/') && !existsSync(join(repository, word)));
    return [...unknown, ...charts.map((chart) => `there is no ${chart}`)];
  };

  return ({ words, place }) => {
    const [first = '', second = ''] = words;
    const problems = (): string[] => {
      if (help.has(first)) return ofProgram(words);
      if (first === 'kubectl' && second === 'ovpn') return ofProgram(['kubectl-ovpn', ...words.slice(2)]);
      if (first === 'npm') return ofNpm(words);
      return first === 'helm' ? ofHelm(words) : [];
    };
    return problems().map((problem) => `${place}: ${problem}`);
  };
}

function unknownOptions(words: readonly string[], help: string): string[] {
  const known = new Set([...help.matchAll(/^ {2,}(?:(-\w), )?(--[a-z][a-z-]*)/gm)].flatMap(([, ...names]) => names));
  return words.flatMap((word) => {
    const [option = ''] = word.split('=');
    return /^--?[a-z]/.test(option) && !known.has(option) ? [option] : [];
  });
}
