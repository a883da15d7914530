import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { exists } from './cache.ts';
import { LabError } from './errors.ts';
import { type PoolFile, suites } from './packages.ts';
import type { Progress } from './progress.ts';
import { lastLines, must, run } from './run.ts';

/** Where Debian is when the machine's own sources name no Debian mirror. */
const fallbackMirror = 'http://deb.debian.org/debian';
const keyrings = ['/usr/share/keyrings/debian-archive-keyring.gpg', '/usr/share/keyrings/debian-archive-keyring.pgp'];
/** The part of apt that downloads single files. */
const aptHelper = '/usr/lib/apt/apt-helper';
/** Package indexes older than this are fetched again before a download. */
const indexLifetime = 24 * 3600 * 1000;

/**
 * Finds the Debian mirror in the output of
 * `apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)'`.
 */
export function mirrorFrom(targets: string): string | undefined {
  for (const line of targets.split('\n')) {
    const [origin, label, uri] = line.split('|');
    if (uri === undefined || !/^https?:|^file:|^mirror/.test(uri)) continue;
    // A machine that never ran `apt-get update` knows no origins yet; then the path has to tell.
    const debian = origin === 'Debian' ? label === 'Debian' : /\/debian\/?$/.test(uri);
    if (debian) return uri.replace(/\/$/, '');
  }
  return undefined;
}

/** The sources list of the private apt. */
export function sourcesList(mirror: string, keyring: string): string {
  return suites
    .map(({ name, alwaysFresh }) => {
      const options = [`signed-by=${keyring}`, ...(alwaysFresh ? [] : ['check-valid-until=no'])];
      return `deb [${options.join(' ')}] ${mirror} ${name} main\n`;
    })
    .join('');
}

/** Keeps the machine's way to the network (proxies, retries) out of `apt-config dump`. */
export function networkSettings(dump: string): string {
  return dump
    .split('\n')
    .filter((line) => /^Acquire::(https?(::|\s)|ftp::|Retries|ForceIPv[46])/.test(line))
    .map((line) => `${line}\n`)
    .join('');
}

/**
 * An apt of the lab's own: its sources, indexes and downloads live in the cache, and it believes that
 * nothing is installed. It never installs anything; packages are unpacked into private folders.
 */
export class PrivateApt {
  readonly #folder: string;
  readonly #progress: Progress;
  readonly #architecture: string | undefined;
  #ready = false;

  /** @param architecture Debian's name of one that is not the machine's own */
  constructor(cache: string, progress: Progress, architecture?: string) {
    this.#folder = join(cache, architecture === undefined ? 'apt' : `apt-${architecture}`);
    this.#progress = progress;
    this.#architecture = architecture;
  }

