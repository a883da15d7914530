import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder, cacheKey } from '../lab/cache.ts';
import { LabError } from '../lab/errors.ts';
import { type Program, type ProgramName, programs, versionIn } from './programs.ts';

/** Where the Go programs of the tests are. */

/** All that concerns Go programs in the cache; it has a lock of its own. */
export function programsFolder(): string {
  return join(cacheFolder(), 'programs');
}

/** The folder of a program's go.mod. */
export function moduleFolder({ folder }: Program): string {
  return join(import.meta.dirname, folder);
}

/** The version of a program, by the go.mod that it is built from. */
export function versionOf(program: Program): string {
  const version = versionIn(readFileSync(join(moduleFolder(program), 'go.mod'), 'utf8'), program.module);
  if (version === undefined) throw new Error(`${moduleFolder(program)}/go.mod does not require ${program.module}`);
  return version;
}

/** The flags of `go build` for a program: small, and the same bytes wherever it is built. */
export function buildFlags(program: Program): string[] {
  const stamp = program.stamp === undefined ? '' : ` -X ${program.stamp}=${versionOf(program)}`;
  return ['-trimpath', '-ldflags', `-s -w${stamp}`];
}

/** The path of a program in the cache, whether it is built or not. Another version or flag is another path. */
export function cachedPath(name: ProgramName): string {
  const program = programs[name];
  const read = (file: string): string => readFileSync(join(moduleFolder(program), file), 'utf8');
  const inputs = { mod: read('go.mod'), sum: read('go.sum'), package: program.package, arch: process.arch };
  const key = cacheKey({ ...inputs, flags: buildFlags(program).join(' ') });
  return join(programsFolder(), `${name}-${versionOf(program)}-${key}`, name);
}

/** What the folder of the field's convention holds of a program: prebuilt control planes need not be built. */
export function providedPath(name: ProgramName, env: NodeJS.ProcessEnv = process.env): string | undefined {
  const folder = env['KUBEBUILDER_ASSETS'];
  if (folder === undefined || folder === '') return undefined;
  const path = join(folder, name);
  return existsSync(path) ? path : undefined;
}

/** The path of a program that is there: the provided one, else the built one. @throws LabError */
export function programPath(name: ProgramName): string {
  const path = providedPath(name) ?? cachedPath(name);
  if (existsSync(path)) return path;
  throw new LabError(`${name} is not built (looked for ${path})`, `Run: npm run programs -- ${name}`);
}
