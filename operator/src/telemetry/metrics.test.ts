import { describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { createLog } from './log.ts';
import { type MetricSpec, metricTable } from './metric-table.ts';
import { seriesOf, testMetrics, valueOf } from './metrics.fixture.ts';
import { Metrics } from './metrics.ts';

const table = Object.entries(metricTable) as [string, MetricSpec][];

describe('the table of metrics', () => {
  test.each(table)('%s is named as Prometheus has it', (name, { type, labels, at }) => {
    expect(name).toMatch(/^ovpn_[a-z]+(_[a-z]+)*$/);
    expect(name.endsWith('_total')).toBe(type === 'counter');
    if (type === 'histogram') expect([name.endsWith('_seconds'), at]).toEqual([true, 'event']);
    for (const label of labels) expect(label).toMatch(/^[a-z]+$/);
  });
});

describe('metrics', () => {
  test('of the process leave it alone while nothing happens', () => {
    const script = `
      import { Metrics } from ${JSON.stringify(new URL('metrics.ts', import.meta.url).href)};
      import { createLog } from ${JSON.stringify(new URL('log.ts', import.meta.url).href)};
      import { setTimeout as sleep } from 'node:timers/promises';
      const metrics = new Metrics('agent', { version: '0', log: createLog({ level: 'silent' }) });
      const text = await metrics.text();
      await sleep(500);
      const before = process.resourceUsage().voluntaryContextSwitches;
      await sleep(2000);
      const wakeUps = process.resourceUsage().voluntaryContextSwitches - before;
      console.log(JSON.stringify({ wakeUps, names: text.match(/^nodejs_eventloop_lag\\w*(?= )/gm) }));`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--no-warnings', '--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect(stderr).toBe('');
    const { wakeUps, names } = JSON.parse(stdout) as { wakeUps: number; names: string[] };
    // A timer of 10 ms makes two hundred.
    expect(wakeUps).toBeLessThan(100);
    expect(names).toEqual(['nodejs_eventloop_lag_seconds']);
  });

  test('count, observe and sample into a registry of their own', async () => {
    const metrics = testMetrics('agent');
    const other = testMetrics('agent');
    metrics.increment('ovpn_status_writes_total', { result: 'written' });
    metrics.increment('ovpn_status_writes_total', { result: 'written' });
    metrics.observe('ovpn_attach_duration_seconds', { verb: 'add' }, 0.02);
    metrics.onScrape((sample) => sample('ovpn_network_peers', { network: 'corp' }, 7));
    const series = seriesOf(await metrics.text());
    expect(series.get('ovpn_build_info{version="0.0.0"}')).toBe(1);
    expect(series.get('ovpn_status_writes_total{result="written"}')).toBe(2);
    expect(series.get('ovpn_network_peers{network="corp"}')).toBe(7);
    expect(series.get('ovpn_attach_duration_seconds_bucket{le="0.01",verb="add"}')).toBe(0);
    expect(series.get('ovpn_attach_duration_seconds_bucket{le="0.025",verb="add"}')).toBe(1);
    expect(await valueOf(other, 'ovpn_status_writes_total{result="written"}')).toBe(0);
  });

  test('what is sampled is as it stands now, and gone when it is gone', async () => {
    const metrics = testMetrics('agent');
    let rx: number | undefined = 1000;
    metrics.onScrape((sample) => {
      const labels = { network: 'corp', namespace: 'default', peer: 'alice' };
      if (rx !== undefined) sample('ovpn_peer_vpn_received_bytes_total', labels, rx);
    });
    const series = 'ovpn_peer_vpn_received_bytes_total{network="corp",namespace="default",peer="alice"}';
    expect(await valueOf(metrics, series)).toBe(1000);
    expect(await valueOf(metrics, series)).toBe(1000);
    rx = 400;
    expect(await valueOf(metrics, series)).toBe(400);
    rx = undefined;
    expect(await metrics.text()).not.toContain('alice');
  });

  test('a program has its own metrics only', async () => {
    const text = await testMetrics('controller').text();
    expect(text).toContain('# TYPE ovpn_controller_leader gauge');
    expect(text).not.toContain('ovpn_peer_');
  });

  test('two scrapes at once have the same answer, and each is whole', async () => {
    const metrics = testMetrics('agent');
    let reads = 0;
    metrics.onScrape(() => (reads += 1));
    const [one, two] = await Promise.all([metrics.text(), metrics.text()]);
    expect(one).toBe(two);
    expect(reads).toBe(1);
    await metrics.text();
    expect(reads).toBe(2);
  });

  test('a reader that fails is logged, and takes nothing else along', async () => {
    const lines: string[] = [];
    const log = createLog({ to: { write: (line: string) => void lines.push(line) } });
    const metrics = new Metrics('agent', { version: '1.2.3', log });
    metrics.onScrape(() => {
      throw new Error('broken');
    });
    metrics.onScrape((sample) => sample('ovpn_network_peers', { network: 'corp' }, 7));
    const series = seriesOf(await metrics.text());
    expect(series.get('ovpn_network_peers{network="corp"}')).toBe(7);
    expect(series.has('process_cpu_seconds_total')).toBe(true);
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ event: 'metrics.defect', error: 'broken' });
  });
});
