import { beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { type MetricSpec, metricTable } from '../../operator/src/telemetry/metric-table.ts';
import { testMetrics } from '../../operator/src/telemetry/metrics.fixture.ts';
import { screenProgress } from '../lab/progress.ts';
import { needPromtool, promtoolPath } from '../programs/promtool.ts';

/** Metrics, alerts and dashboard as Prometheus judges them. */

const files = join(import.meta.dirname, '../../charts/ovpn-operator/files');
const alertsText = readFileSync(join(files, 'alerts.yaml'), 'utf8');
const testsText = readFileSync(join(import.meta.dirname, 'alerts.test.yaml'), 'utf8');
const dashboardText = readFileSync(join(files, 'dashboard.json'), 'utf8');

interface Rule {
  readonly alert: string;
  readonly expr: string;
}
const rules = (parse(alertsText) as { groups: { rules: Rule[] }[] }).groups.flatMap((group) => group.rules);

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly type: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly refId: string; readonly expr: string }[];
}
const { panels, templating } = JSON.parse(dashboardText) as {
  panels: readonly Panel[];
  templating: { list: readonly { name: string }[] };
};
const queries = panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));

beforeAll(() => needPromtool(screenProgress('promtool')));

/** Runs promtool in a folder with these files. */
async function promtool(
  args: readonly string[],
  { texts = {}, input = '' }: { readonly texts?: Readonly<Record<string, string>>; readonly input?: string },
): Promise<{ readonly ok: boolean; readonly output: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-promtool-'));
  try {
    for (const [name, text] of Object.entries(texts)) writeFileSync(join(folder, name), text);
    return await new Promise((resolve) => {
      const child = execFile(promtoolPath(), args, { cwd: folder, timeout: 60_000 }, (error, stdout, stderr) =>
        resolve({ ok: error === null, output: stdout + stderr }),
      );
      child.stdin?.end(input);
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe('the alerts', () => {
  const texts = { 'alerts.yaml': alertsText, 'alerts.test.yaml': testsText };

  test('are rules that Prometheus takes', async () => {
    expect(await promtool(['check', 'rules', 'alerts.yaml'], { texts })).toMatchObject({ ok: true });
  });

  test('fire where they have to, and nowhere else', async () => {
    const { ok, output } = await promtool(['test', 'rules', 'alerts.test.yaml'], { texts });
    expect({ ok, output }).toMatchObject({ ok: true });
  });

  test.each(rules)('$alert has a case, and one that notices when it never fires', async ({ alert }) => {
    const silent = alertsText.replace(new RegExp(`(alert: ${alert}\\n\\s+expr: )`), '$1vector(1) < 0 and ');
    // A folded expression keeps its own marker first.
    const broken = silent.replace('vector(1) < 0 and >-\n', '>-\n          vector(1) < 0 and on () ');
    expect(broken).not.toBe(alertsText);
    const given = { texts: { ...texts, 'alerts.yaml': broken } };
    expect(await promtool(['check', 'rules', 'alerts.yaml'], given)).toMatchObject({ ok: true });
    const { ok, output } = await promtool(['test', 'rules', 'alerts.test.yaml'], given);
    expect(ok).toBe(false);
    expect(output).toContain(alert);
  });
});

/** Metrics that the table does not have: of Prometheus itself. */
const foreign = new Set(['up']);
const suffixes: Readonly<Record<string, readonly string[]>> = { histogram: ['_bucket', '_sum', '_count'] };
const known = new Set(
  (Object.entries(metricTable) as [string, MetricSpec][]).flatMap(([name, { type }]) =>
    (suffixes[type] ?? ['']).map((suffix) => name + suffix),
  ),
);

/** The metrics of a query: names before a selector, a range or an operator, and not those of labels and functions. */
function metricsIn(query: string): string[] {
  const bare = query.replaceAll(/"[^"]*"/g, '""').replaceAll(/\b(by|on|without|ignoring)\s*\([^)]*\)/g, '');
  return [...bare.matchAll(/\bovpn_\w+|\bup\b/g)].map(([name]) => name);
}

test.each([
  ...rules.map(({ alert, expr }) => [alert, expr] as const),
  ...queries.map(({ title, expr }) => [`dashboard: ${title}`, expr] as const),
])('%s asks for metrics that there are', (_, expr) => {
  const asked = metricsIn(expr);
  expect(asked).not.toEqual([]);
  expect(asked.filter((name) => !known.has(name) && !foreign.has(name))).toEqual([]);
});

describe('the dashboard', () => {
  test('asks what Prometheus can parse', async () => {
    const groups = [
      {
        name: 'dashboard',
        rules: queries.map(({ expr }, i) => ({
          record: `dashboard:query:${i}`,
          expr: expr.replaceAll('$__rate_interval', '5m').replaceAll(/\$(network|namespace)\b/g, '.*'),
        })),
      },
    ];
    const { ok, output } = await promtool(['check', 'rules', 'dashboard.yaml'], {
      texts: { 'dashboard.yaml': JSON.stringify({ groups }) },
    });
    expect({ ok, output }).toMatchObject({ ok: true });
    expect(queries.length).toBeGreaterThan(15);
  });

  test('has panels with ids of their own that do not lie on each other', () => {
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    for (const { title, gridPos } of panels) expect([title, gridPos.x + gridPos.w <= 24]).toEqual([title, true]);
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, i) => `${x + (i % w)}/${y + Math.floor(i / w)}`),
    );
    expect(new Set(cells).size).toBe(cells.length);
    for (const { type, title, targets = [] } of panels)
      if (type !== 'row') expect([title, targets.length > 0]).toEqual([title, true]);
  });

  test('uses no variable that it does not have', () => {
    const names = new Set(templating.list.map(({ name }) => name));
    const used = [...dashboardText.matchAll(/\$\{?([a-z]\w*)/g)].map(([, name = '']) => name);
    expect(used.filter((name) => !names.has(name))).toEqual([]);
    expect(used.length).toBeGreaterThan(queries.length);
  });
});

test.each(['agent', 'controller'] as const)('promtool takes the metrics of the %s', async (program) => {
  const metrics = testMetrics(program);
  metrics.onScrape((sample) => {
    for (const [name, { at, of, labels }] of Object.entries(metricTable) as [string, MetricSpec][]) {
      if (at !== 'scrape' || !of.includes(program)) continue;
      const values = Object.fromEntries(labels.map((label) => [label, 'a "quoted\\\n" name']));
      (sample as (name: string, labels: object, value: number) => void)(name, values, 1);
    }
  });
  const { ok, output } = await promtool(['check', 'metrics'], { input: await metrics.text() });
  expect({ ok, output }).toEqual({ ok: true, output: '' });
  expect(await promtool(['check', 'metrics'], { input: 'ovpn_x{ 1\n' })).toMatchObject({ ok: false });
});
