import { Command } from 'commander';
import { connect, connectionOptions } from './connection.ts';
import { clusterFindings } from './doctor/findings.ts';
import { gatherCluster } from './doctor/gather.ts';
import { clusterDoctorText } from './doctor/text.ts';
import { type OutputFormat, outputOption, render } from './output.ts';
import { notFound } from './read.ts';

interface DoctorOptions {
  readonly node?: string;
  readonly output: OutputFormat;
}

/** `kubectl ovpn doctor`: what is wrong with the operator in a cluster. Ends with 1 when there is an error. */
export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Look at the operator, the networks and the nodes, and say what is wrong with them; changes nothing.')
    .option('--node <name>', 'look at this node only, besides what is not of any node')
    .addOption(outputOption())
    .action(async ({ node, output }: DoctorOptions, command: Command) => {
      const cluster = await connect(connectionOptions(command));
      try {
        const facts = await gatherCluster(cluster, node);
        if (node !== undefined && 'known' in facts.nodes && facts.nodes.known.length === 0)
          throw notFound({ kind: 'Node', name: node }, []);
        const found = clusterFindings(facts).filter(
          (finding) => node === undefined || finding.node === undefined || finding.node === node,
        );
        process.stdout.write(render(found, output, (wide) => clusterDoctorText(found, wide)));
        if (found.some(({ severity }) => severity === 'error')) process.exitCode = 1;
      } finally {
        cluster.client.close();
      }
    });
}
