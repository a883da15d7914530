import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, OvpnError } from '../errors.ts';
import type { Log } from '../telemetry/log.ts';
import type { DelRequest } from './attach-protocol.ts';
import { parseAgentRequest } from './attach-request.ts';

/** A DEL that the CNI plugin has left in a folder while the agent was away (attach-protocol.ts, `detachFolder`). */
export interface LeftDetach {
  readonly request: DelRequest;
  /** Removes it, when it is served: until then a crash loses nothing. */
  readonly done: () => void;
}

/** What lies in the folder. A file that is no DEL is logged and removed: nobody can ever serve it. */
export function leftDetaches(folder: string, log: Log): LeftDetach[] {
  return list(folder).flatMap((name) => {
    const path = join(folder, name);
    const done = (): void => rmSync(path, { force: true });
    try {
      return [{ request: readDetach(path), done }];
    } catch (error) {
      log.error({ event: 'attachment.no-detach', file: path, error: describe(error) }, 'a DEL that was left is none');
      done();
      return [];
    }
  });
}

function readDetach(path: string): DelRequest {
  const request = parseAgentRequest(readFileSync(path));
  if (request.op === 'del') return request;
  throw new OvpnError('AgentProtocol', `must be del, not ${request.op}`, { object: path, field: 'op' });
}

/** Files that are whole: the plugin renames them when they are written. */
function list(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith('.json') && !name.startsWith('.'));
  } catch {
    // The plugin makes the folder when it needs it.
    return [];
  }
}
