import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exists } from './cache.ts';
import { LabError } from './errors.ts';
import { lastLines, run, tied } from './run.ts';

/** A host folder that a guest can mount by its tag. */
export interface Share {
  tag: string;
  folder: string;
}

/** Arguments of virtiofsd, for the program in C (QEMU before 8) or its successor in Rust. */
export function virtiofsdArguments(rust: boolean, share: Share, socket: string, root: boolean): string[] {
  if (rust) {
    const sandbox = root ? 'chroot' : 'none';
    return [`--socket-path=${socket}`, `--shared-dir=${share.folder}`, '--cache=always', `--sandbox=${sandbox}`];
  }
  return [`--socket-path=${socket}`, '-o', `source=${share.folder}`, '-o', 'cache=always', '-o', 'sandbox=chroot'];
}

/** The QEMU arguments for a share whose virtiofsd listens on a socket. */
export function shareDevice(share: Share, socket: string): string[] {
  return [
    '-chardev',
    `socket,id=fs-${share.tag},path=${socket}`,
    '-device',
    `vhost-user-fs-pci,chardev=fs-${share.tag},tag=${share.tag},queue-size=1024`,
  ];
}

/** Serves folders to one guest while `work` runs; `work` gets the QEMU arguments for them. */
export async function withShares<T>(
  virtiofsd: string,
  shares: readonly Share[],
  sockets: string,
  work: (qemuArguments: string[]) => Promise<T>,
): Promise<T> {
  const help = await run(virtiofsd, ['--help']);
  const rust = (help.stdout + help.stderr).includes('--shared-dir');
  const servers: ChildProcess[] = [];
  try {
    const devices: string[] = [];
    for (const share of shares) {
      const socket = join(sockets, `${share.tag}.sock`);
      servers.push(await serve(virtiofsd, virtiofsdArguments(rust, share, socket, process.getuid?.() === 0), socket));
      devices.push(...shareDevice(share, socket));
    }
    return await work(devices);
  } finally {
    // They end by themselves when the guest does; this is for a guest that never connected.
    for (const server of servers) server.kill('SIGKILL');
  }
}

async function serve(virtiofsd: string, args: readonly string[], socket: string): Promise<ChildProcess> {
  const server = spawn(...tied(virtiofsd, args, 'KILL'), { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [server.stdout, server.stderr])
    stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  let ended: Error | undefined;
  server.on('error', (error) => (ended = error));
  for (let waited = 0; waited < 5000 && ended === undefined && server.exitCode === null; waited += 10) {
    if (await exists(socket)) return server;
    await sleep(10);
  }
  server.kill('SIGKILL');
  throw new LabError(
    `${virtiofsd} does not serve the host's files to the guest: ${ended?.message ?? lastLines(output, 5)}`,
    'It needs root (or the newer virtiofsd written in Rust). Use --kernel uml, which needs neither.',
  );
}
