import { Metrics } from './metrics.ts';
import type { MetricProgram } from './metric-table.ts';
import { silentLog } from './log.ts';

/** Metrics of a registry of their own, without those of the process. */
export const testMetrics = (program: MetricProgram): Metrics =>
  new Metrics(program, { version: '0.0.0', log: silentLog, ofProcess: false });

/** The value of each series as Prometheus would read it, by `name{label="value"}` in the order of the text. */
export function seriesOf(text: string): ReadonlyMap<string, number> {
  const series = new Map<string, number>();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const space = line.lastIndexOf(' ');
    series.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return series;
}

/** One series now; 0 when it is not there. */
export async function valueOf(metrics: Metrics, series: string): Promise<number> {
  return seriesOf(await metrics.text()).get(series) ?? 0;
}
