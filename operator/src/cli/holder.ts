import { Command } from 'commander';
import { defaultHolderSocket } from '../holder/protocol.ts';

/** `ovpn-agent holder`: keeps transport sockets while the agent is away. */
export function holderCommand(): Command {
  return new Command('holder')
    .description('Keep the transport sockets, so that tunnels outlive a restart of the agent.')
    .option('--socket <path>', 'where the agent reaches the holder', defaultHolderSocket)
    .action(async ({ socket }: { socket: string }) => {
      const { refuseCoreDumps } = await import('../kernel/libc.ts');
      const { runHolder } = await import('../holder/server.ts');
      refuseCoreDumps();
      runHolder(socket, (event, fields) => {
        process.stderr.write(
          `${JSON.stringify({ time: new Date().toISOString(), level: 'info', event, ...fields })}\n`,
        );
      });
    });
}
