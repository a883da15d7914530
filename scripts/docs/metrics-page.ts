import { type MetricSpec, metricTable } from '../../operator/src/telemetry/metric-table.ts';
import { cellText, markdownTable, pageHead } from './markdown.ts';

/** What metrics are about, by the beginning of their names. What fits none stands under the last. */
const sections: readonly (readonly [title: string, names: RegExp])[] = [
  ['Networks', /^ovpn_network_/],
  ['Peers', /^ovpn_peer_/],
  ['Handshakes', /^ovpn_(handshake|control_packets)/],
  ['Rounds and attachments', /^ovpn_(reconcile|attach)_/],
  ['Kernel', /^ovpn_(kernel|netlink)_/],
  ['API server', /^ovpn_(status_writes|watch)_/],
  ['Controller', /^ovpn_(controller|certificate|crl)_/],
  ['Others', /^/],
];

/** docs/reference/metrics.md: the table of metrics. */
export function metricsPage(): string {
  const left = new Map<string, MetricSpec>(Object.entries(metricTable));
  const parts = sections.map(([title, names]) => {
    const own = [...left].filter(([name]) => names.test(name));
    for (const [name] of own) left.delete(name);
    const rows = own.map(([name, { type, labels, of, help }]) => [
      `\`${name}\``,
      type,
      labels.join(', '),
      of.join(', '),
      cellText(help),
    ]);
    if (rows.length === 0) return '';
    return `\n## ${title}\n\n${markdownTable(['Metric', 'Type', 'Labels', 'Of', 'What it says'], rows)}`;
  });
  const words =
    'What the agent and the controller count. Metrics of the process (`process_…`) and of Node.js (`nodejs_…`) come along. [Metrics](../metrics.md) says how to get them and what to know about them.';
  return pageHead('Metrics, one by one', 'operator/src/telemetry/metric-table.ts', words) + parts.join('');
}
