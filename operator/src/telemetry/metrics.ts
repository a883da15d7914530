import { setImmediate as nextTurn } from 'node:timers/promises';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { describe } from '../errors.ts';
import type { Log } from './log.ts';
import {
  type CountedName,
  type LabelsOf,
  type MetricName,
  type MetricProgram,
  type MetricSpec,
  metricTable,
  type ObservedName,
  type SampledName,
} from './metric-table.ts';

/** Sets one series of a metric that is read at a scrape. */
export type Sample = <Name extends SampledName>(name: Name, labels: LabelsOf<Name>, value: number) => void;

/** What the rest of the code knows of metrics. */
export interface Meter {
  increment<Name extends CountedName>(name: Name, labels: LabelsOf<Name>): void;
  /** @param seconds what the histogram holds */
  observe<Name extends ObservedName>(name: Name, labels: LabelsOf<Name>, seconds: number): void;
  /** Has `read` called at every scrape, to sample what is there then. It must be quick, and not go to the kernel. */
  onScrape(read: (sample: Sample) => void): void;
}

/** A meter that measures nothing. */
export const noMeter: Meter = { increment() {}, observe() {}, onScrape() {} };

export interface MetricsOptions {
  readonly version: string;
  readonly log: Log;
  /** Whether those of the process and of Node.js come along. Default true. */
  readonly ofProcess?: boolean;
}

/** From a lookup in a warm cache to a round of ten thousand peers. Seconds. */
const buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/**
 * What prom-client knows of the process and of Node.js, without its histogram of the event loop's delay: that one wakes
 * a process a hundred times a second, which is all that an idle one would do. The delay at a scrape stays.
 */
function collectOfProcess(registry: Registry): void {
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 24 * 3_600_000 });
  for (const { name } of registry.getMetricsAsArray())
    if (/^nodejs_eventloop_lag_(min|max|mean|stddev|p\d+)_/.test(name)) registry.removeSingleMetric(name);
}

/** The metrics of one program, in a registry of their own. */
export class Metrics implements Meter {
  readonly #registry = new Registry();
  readonly #counters = new Map<MetricName, Counter>();
  readonly #gauges = new Map<MetricName, Gauge>();
  readonly #histograms = new Map<MetricName, Histogram>();
  /** What is made anew at each scrape. */
  readonly #sampled: { reset(): void }[] = [];
  readonly #readers: ((sample: Sample) => void)[] = [];
  readonly #log: Log;
  #scraping: Promise<string> | undefined;

  constructor(program: MetricProgram, { version, log, ofProcess = true }: MetricsOptions) {
    this.#log = log;
    for (const [name, spec] of Object.entries(metricTable) as [MetricName, MetricSpec][])
      if (spec.of.includes(program)) this.#register(name, spec);
    if (ofProcess) collectOfProcess(this.#registry);
    this.onScrape((sample) => sample('ovpn_build_info', { version }, 1));
  }

  /** The media type of {@link text}. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  increment<Name extends CountedName>(name: Name, labels: LabelsOf<Name>): void {
    this.#counters.get(name)?.inc(labels);
  }

  observe<Name extends ObservedName>(name: Name, labels: LabelsOf<Name>, seconds: number): void {
    this.#histograms.get(name)?.observe(labels, seconds);
  }

  onScrape(read: (sample: Sample) => void): void {
    this.#readers.push(read);
  }

  /** All metrics in Prometheus's text format. Who asks while another is served gets the same answer. */
  text(): Promise<string> {
    return (this.#scraping ??= this.#scrape().finally(() => (this.#scraping = undefined)));
  }

  async #scrape(): Promise<string> {
    for (const metric of this.#sampled) metric.reset();
    for (const read of this.#readers) {
      try {
        read((name, labels, value) => {
          this.#counters.get(name)?.inc(labels, value);
          this.#gauges.get(name)?.set(labels, value);
        });
      } catch (error) {
        // The others are still worth having, and tell that something is wrong.
        this.#log.error({ event: 'metrics.defect', error: describe(error) }, 'some metrics cannot be read');
      }
    }
    const texts: string[] = [];
    for (const { name } of this.#registry.getMetricsAsArray()) {
      texts.push(await this.#registry.getSingleMetricAsString(name));
      // Of ten thousand peers each takes some 20 ms: requests of pods that start get their turn in between.
      await nextTurn();
    }
    return `${texts.join('\n\n')}\n`;
  }

  #register(name: MetricName, { type, help, labels, at }: MetricSpec): void {
    const config = { name, help, labelNames: [...labels], registers: [this.#registry] };
    if (type === 'histogram') {
      this.#histograms.set(name, new Histogram({ ...config, buckets }));
      return;
    }
    const metric = type === 'counter' ? new Counter(config) : new Gauge(config);
    if (metric instanceof Counter) this.#counters.set(name, metric);
    else this.#gauges.set(name, metric);
    if (at === 'scrape') this.#sampled.push(metric);
  }
}
