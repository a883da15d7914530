/** The form of a commit's message: CONTRIBUTING.md asks for it. */

const longestSubject = 100;

/** The first words that people write by habit instead of the imperative. */
const notImperative = /^(add|fix|updat|chang|remov|mak|improv|implement|us)(ed|es|s|ing)\b|^(made|makes|did|does)\b/i;

/** What git makes by itself: a merge, a revert, and what a rebase will fold into another commit. */
const ofGit = /^(Merge |Revert "|(fixup|squash|amend)! )/;

/**
 * What is wrong with a message as git gives it to a hook: comments (`#`) and what is below the scissors line do not
 * count. An empty message is git's own matter.
 */
export function messageProblems(message: string): string[] {
  const [kept = ''] = message.split(/^# -+ >8 -+$/m);
  const lines = kept
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .map((line) => line.trimEnd());
  while (lines[0] === '') lines.shift();
  const [subject, second] = lines;
  if (subject === undefined || ofGit.test(subject)) return [];
  const problems: string[] = [];
  if (subject.length > longestSubject)
    problems.push(`the first line has ${subject.length} characters, at most ${longestSubject} are read well`);
  if (!/^\p{Lu}/u.test(subject)) problems.push('the first line begins with a capital letter');
  if (subject.endsWith('.')) problems.push('the first line ends without a full stop');
  if (notImperative.test(subject)) problems.push(`the first line is in the imperative: 'Add', not 'Added' or 'Adds'`);
  if (second !== undefined && second !== '') problems.push('a blank line stands after the first one');
  return problems;
}
