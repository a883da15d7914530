import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { report } from '../lab/errors.ts';
import { screenProgress, type Progress } from '../lab/progress.ts';
import { must } from '../lab/run.ts';
import { needGoPrograms } from './build.ts';
import { needGo } from './go.ts';
import { moduleFolder, programPath, versionOf } from './location.ts';
import { programs } from './programs.ts';

/**
 * The CRDs of Prometheus Operator, made as that project makes them: by controller-gen, of its Go types. They lie in the
 * repository, because a test that wants two files of them need not compile what makes them. Run this file after a
 * change of monitoring/go.mod.
 */

/** The kinds that the chart has objects of, by their plurals. */
const plurals = ['podmonitors', 'prometheusrules'] as const;
const types = 'github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring';
const generator = programs['controller-gen'];
const folder = join(import.meta.dirname, '../fixtures/monitoring');

/** The files with the CRDs. */
export const monitoringCrds: readonly string[] = plurals.map((plural) => join(folder, `${plural}.yaml`));

/** What each of the files begins with: of which versions it was made. */
export function monitoringHeader(): string {
  const typesVersion = versionOf({ ...generator, module: types });
  return `# Made by test/programs/monitoring.ts of ${types} ${typesVersion} (Apache-2.0).\n`;
}

async function generate(progress: Progress): Promise<void> {
  await needGoPrograms(['controller-gen'], progress);
  const { command, env } = await needGo(progress);
  await mkdir(folder, { recursive: true });
  const work = await mkdtemp(join(folder, 'tmp-'));
  try {
    // It has `go` read the types, by that name.
    const path = [...(command.includes('/') ? [dirname(command)] : []), process.env['PATH'] ?? ''].join(delimiter);
    const options = ['crd:crdVersions=v1,maxDescLen=0', `paths=${types}/v1`, `output:crd:dir=${work}`];
    await must(programPath('controller-gen'), options, { cwd: moduleFolder(generator), env: { ...env, PATH: path } });
    for (const [i, plural] of plurals.entries()) {
      const text = await readFile(join(work, `monitoring.coreos.com_${plural}.yaml`), 'utf8');
      await writeFile(monitoringCrds[i]!, monitoringHeader() + text);
    }
  } finally {
    await rm(work, { recursive: true });
  }
}

if (import.meta.main) {
  try {
    await generate(screenProgress('monitoring'));
  } catch (error) {
    report(error);
    process.exitCode = 1;
  }
}
