import { expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chartOf } from './chart.ts';
import { type History, readHistory, recorded, writeHistory } from './history.ts';
import { row } from './suite.ts';

const about = { date: '2026-11-27', kernel: '7.3.4 (uml)' };
const rows = [
  row('datapath', 'TCP', 'µs/MiB', { ours: [5], peer: [10], peerName: 'WireGuard' }),
  row('datapath', 'TCP', 'µs/MiB', { ours: [5], peer: [4], peerName: 'A & <B>' }),
];
const once = recorded({}, rows, about);

test('a run is kept by its ratios alone, and the newest eight runs', () => {
  expect(once).toEqual({ datapath: [{ ...about, ratios: { 'TCP | WireGuard': 0.5, 'TCP | A & <B>': 1.25 } }] });
  let history: History = { cni: [{ ...about, ratios: {} }] };
  for (let day = 10; day < 20; day++) history = recorded(history, rows, { ...about, date: `2026-11-${day}` });
  expect(history.datapath?.map(({ date }) => date.slice(-2))).toEqual(['12', '13', '14', '15', '16', '17', '18', '19']);
  expect(history.cni).toHaveLength(1);
});

test('it comes back from its file; what is none is refused by name', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'bench-history-'));
  try {
    const file = join(folder, 'history.json');
    expect(await readHistory(file)).toEqual({});
    await writeHistory(once, file);
    expect(await readHistory(file)).toEqual(once);
    for (const bad of [
      '[]',
      '{"datapath":{}}',
      '{"nothing":[]}',
      '{"cni":[{"date":"x","kernel":"y","ratios":{"a":0}}]}',
    ]) {
      writeFileSync(file, bad);
      await expect(readHistory(file)).rejects.toThrow(`${file} is no history`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a chart has a bar for each ratio, on its side of the line, and no markup of names', () => {
  const [past] = once.datapath ?? [];
  const svg = chartOf('datapath', past!);
  const line = Number(/<line x1="([\d.]+)"/.exec(svg)?.[1]);
  const bars = [...svg.matchAll(/<rect class="(\w+)" x="([\d.]+)" y="\d+" width="([\d.]+)"/g)].map(
    ([, side, x, width]) => ({
      side,
      from: Number(x),
      to: Number(x) + Number(width),
    }),
  );
  expect(bars.map(({ side }) => side)).toEqual(['less', 'more']);
  expect(bars[0]!.to).toBeCloseTo(line);
  expect(bars[1]!.from).toBeCloseTo(line);
  expect(svg).toContain('A &amp; &lt;B&gt;');
});
