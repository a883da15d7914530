import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { type FuzzArgs, parseFuzzArgs, usage } from './args.ts';
import { contentName, readCorpus, writeEntry } from './corpus.ts';
import type { Finding } from './finding.ts';
import { runTarget } from './runner.ts';
import type { Target } from './target.ts';
import { targetNamed, targets } from './targets/index.ts';

/** `npm run fuzz`; see docs/fuzzing.md. The last line counts the targets as tests. */

const root = join(import.meta.dirname, '../..');
const names = targets.map(({ name }) => name);

let args: FuzzArgs;
try {
  args = parseFuzzArgs(process.argv.slice(2), names, () => randomBytes(4).readUInt32BE());
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
  process.exit(2);
}
if (args.help) {
  process.stdout.write(usage);
} else if (args.list) {
  process.stdout.write(targets.map(({ name, input }) => `${name.padEnd(20)} ${input}\n`).join(''));
} else if (args.record) {
  for (const name of args.targets) {
    await record(targetNamed(name));
  }
} else {
  let failed = 0;
  for (const name of args.targets) {
    failed += (await fuzz(targetNamed(name), args)) ? 0 : 1;
  }
  if (args.json !== undefined) {
    const counts = { numPassedTests: args.targets.length - failed, numFailedTests: failed };
    writeFileSync(
      args.json,
      JSON.stringify({ ...counts, numRuntimeErrorTestSuites: 0, numPendingTests: 0, numTodoTests: 0, testResults: [] }),
    );
  }
  process.stdout.write(`${args.targets.length - failed} passed, ${failed} failed, 0 skipped\n`);
  process.exitCode = failed === 0 ? 0 : 1;
}

/** Whether nothing was found. */
async function fuzz(target: Target, { seconds, seed, replay }: FuzzArgs): Promise<boolean> {
  const inputs = replay === undefined ? readCorpus(target.name).map(({ bytes }) => bytes) : [readFileSync(replay)];
  const { finding, runs, pool, places } = await runTarget(target, {
    seed,
    seconds: replay === undefined ? seconds * (target.share ?? 1) : 0,
    inputs,
  });
  const summary = `${runs} runs, ${inputs.length} inputs in the corpus, ${pool} in use, ${places} characters of source`;
  process.stdout.write(`${finding === undefined ? 'ok  ' : 'FAIL'} ${target.name}: ${summary}, seed ${seed}\n`);
  if (finding === undefined) {
    return true;
  }
  process.stdout.write(`     ${finding.kind}: ${finding.message.replaceAll('\n', '\n     ')}\n`);
  process.stdout.write(
    finding.input === undefined
      ? `     again: npm run fuzz -- --target ${target.name} --seconds ${seconds} --seed ${seed}\n`
      : `     again: npm run fuzz -- --target ${target.name} --replay ${save(target, finding, finding.input, seed)}\n`,
  );
  return false;
}

function save(target: Target, { kind, message }: Finding, input: Buffer, seed: number): string {
  const folder = join(root, 'out/fuzz', target.name);
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${kind}-${contentName(input)}.bin`);
  writeFileSync(path, input);
  const again = `npm run fuzz -- --target ${target.name} --replay ${relative(root, path)}`;
  writeFileSync(path.replace(/bin$/, 'txt'), `${kind}: ${message}\nseed ${seed}\n${again}\n`);
  return relative(root, path);
}

async function record(target: Target): Promise<void> {
  const seeds = Object.entries((await target.seeds?.()) ?? {});
  for (const [name, bytes] of seeds) {
    writeEntry(target.name, name, bytes);
  }
  process.stdout.write(`${target.name}: ${seeds.length} inputs\n`);
}
