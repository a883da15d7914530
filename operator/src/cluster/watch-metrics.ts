import type { Sample } from '../telemetry/metrics.ts';
import type { WatchFigures } from './list-watch.ts';

/** Says how watches of the API server fare. */
export function sampleWatches(sample: Sample, watches: readonly WatchFigures[]): void {
  for (const { path, restarts, activeAt, events, bytes } of watches) {
    sample('ovpn_watch_restarts_total', { path }, restarts);
    sample('ovpn_watch_events_total', { path }, events);
    sample('ovpn_watch_bytes_total', { path }, bytes);
    if (activeAt !== undefined) sample('ovpn_watch_activity_timestamp_seconds', { path }, activeAt / 1000);
  }
}
