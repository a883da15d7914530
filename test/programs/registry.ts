import type { Progress } from '../lab/progress.ts';
import { type DebianPrograms, debianCommand, needDebianPrograms } from './debian.ts';

/** What people copy images with, and a registry to copy them to; with the libraries they are made for. */
const programs: DebianPrograms = {
  name: 'registry',
  packages: [
    ...['skopeo', 'docker-registry'],
    ...['libc6', 'libassuan9', 'libgpg-error0', 'libgpgme11t64', 'libsqlite3-0'],
  ].map((name) => `${name}/trixie`),
  test: 'test/kube/image.test.ts',
};

/** Sees to it that skopeo and docker-registry are there. @throws LabError when they cannot be fetched */
export function needRegistry(progress: Progress): Promise<void> {
  return needDebianPrograms(programs, progress);
}

/** The words that start one of them. @throws LabError when it is not there */
export function registryCommand(program: 'skopeo' | 'docker-registry'): [string, ...string[]] {
  return debianCommand(programs, `usr/bin/${program}`);
}
