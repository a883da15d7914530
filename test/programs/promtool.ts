import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateApt } from '../lab/apt.ts';
import { cacheFolder, exists, publish } from '../lab/cache.ts';
import { LabError, report } from '../lab/errors.ts';
import { needPrograms } from '../lab/host-programs.ts';
import { withLock } from '../lab/lock.ts';
import { unpackPrograms } from '../lab/packages.ts';
import { screenProgress, type Progress } from '../lab/progress.ts';
import { must } from '../lab/run.ts';
import { unpackDeb } from '../lab/tools.ts';
import { programsFolder } from './location.ts';

/** Prometheus's own judge of metrics, alerts and queries. Debian's: building it takes more than ten minutes. */
const debian = { package: 'promtool/trixie', program: 'usr/bin/promtool' } as const;

const folder = (): string => join(programsFolder(), 'debian-promtool-trixie');

/** Sees to it that promtool is there. @throws LabError when it cannot be fetched */
export async function needPromtool(progress: Progress): Promise<void> {
  if (await exists(folder())) return;
  await withLock(programsFolder(), progress, async () => {
    if (await exists(folder())) return;
    await needPrograms(unpackPrograms, 'fetching promtool', progress);
    const apt = new PrivateApt(cacheFolder(), progress);
    progress.step(`fetching Debian's ${debian.package}`);
    await publish(folder(), async (target) => {
      for (const deb of await apt.download([debian.package], target)) {
        await unpackDeb(deb, target);
        await must('rm', [deb]);
      }
    });
  });
}

/** The path of promtool. @throws LabError when it is not there */
export function promtoolPath(): string {
  const path = join(folder(), debian.program);
  if (existsSync(path)) return path;
  throw new LabError(
    `promtool is not there (looked for ${path})`,
    'Run: npm run test:kube -- test/kube/alerts.test.ts',
  );
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
