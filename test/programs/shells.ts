import type { Progress } from '../lab/progress.ts';
import { type DebianPrograms, debianCommand, debianPath, needDebianPrograms } from './debian.ts';

/** The shells that complete by a script of ours and that a machine need not have, with the libraries they are made for. */
const shells: DebianPrograms = {
  name: 'shells',
  packages: [
    ...['zsh', 'zsh-common', 'fish', 'fish-common'],
    ...['libc6', 'libcap2', 'libgcc-s1', 'libpcre2-32-0', 'libpcre2-8-0', 'libtinfo6'],
  ].map((name) => `${name}/trixie`),
  test: 'test/kube/kubectl-ovpn.test.ts',
};

/** Sees to it that zsh and fish are there. @throws LabError when they cannot be fetched */
export function needShells(progress: Progress): Promise<void> {
  return needDebianPrograms(shells, progress);
}

/** The folder that is to the shells what `/` is elsewhere. @throws LabError when it is not there */
export function shellsRoot(): string {
  return debianPath(shells, '.');
}

/** The words that start a shell. @throws LabError when it is not there */
export function shellCommand(shell: 'zsh' | 'fish'): [string, ...string[]] {
  return debianCommand(shells, `usr/bin/${shell}`);
}
