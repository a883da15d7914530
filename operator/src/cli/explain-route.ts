import { Command, Option } from 'commander';
import { defaultAgentSocket } from '../agent/attach-protocol.ts';
import { gatherRoute, type Origin } from '../agent/explain/gather.ts';
import { explain } from '../agent/explain/steps.ts';
import type { NodeReport } from '../agent/report.ts';
import { parseAddress } from '../api/ip.ts';
import { OvpnError } from '../errors.ts';
import { requirePrivileges } from '../kernel/privileges.ts';
import { callReport } from './agent-call.ts';
import { explanationText } from './explanation-text.ts';
import { forTerminal } from './terminal.ts';

interface ExplainOptions {
  readonly pod?: string;
  readonly netns?: string;
  readonly network?: string;
  readonly from?: string;
  readonly socket: string;
  readonly output: 'text' | 'json';
}

/** `ovpn-agent explain-route`: which way a packet takes on this node, and where it stops. Ends with 1 when it stops. */
export function explainRouteCommand(): Command {
  return new Command('explain-route')
    .description('Show which way a packet takes on this node, step by step, and where it stops.')
    .argument('<address>', 'IP address that the packet goes to')
    .option('--pod <namespace/name>', 'from this pod')
    .option('--netns <path>', 'from the pod that has this network namespace')
    .option('--network <name>', 'from inside this VpnNetwork; with --from')
    .option('--from <address>', 'source address of the packet, with --network')
    .option('--socket <path>', "the agent's socket", defaultAgentSocket)
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
    .action(async (destination: string, options: ExplainOptions) => {
      const origin = parseOrigin(options);
      const address = checkedAddress('the destination', destination);
      requirePrivileges();
      // The agent of this node is the same version as this program, or refuses by its protocol number.
      const report = (await callReport(options.socket)) as NodeReport;
      const explanation = explain(gatherRoute(report, origin, address));
      process.stdout.write(
        options.output === 'json'
          ? `${JSON.stringify(explanation, undefined, 2)}\n`
          : forTerminal(explanationText(explanation)),
      );
      if (!explanation.reaches) process.exitCode = 1;
    });
}

function parseOrigin({ pod, netns, network, from }: ExplainOptions): Origin {
  if ([pod, netns, network].filter((each) => each !== undefined).length !== 1) {
    throw new OvpnError('ConfigInvalid', 'one of --pod, --netns and --network must be given, and only one');
  }
  if ((network === undefined) !== (from === undefined)) {
    throw new OvpnError('ConfigInvalid', '--network and --from go together');
  }
  if (pod !== undefined) {
    if (!/^[^/]+\/[^/]+$/.test(pod)) {
      throw new OvpnError('ConfigInvalid', `${JSON.stringify(pod)} is no namespace/name`, { field: '--pod' });
    }
    return { kind: 'pod', name: pod };
  }
  if (netns !== undefined) return { kind: 'netns', path: netns };
  return { kind: 'network', name: network ?? '', from: checkedAddress('--from', from ?? '') };
}

function checkedAddress(what: string, text: string): string {
  const address = parseAddress(text);
  if (address === undefined) {
    throw new OvpnError('ConfigInvalid', `${what} is no IP address: ${JSON.stringify(text)}`);
  }
  return address.text;
}
