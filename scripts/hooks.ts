/** `npm run hooks`, and what the hooks of git run: staged files by ESLint and Prettier, and the form of the message. */
import { ESLint } from 'eslint';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as prettier from 'prettier';
import { must, run } from '../test/lab/run.ts';
import { LabError, report, UsageError } from '../test/lab/errors.ts';
import { messageProblems } from './commit-message.ts';
import { projectRoot } from './tasks.ts';

const folder = 'scripts/git-hooks';
const cwd = projectRoot;

/** Has git run our hooks in this clone. Says no where it runs others already: those are a person's own. */
async function install(): Promise<void> {
  const { stdout } = await run('git', ['config', '--get', 'core.hooksPath'], { cwd });
  const set = stdout.trim();
  if (set !== '' && set !== folder)
    throw new LabError(
      `git runs hooks of ${set} here (core.hooksPath)`,
      `Call ${folder}/pre-commit and ${folder}/commit-msg from those, or: git config --unset core.hooksPath`,
    );
  await must('git', ['config', 'core.hooksPath', folder], { cwd });
  process.stdout.write(`git runs ${folder} in this clone; off again by: git config --unset core.hooksPath\n`);
}

/** Checks what is staged, which may differ from the files. Resolves with what is wrong, ready to be read. */
async function checkStaged(): Promise<string[]> {
  const list = ['diff', '--cached', '--name-only', '--diff-filter=ACMR', '-z'];
  const paths = (await must('git', list, { cwd })).stdout.split('\0').filter((path) => path !== '');
  const eslint = new ESLint({ cwd });
  const problems: string[] = [];
  for (const path of paths) {
    const file = join(projectRoot, path);
    const ignorePath = ['.gitignore', '.prettierignore'].map((name) => join(projectRoot, name));
    const { ignored, inferredParser } = await prettier.getFileInfo(file, { ignorePath });
    const lintable = /\.[cm]?[jt]s$/.test(path);
    if (!lintable && (ignored || inferredParser === null)) continue;
    const { stdout: text } = await must('git', ['show', `:${path}`], { cwd });
    if (!ignored && inferredParser !== null) {
      const config = (await prettier.resolveConfig(file)) ?? {};
      const formatted = await prettier.check(text, { ...config, filepath: file }).catch(() => false);
      if (!formatted) problems.push(`${path}: not formatted, or not well-formed; try: npm run format`);
    }
    if (!lintable) continue;
    for (const { messages } of await eslint.lintText(text, { filePath: file, warnIgnored: false }))
      problems.push(
        ...messages.map(({ line, message, ruleId }) => `${path}:${line}: ${message} (${ruleId ?? 'syntax'})`),
      );
  }
  return problems;
}

function tell(problems: readonly string[], way: string): void {
  if (problems.length === 0) return;
  process.stderr.write(`${problems.join('\n')}\n${way}\n`);
  process.exitCode = 1;
}

const [hook, file] = process.argv.slice(2);
try {
  if (hook === 'install') await install();
  else if (hook === 'pre-commit') tell(await checkStaged(), 'Nothing is committed. Without this check: --no-verify');
  else if (hook === 'commit-msg' && file !== undefined)
    tell(messageProblems(readFileSync(file, 'utf8')), `Nothing is committed; the message is in ${file}`);
  else throw new UsageError(`scripts/hooks.ts knows no '${hook ?? ''}'`, 'npm run hooks --');
} catch (error) {
  report(error);
  process.exitCode = 1;
}