  #run(program: string, args: readonly string[], cwd = this.#folder): ReturnType<typeof run> {
    return run(program, args, { cwd, env: { APT_CONFIG: join(this.#folder, 'apt.conf'), LC_ALL: 'C' } });
  }

  async #configure(mirror: string, keyring: string): Promise<void> {
    const at = (...parts: string[]): string => join(this.#folder, ...parts);
    for (const folder of [
      'state/lists/partial',
      'cache/archives/partial',
      'etc/preferences.d',
      'etc/apt.conf.d',
      'etc/trusted.gpg.d',
    ])
      await mkdir(at(folder), { recursive: true });
    const machine = await run('apt-config', ['dump']);
    const settings: (readonly [string, string])[] = [
      ['Dir::State', at('state')],
      ['Dir::State::status', at('state/status')],
      ['Dir::Cache', at('cache')],
      ['Dir::Etc', at('etc')],
      ['Dir::Etc::sourcelist', at('sources.list')],
      ['Dir::Etc::sourceparts', '-'],
      ['Dir::Etc::netrc', '/etc/apt/auth.conf'],
      ['Dir::Etc::netrcparts', '/etc/apt/auth.conf.d'],
      ['Acquire::Languages', 'none'],
      // apt's own download user cannot enter a person's cache folder; without this it warns and does the same.
      ['APT::Sandbox::User', ''],
      ...(this.#architecture === undefined
        ? []
        : ([
            ['APT::Architecture', this.#architecture],
            ['APT::Architectures', this.#architecture],
          ] as const)),
    ];
    await writeFile(
      at('apt.conf'),
      networkSettings(machine.stdout) + settings.map(([k, v]) => `${k} "${v}";\n`).join(''),
    );
    await writeFile(at('state/status'), '');
    await writeFile(at('sources.list'), sourcesList(mirror, keyring));
    await writeFile(
      at('etc/preferences'),
      suites.map(({ name, priority }) => `Package: *\nPin: release n=${name}\nPin-Priority: ${priority}\n`).join('\n'),
    );
  }

  /** Reads the package indexes unless that was done a short while ago. */
  async prepare(): Promise<void> {
    if (this.#ready) return;
    if (!(await this.#isFresh())) await this.#update();
    this.#ready = true;
  }

  async #isFresh(): Promise<boolean> {
    const stamp = join(this.#folder, 'updated');
    return (await exists(stamp)) && Date.now() - (await stat(stamp)).mtimeMs < indexLifetime;
  }

  async #update(): Promise<void> {
    const mirror = await this.#mirror();
    this.#progress.step(`reading the package indexes of ${suites.map((s) => s.name).join(', ')} from ${mirror}`);
    const keyring = await this.#keyring();
    await this.#configure(mirror, keyring);
    let update = await this.#run('apt-get', ['update', '--error-on=any']);
    if (update.code !== 0 && /NO_PUBKEY|not available/.test(update.stderr)) {
      // The machine is older than trixie's signing key. Its keyring can still vouch for the keyring
      // package of its own release, and that one knows the newer keys.
      await this.#configure(mirror, await this.#newerKeyring());
      update = await this.#run('apt-get', ['update', '--error-on=any']);
    }
    if (update.code !== 0) {
      throw new LabError(
        `apt could not read the package indexes from ${mirror}:\n${lastLines(update.stderr, 6)}`,
        'Is the network there, and does this mirror carry trixie, trixie-backports and sid? Another mirror: set OVPN_LAB_MIRROR.',
      );
    }
    await writeFile(join(this.#folder, 'updated'), '');
  }

  async #mirror(): Promise<string> {
    const own = process.env['OVPN_LAB_MIRROR'];
    if (own !== undefined && own !== '') return own.replace(/\/$/, '');
    const format = '$(ORIGIN)|$(LABEL)|$(REPO_URI)';
    const targets = await run('apt-get', ['indextargets', '--format', format, 'Identifier: Packages']);
    return mirrorFrom(targets.stdout) ?? fallbackMirror;
  }

  async #keyring(): Promise<string> {
    for (const keyring of keyrings) if (await exists(keyring)) return keyring;
    throw new LabError(
      `Debian's archive keys are not on this machine (looked for ${keyrings.join(', ')})`,
      'Install the package debian-archive-keyring (Debian and Ubuntu have it).',
    );
  }

  async #newerKeyring(): Promise<string> {
    const folder = join(this.#folder, 'keyring');
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    // With the machine's own configuration: authenticated by what the machine already trusts.
    await must('apt-get', ['download', 'debian-archive-keyring'], { cwd: folder });
    const deb = (await readdir(folder)).find((name) => name.endsWith('.deb')) ?? '';
    await must('dpkg-deb', ['-x', deb, '.'], { cwd: folder });
    for (const keyring of keyrings) if (await exists(join(folder, keyring))) return join(folder, keyring);
    throw new LabError('the package debian-archive-keyring holds no keyring where one was expected', '');
  }

  /** The names of all packages that match a regular expression. */
  async search(pattern: RegExp): Promise<string[]> {
    await this.prepare();
    const names = (await this.#run('apt-cache', ['pkgnames', 'linux-'])).stdout.split('\n');
    return names.filter((name) => pattern.test(name));
  }

  /** Downloads packages (`name` or `name/suite`) into a folder; returns the files. */
  async download(packages: readonly string[], folder: string): Promise<string[]> {
    await this.prepare();
    return this.#fetch(['download', ...packages], folder, folder);
  }

  /** Downloads files of the mirror that no index names any more, each with the digest it has to have. */
  async downloadFiles(files: readonly PoolFile[], folder: string): Promise<string[]> {
    await this.prepare();
    const mirror = await this.#mirror();
    const targets: string[] = [];
    for (const { path, sha256 } of files) {
      const target = join(folder, basename(path));
      const done = await this.#run(aptHelper, ['download-file', `${mirror}/${path}`, target, `SHA256:${sha256}`]);
      if (done.code !== 0) {
        throw new LabError(
          `apt could not download ${path} from ${mirror}, or it is another file than it was:\n${lastLines(done.stderr, 4)}`,
          'A mirror that keeps older packages: set OVPN_LAB_MIRROR. Where none has it, this kernel cannot be had any more.',
        );
      }
      targets.push(target);
    }
    return targets;
  }

  /** Downloads packages and everything they depend on into a folder; returns the files. */
  async downloadWithNeeds(packages: readonly string[], folder: string): Promise<string[]> {
    await this.prepare();
    await mkdir(join(folder, 'partial'), { recursive: true });
    const how = ['--download-only', '--yes', '--no-install-recommends', '-o', `Dir::Cache::archives=${folder}`];
    return this.#fetch(['install', ...how, ...packages], this.#folder, folder);
  }

  async #fetch(args: readonly string[], cwd: string, folder: string): Promise<string[]> {
    const done = await this.#run('apt-get', ['-q', ...args], cwd);
    if (done.code !== 0) {
      // Perhaps the mirror has moved on since the indexes were read: read them anew next time.
      await rm(join(this.#folder, 'updated'), { force: true });
      throw new LabError(
        `apt could not download packages for the lab:\n${lastLines(done.stderr, 8)}`,
        'Run the same command again; it reads the package indexes anew.',
      );
    }
    const files = (await readdir(folder)).filter((name) => name.endsWith('.deb'));
    return files.sort().map((name) => join(folder, name));
  }
}
