import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { PrivateApt } from '../lab/apt.ts';
import { cacheFolder, exists, publish } from '../lab/cache.ts';
import { needPrograms } from '../lab/host-programs.ts';
import { unpackPrograms } from '../lab/packages.ts';
import type { Progress } from '../lab/progress.ts';
import { must, run } from '../lab/run.ts';
import { unpackDeb } from '../lab/tools.ts';
import { programsFolder } from './location.ts';

/** Debian's Go, for machines without one: old enough to be in stable, new enough to fetch the one it is asked for. */
const debian = { version: '1.24', packages: ['golang-1.24-go/trixie', 'golang-1.24-src/trixie'] } as const;
/** From this version on, `go` replaces itself by the version that a go.mod asks for (https://go.dev/doc/toolchain). */
const switchesSince = [1, 21] as const;

/** How to call `go`, with its downloads and its build cache kept where the rest of the lab's is. */
export interface Go {
  readonly command: string;
  readonly env: Readonly<Record<string, string>>;
}

/** The machine's Go, or else Debian's, unpacked in the cache. Newer versions that a go.mod wants come by themselves. */
export async function needGo(progress: Progress): Promise<Go> {
  const folder = join(programsFolder(), 'go');
  const env = {
    // Machines may forbid it by GOTOOLCHAIN=local; then an older Go only says that it is too old.
    GOTOOLCHAIN: 'auto',
    GOCACHE: join(folder, 'build'),
    GOMODCACHE: join(folder, 'mod'),
    // Writable, so that deleting the cache is a plain `rm -r`.
    GOFLAGS: '-mod=readonly -modcacherw',
    GOWORK: 'off',
    CGO_ENABLED: '0',
  };
  await mkdir(folder, { recursive: true });
  if (switchesItself(await installedVersion())) return { command: 'go', env };
  return { command: await needDebianGo(progress), env };
}

async function installedVersion(): Promise<string> {
  try {
    return (await run('go', ['env', 'GOVERSION'])).stdout.trim();
  } catch {
    return '';
  }
}

/** Whether a Go of this version (`go1.26.8`) can replace itself by a newer one. */
export function switchesItself(version: string): boolean {
  const [, major = 0, minor = 0] = (/^go(\d+)\.(\d+)/.exec(version) ?? []).map(Number);
  return major > switchesSince[0] || (major === switchesSince[0] && minor >= switchesSince[1]);
}

async function needDebianGo(progress: Progress): Promise<string> {
  const target = join(programsFolder(), `debian-go-${debian.version}`);
  const command = join(target, `usr/lib/go-${debian.version}/bin/go`);
  if (await exists(command)) return command;
  await needPrograms(unpackPrograms, 'fetching Go', progress);
  const apt = new PrivateApt(cacheFolder(), progress);
  progress.step(`no Go on this machine that is new enough: fetching Debian's ${debian.version}`);
  await publish(target, async (folder) => {
    for (const deb of await apt.download(debian.packages, folder)) {
      await unpackDeb(deb, folder);
      await must('rm', [deb]);
    }
  });
  return command;
}
