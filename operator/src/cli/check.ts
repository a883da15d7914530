import { Command } from 'commander';
import { forTerminal } from './terminal.ts';

/** `ovpn-agent check`: reads manifests as the agent would and changes nothing. */
export function checkCommand(): Command {
  return new Command('check')
    .description('Check manifests as the agent would read them; changes nothing. Exits 1 when something is wrong.')
    .argument('<path...>', 'files or folders of manifests')
    .action(async (paths: string[]) => {
      const { checkManifests } = await import('./check-manifests.ts');
      const { objects, problems } = checkManifests(paths);
      for (const problem of problems) process.stdout.write(forTerminal(`${problem.message}\n`));
      process.stdout.write(`${objects} objects, ${problems.length} problems\n`);
      if (problems.length > 0) process.exitCode = 1;
    });
}
