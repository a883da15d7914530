import { OvpnError } from '../errors.ts';
import type { Meter } from '../telemetry/metrics.ts';
import type { AgentRequest } from './attach-protocol.ts';

/** Counts and times the requests that `handle` serves. */
export function measured(
  meter: Meter,
  handle: (request: AgentRequest) => Promise<unknown>,
): (request: AgentRequest) => Promise<unknown> {
  return async (request) => {
    const { op: verb } = request;
    const began = performance.now();
    let result = 'ok';
    try {
      return await handle(request);
    } catch (error) {
      result = (error instanceof OvpnError ? error : new OvpnError('AgentInternal', 'a defect')).code;
      throw error;
    } finally {
      meter.increment('ovpn_attach_requests_total', { verb, result });
      meter.observe('ovpn_attach_duration_seconds', { verb }, (performance.now() - began) / 1000);
    }
  };
}
