import { constants } from 'node:fs';
import { access, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './run.ts';

/**
 * Whether KVM really runs a guest here: /dev/kvm may exist and still not work (nested virtual machines,
 * containers). Boots the kernel until its first words, once per boot of this machine.
 */
export async function kvmWorks(cache: string, kernel: string): Promise<boolean> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return false;
  }
  const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const file = join(cache, 'kvm-probe');
  const known = await readFile(file, 'utf8').catch(() => '');
  if (known.startsWith(boot)) return known.includes('works');
  const machine = ['-accel', 'kvm', '-cpu', 'host', '-m', '256', '-nodefaults', '-no-user-config', '-display', 'none'];
  const boots = ['-serial', 'stdio', '-no-reboot', '-kernel', kernel, '-append', 'console=ttyS0 panic=-1'];
  // Without a root file system the kernel panics at once, and QEMU ends.
  const probe = await run('qemu-system-x86_64', [...machine, ...boots], { timeout: 15_000 });
  const works = probe.stdout.includes('Linux version') && probe.stdout.includes('Kernel panic');
  await writeFile(file, `${boot} ${works ? 'works' : 'fails'}\n`);
  return works;
}
