import { Command, Option } from 'commander';
import { defaultAgentSocket } from '../agent/attach-protocol.ts';
import { defaultHolderSocket } from '../holder/protocol.ts';
import { type Finding, findings } from './doctor/findings.ts';
import { gatherNode } from './doctor/gather.ts';
import { table } from './table.ts';
import { forTerminal } from './terminal.ts';

interface DoctorOptions {
  readonly socket: string;
  readonly holder: string;
  readonly state: string;
  readonly binDir: string;
  readonly confDir: string;
  readonly cniMode?: 'file' | 'chain';
  readonly only?: readonly string[];
  readonly output: 'text' | 'json';
}

/** `ovpn-agent doctor`: what is wrong with this node. Ends with 1 when there is an error. */
export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Look at what this node needs, and say what is wrong with it; changes nothing.')
    .option('--socket <path>', "the agent's socket", defaultAgentSocket)
    .option('--holder <path>', 'socket of the socket holder, or `none` where there is none', defaultHolderSocket)
    .option('--state <folder>', "the agent's state folder", '/var/lib/ovpn-operator')
    .option('--bin-dir <folder>', "the runtime's folder of plugins", '/opt/cni/bin')
    .option('--conf-dir <folder>', "the runtime's folder of network configurations", '/etc/cni/net.d')
    .addOption(
      new Option('--cni-mode <mode>', 'how the plugin was installed: its file alone, or in the chain').choices([
        'file',
        'chain',
      ]),
    )
    .option('--only <checks...>', 'show these checks only')
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
    .action(async ({ binDir, confDir, only, output, ...paths }: DoctorOptions) => {
      const facts = await gatherNode({ ...paths, binFolder: binDir, confFolder: confDir });
      const found = findings(facts).filter(({ check }) => only === undefined || only.includes(check));
      process.stdout.write(
        output === 'json' ? `${JSON.stringify(found, undefined, 2)}\n` : forTerminal(doctorText(found)),
      );
      if (found.some(({ severity }) => severity === 'error')) process.exitCode = 1;
    });
}

const order: readonly Finding['severity'][] = ['error', 'warning', 'unchecked', 'ok'];

/** Findings for people: the worst first, and below the table what to do. */
export function doctorText(found: readonly Finding[]): string {
  const sorted = order.flatMap((severity) => found.filter((finding) => finding.severity === severity));
  const rows = sorted.map(({ severity, check, object, text }) => [severity.toUpperCase(), check, object, text]);
  const remedies = sorted.flatMap(({ object, check, remedy }) =>
    remedy === undefined ? [] : [`${check}, ${object}: to mend it: ${remedy}`],
  );
  const lines = table([['RESULT', 'CHECK', 'OBJECT', 'FOUND'], ...rows]);
  return `${[...lines, ...(remedies.length === 0 ? [] : ['', ...remedies])].join('\n')}\n`;
}
