import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { attempt, type Finished } from '../run.ts';
import type { KubeUser } from './kube-user.ts';

const root = join(import.meta.dirname, '../../..');
const built = join(root, 'dist/kubectl-ovpn');
const program =
  process.env['OVPN_PROGRAMS'] === 'dist' && existsSync(built) ? built : join(root, 'operator/src/cli/kubectl-ovpn.ts');

/** `kubectl ovpn` as somebody; an exit code other than 0 is a result. */
export function kubectlOvpn({ kubeconfig }: KubeUser, ...args: string[]): Promise<Finished> {
  return attempt(process.execPath, ['--no-warnings', program, ...args], { env: { KUBECONFIG: kubeconfig } });
}
