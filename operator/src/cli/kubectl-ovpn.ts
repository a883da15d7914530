#!/usr/bin/env node
import { CommanderError } from 'commander';
import { describe } from '../errors.ts';
import { complete } from './kubectl/complete.ts';
import { kubectlProgram } from './kubectl/program.ts';

/** A program that did what it was asked leaves with 0, or with 1 if what it found is not well; this is for all else. */
const failed = 2;

// Whoever reads along may have seen enough (`| head`).
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : failed);
});

const program = kubectlProgram().exitOverride();
for (const command of program.commands) command.exitOverride();

const [, , first, ...words] = process.argv;
try {
  // What is being typed is no command line yet: nothing parses it.
  if (first === '__complete') process.stdout.write(await complete(program, words));
  else await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // It has said what is wrong itself.
    process.exitCode = error.exitCode === 0 ? 0 : failed;
  } else {
    process.stderr.write(`kubectl ovpn: ${describe(error)}\n`);
    process.exitCode = failed;
  }
}
