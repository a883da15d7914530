import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { shellCommand, shellsRoot } from '../programs/shells.ts';
import { attempt } from './run.ts';

/** What a shell does at a press of the tabulator. */
export interface Completion {
  /** The line after it. */
  readonly line: string;
  /** What is shown below the line. */
  readonly shown: readonly string[];
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** Runs a shell to its end with these files in a home of its own. */
async function shell(
  [name, ...args]: readonly ['zsh' | 'fish', ...string[]],
  env: NodeJS.ProcessEnv,
  files: Readonly<Record<string, string>>,
): Promise<string> {
  const home = mkdtempSync(join(tmpdir(), 'ovpn-shell-'));
  try {
    for (const [file, text] of Object.entries(files)) writeFileSync(join(home, file), text);
    const own = { ...env, HOME: home, ZDOTDIR: home, TERM: 'dumb', LC_ALL: 'C.UTF-8' };
    const settings = Object.entries(own).map(([variable, value]) => `${variable}=${value}`);
    const { code, stdout, stderr } = await attempt('env', [
      ...['-i', '-C', home, ...settings, 'timeout', '90'],
      ...[...shellCommand(name), ...args],
    ]);
    if (code !== 0 || stderr !== '') throw new Error(`${name} exited with ${code}:\n${stderr}${stdout}`);
    return stdout;
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}

const modules = (): string => `module_path=(${quoted(shellsRoot())}/usr/lib/*-linux-gnu/zsh/*(N))\n`;

/**
 * Types lines in an interactive shell on a terminal of its own (zsh/zpty), with keys behind each.
 * @param keys have the shell complete, and say `<END:LINE>`, as zsh writes them
 */
async function typed(
  command: readonly string[],
  keys: string,
  env: NodeJS.ProcessEnv,
  files: Readonly<Record<string, string>>,
  lines: readonly string[],
): Promise<Completion[]> {
  const typist = `
zmodload zsh/zpty
zpty -b shell ${command.map(quoted).join(' ')}
zpty -r shell out '*<READY>*'
for line in ${lines.map(quoted).join(' ')}; do
  zpty -w -n shell $line${keys}
  zpty -r shell out '*<END:*>*'
  print -rn -- $out$'\\0'
done
`;
  const output = await shell(['zsh', '-d', '-f', 'typist'], env, { ...files, typist: modules() + typist });
  const texts = output.split('\0').slice(0, -1);
  return texts.map((text, i) => {
    const [, before = '', line = ''] = /(.*)<END:(.*)>/s.exec(text) ?? [];
    const rows = before
      // eslint-disable-next-line no-control-regex -- a terminal's own words
      .replaceAll(/\u001B\[[\d;?]*[A-Za-z]|[\u0007\u0008]|\r(?!\n)/g, '\n')
      .split(/\r?\n/)
      .map((row) => row.trim());
    // Above what is shown and below, the line itself is written anew.
    const own = lines[i]!.trim();
    return { line, shown: rows.filter((row) => row !== '' && !own.startsWith(row) && !row.startsWith(own)) };
  });
}

/**
 * What zsh makes of lines.
 * @param setup what a person has in .zshrc
 */
export async function zshCompletes(
  env: NodeJS.ProcessEnv,
  setup: string,
  lines: readonly string[],
): Promise<Completion[]> {
  const zshrc = `
PROMPT=
unsetopt prompt_sp prompt_cr
unset zle_bracketed_paste
LISTMAX=1000 COLUMNS=200
fpath=(${quoted(shellsRoot())}/usr/share/zsh/functions/**/(N))
autoload -Uz compinit && compinit -u -D
${setup}
tab() { zle -I; zle complete-word; zle -R; print -r -- "<END:$BUFFER>"; BUFFER= }
zle -N tab
bindkey '^I' tab
print '<READY>'
`;
  return typed([...shellCommand('zsh'), '-d', '-i'], "$'\\t'", env, { '.zshenv': modules(), '.zshrc': zshrc }, lines);
}

/**
 * What bash makes of lines.
 * @param setup what a person has in .bashrc
 */
export async function bashCompletes(
  env: NodeJS.ProcessEnv,
  setup: string,
  lines: readonly string[],
): Promise<Completion[]> {
  const rc = `
PS1=
bind 'set show-all-if-ambiguous on'
bind 'set enable-bracketed-paste off'
bind 'set page-completions off'
${setup}
report() { printf '<END:%s>' "$READLINE_LINE"; READLINE_LINE=; READLINE_POINT=0; }
bind -x '"\\C-g": report'
echo '<READY>'
`;
  return typed(['bash', '--noprofile', '--rcfile', 'rc', '-i'], "$'\\t\\a'", env, { rc }, lines);
}

/**
 * What fish offers for lines, each with its description behind a tab.
 * @param setup what a person has in config.fish
 */
export async function fishOffers(env: NodeJS.ProcessEnv, setup: string, lines: readonly string[]): Promise<string[][]> {
  const script = [setup, ...lines.map((line) => `complete --do-complete ${quoted(line)}; echo '<END>'`), ''].join('\n');
  // It would look for the files of its configuration where Debian installs them.
  const output = await shell(['fish', '--no-config', 'script'], env, { script });
  return output
    .split('<END>\n')
    .slice(0, -1)
    .map((text) => text.split('\n').slice(0, -1));
}
