import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import type { LabOptions } from './args.ts';
import { LabError } from './errors.ts';
import { runGuest } from './guest-process.ts';
import { withJob } from './job.ts';
import { kvmWorks } from './kvm.ts';
import { findVirtiofsd, qemuFolder } from './qemu-setup.ts';
import { toolsFolder } from './tools.ts';
import { kernelArgument } from './uml.ts';
import { withShares } from './virtiofs.ts';

const defaultMemory = 3072;
/**
 * How many times longer tests wait on emulated processors. These compute some fifteen times slower; time-outs of tests
 * are long already, for busy machines.
 */
const emulatedSlowness = 4;

/** Runs a job on Debian's stock kernel in QEMU. */
export async function runInQemu(cache: string, options: LabOptions): Promise<number> {
  const virtiofsd = await findVirtiofsd();
  if (virtiofsd === undefined)
    throw new LabError('virtiofsd is not on this machine', 'Run: npm run lab:setup -- --kernel qemu');
  const folder = qemuFolder(cache, options.series);
  const kernel = join(folder, 'vmlinuz');
  const kvm = await kvmWorks(cache, kernel);
  // Emulated CPUs take turns in one thread: in threads of their own, one of them now and then runs a stale
  // translation of kernel code that another just patched, and the guest panics ("Oops: int3" at boot).
  const accelerator = kvm ? ['-accel', 'kvm', '-cpu', 'host'] : ['-accel', 'tcg,thread=single', '-cpu', 'max'];
  const env = { ...(kvm ? {} : { LAB_SLOWNESS: String(emulatedSlowness) }), ...options.env };
  return withJob('qemu', { ...options, env }, async (job) => {
    const shares = [
      { tag: 'root', folder: '/' },
      { tag: 'cache', folder: cache },
      { tag: 'ctl', folder: job.control },
      { tag: 'results', folder: job.results },
    ];
    const settings = {
      LAB_QEMU: basename(folder),
      LAB_TOOLS: basename(toolsFolder(cache)),
      LAB_STDOUT: '/dev/vport0p1',
      LAB_STDERR: '/dev/vport0p2',
    };
    const append = [
      'console=ttyS0',
      'panic=-1',
      'rootfstype=virtiofs',
      'root=root',
      'ro',
      'mitigations=off',
      'init=/bin/sh',
      ...Object.entries(settings).map(([name, value]) => kernelArgument(name, value)),
      '--',
      join(job.control, 'init-qemu.sh'),
    ];
    const memory = options.memory ?? defaultMemory;
    const cpus = options.cpus ?? (kvm ? Math.min(2, availableParallelism()) : 1);
    return withShares(virtiofsd, shares, job.control, (devices) =>
      runGuest(
        'qemu-system-x86_64',
        [
          ...accelerator,
          ...['-machine', 'q35,memory-backend=memory', '-smp', String(cpus), '-m', String(memory)],
          // virtiofs servers read and write the guest's memory, so it has to be shared.
          ...['-object', `memory-backend-memfd,id=memory,size=${memory}M,share=on`],
          ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
          ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
          ...['-device', 'virtio-serial-pci', '-device', 'virtio-rng-pci'],
          ...['-chardev', 'socket,id=stdout,fd=3', '-device', 'virtserialport,nr=1,chardev=stdout'],
          ...['-chardev', 'socket,id=stderr,fd=4', '-device', 'virtserialport,nr=2,chardev=stderr'],
          ...devices,
          ...['-kernel', kernel, '-append', append.join(' ')],
        ],
        {},
        job,
      ),
    );
  });
}
