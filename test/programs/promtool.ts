import { report } from '../lab/errors.ts';
import { screenProgress, type Progress } from '../lab/progress.ts';
import { type DebianPrograms, debianPath, needDebianPrograms } from './debian.ts';

/** Prometheus's own judge of metrics, alerts and queries. Debian's: building it takes more than ten minutes. */
const promtool: DebianPrograms = {
  name: 'promtool',
  packages: ['promtool/trixie'],
  test: 'test/kube/alerts.test.ts',
};

/** Sees to it that promtool is there. @throws LabError when it cannot be fetched */
export function needPromtool(progress: Progress): Promise<void> {
  return needDebianPrograms(promtool, progress);
}

/** The path of promtool. @throws LabError when it is not there */
export function promtoolPath(): string {
  return debianPath(promtool, 'usr/bin/promtool');
}

if (import.meta.main) {
  try {
    await needPromtool(screenProgress('promtool'));
    process.stdout.write(`${promtoolPath()}\n`);
  } catch (error) {
    report(error);
    process.exitCode = 1;
  }
}
