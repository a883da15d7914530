import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pageHead } from './markdown.ts';

const folder = join(import.meta.dirname, '../../operator/src/cli');

/** The programs of operator/src/cli by name: the files there that a shell can start. */
export function programs(): readonly string[] {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.ts') && readFileSync(join(folder, file), 'utf8').startsWith('#!'))
    .map((file) => file.slice(0, -'.ts'.length));
}

/** What a program says for `--help`, with names of a machine replaced by what they stand for. */
export async function helpOf(program: string, ...commands: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [join(folder, `${program}.ts`), ...commands, '--help'],
    { env: { NODE_NAME: 'HOSTNAME', POD_NAME: 'HOSTNAME', HOME: '/root', LANG: 'C.UTF-8' } },
  );
  return stdout;
}

/** The names of the commands in a program's help. */
export function commandsIn(help: string): readonly string[] {
  const [, list] = help.split('\nCommands:\n');
  return [...(list ?? '').matchAll(/^ {2}([a-z][a-z-]*)/gm)].flatMap(([, name]) =>
    name === undefined || name === 'help' ? [] : [name],
  );
}

/** A program or one of its commands, with what it says for `--help`. */
export interface Help {
  readonly words: readonly string[];
  readonly help: string;
}

/** The help of all programs and of all their commands, in order. */
export async function allHelp(): Promise<readonly Help[]> {
  const ofProgram = async (program: string): Promise<Help[]> => {
    const help = await helpOf(program);
    const commands = commandsIn(help).map(async (name) => ({
      words: [program, name],
      help: await helpOf(program, name),
    }));
    return [{ words: [program], help }, ...(await Promise.all(commands))];
  };
  return (await Promise.all(programs().map(ofProgram))).flat();
}

/** docs/reference/cli.md: what every program and command says of itself. */
export async function cliPage(): Promise<string> {
  const words =
    'What each program says for `--help`. HOSTNAME stands for the name of the machine. The image has them all; [the guide](../guide.md) starts them from a checkout.';
  const parts = (await allHelp()).map(
    ({ words: name, help }) =>
      `\n${'#'.repeat(name.length + 1)} ${name.join(' ')}\n\n\`\`\`text\n${help.trimEnd()}\n\`\`\`\n`,
  );
  return pageHead('Command line', 'operator/src/cli', words) + parts.join('');
}
