import type { ReplayState } from './replay.ts';

/**
 * What a session's wrapping needs to go on after a restart of this program, as JSON can hold it. It may be some packets
 * old. It holds keys: store it like a private key.
 */
export interface WrapperState {
  readonly replay: ReplayState;
  /** The client's key of tls-crypt-v2, 256 bytes in base64; at a server only. */
  readonly clientKey?: string;
  readonly dynamic?: { /** 256 bytes in base64 */ readonly key: string; readonly replay: ReplayState };
}

/** The state in what a state file held; undefined when it is none, and the session has to begin anew. */
export function parseWrapperState(value: unknown): WrapperState | undefined {
  if (!isRecord(value) || !isReplayState(value['replay'])) {
    return undefined;
  }
  const { replay, clientKey, dynamic } = value;
  if (clientKey !== undefined && !isKey(clientKey)) {
    return undefined;
  }
  const withClientKey = { replay, ...(clientKey !== undefined && { clientKey }) };
  if (dynamic === undefined) {
    return withClientKey;
  }
  if (!isRecord(dynamic) || !isKey(dynamic['key']) || !isReplayState(dynamic['replay'])) {
    return undefined;
  }
  return { ...withClientKey, dynamic: { key: dynamic['key'], replay: dynamic['replay'] } };
}

function isReplayState(value: unknown): value is ReplayState {
  return (
    isRecord(value) &&
    isUint32(value['sent']) &&
    isRecord(value['received']) &&
    isUint32(value['received']['id']) &&
    isUint32(value['received']['time']) &&
    typeof value['window'] === 'string' &&
    /^[0-9a-f]{16}$/.test(value['window'])
  );
}

/** 256 bytes are 342 digits of base64 and two for padding. */
function isKey(value: unknown): value is string {
  return typeof value === 'string' && /^[A-Za-z0-9+/]{342}==$/.test(value);
}

function isUint32(value: unknown): value is number {
  return Number.isInteger(value) && typeof value === 'number' && value >= 0 && value <= 0xffff_ffff;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
