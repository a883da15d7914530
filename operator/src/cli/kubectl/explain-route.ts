import { Command, Option } from 'commander';
import type { Explanation, Step } from '../../agent/explain/steps.ts';
import { asRecord } from '../../cluster/json.ts';
import { OvpnError } from '../../errors.ts';
import { explanationText } from '../explanation-text.ts';
import { type Cluster, connect, connectionOptions } from './connection.ts';
import { addressOf, parseDestination } from './destination.ts';
import { agentOf, askForJson, operatorPods } from './operator-pods.ts';
import { render } from './output.ts';
import { getRaw, namesOf, notFound } from './read.ts';

interface ExplainOptions {
  readonly output: 'text' | 'json' | 'yaml';
}

/** `kubectl ovpn explain-route`: which way a packet of a pod takes. Ends with 1 when it does not get through. */
export function explainRouteCommand(): Command {
  return new Command('explain-route')
    .description('Show which way a packet of a pod takes, step by step, and where it stops.')
    .argument('<pod>', 'the pod that sends it')
    .argument('<destination>', 'IP address that it goes to, svc/NAME or vpnpeer/NAME')
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json', 'yaml']).default('text'))
    .action(async (name: string, destination: string, { output }: ExplainOptions, command: Command) => {
      const parsed = parseDestination(destination);
      const cluster = await connect(connectionOptions(command));
      try {
        const pod = podName(name);
        const address = await addressOf(cluster, parsed);
        const { node, explanation } = await explainFrom(cluster, pod, address);
        const found = { pod: `${cluster.namespace}/${pod}`, node, ...explanation };
        process.stdout.write(render(found, output, () => `on node ${node}:\n${explanationText(explanation)}`));
        if (!explanation.reaches) process.exitCode = 1;
      } finally {
        cluster.client.close();
      }
    });
}

/** Has the agent of a pod's node follow a packet. @throws OvpnError */
export async function explainFrom(
  cluster: Cluster,
  name: string,
  address: string,
): Promise<{ readonly node: string; readonly explanation: Explanation }> {
  const { namespace } = cluster;
  const pod = await getRaw(cluster, 'Pod', { namespace, name });
  if (pod === undefined) throw notFound({ kind: 'Pod', namespace, name }, await namesOf(cluster, 'Pod', namespace));
  const node = nodeOf(pod, `Pod ${namespace}/${name}`);
  const agent = agentOf(await operatorPods(cluster), node, cluster.operatorNamespace);
  const answer = await askForJson(cluster, agent, [
    'explain-route',
    address,
    '--pod',
    `${namespace}/${name}`,
    '-o',
    'json',
  ]);
  const explanation = parseExplanation(answer);
  if (explanation !== undefined) return { node, explanation };
  throw new OvpnError('ExecFailed', 'its answer is no explanation of a route', {
    object: `Pod ${agent.namespace}/${agent.name}`,
  });
}

/** `shop` or, as kubectl also takes it, `pod/shop`. */
function podName(text: string): string {
  const name = text.replace(/^pods?\//, '');
  if (name !== '' && !name.includes('/')) return name;
  throw new OvpnError(
    'ConfigInvalid',
    `${JSON.stringify(text)} is no name of a pod`,
    {},
    {
      remedy: 'give the name of a pod, and its namespace with -n',
    },
  );
}

/** The node of a pod that has a network of its own. @throws OvpnError PodUnsuitable */
export function nodeOf(pod: unknown, object: string): string {
  const { spec, status } = asRecord(pod) ?? {};
  const { nodeName, hostNetwork } = asRecord(spec) ?? {};
  const { phase } = asRecord(status) ?? {};
  if (hostNetwork === true) {
    const remedy = 'ask for a pod with a network of its own: pods on the network of the node see no route of a VPN';
    throw new OvpnError('PodUnsuitable', 'is on the network of its node (hostNetwork)', { object }, { remedy });
  }
  if (typeof nodeName !== 'string') {
    const remedy = `see by kubectl describe why it is not placed`;
    throw new OvpnError('PodUnsuitable', 'is on no node yet', { object }, { remedy });
  }
  if (phase === 'Succeeded' || phase === 'Failed') {
    throw new OvpnError('PodUnsuitable', `has ended (${phase})`, { object });
  }
  return nodeName;
}

/** The answer of an agent; undefined when it is none. */
export function parseExplanation(value: unknown): Explanation | undefined {
  const { destination, reaches, steps } = asRecord(value) ?? {};
  if (typeof destination !== 'string' || typeof reaches !== 'boolean' || !Array.isArray(steps)) return undefined;
  const parsed = (steps as unknown[]).map(parseStep);
  return parsed.includes(undefined)
    ? undefined
    : { destination, reaches, steps: parsed.filter((step) => step !== undefined) };
}

function parseStep(value: unknown): Step | undefined {
  const { result, object, text, remedy } = asRecord(value) ?? {};
  if (result !== 'ok' && result !== 'warn' && result !== 'stop') return undefined;
  if (typeof object !== 'string' || typeof text !== 'string') return undefined;
  return { result, object, text, ...(typeof remedy === 'string' ? { remedy } : {}) };
}
