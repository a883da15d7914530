/** What is wrong with an input. */
export type FindingKind = 'error' | 'slow' | 'hang' | 'memory';

export interface Finding {
  readonly kind: FindingKind;
  readonly message: string;
  /** Missing when it is not known which input it was. */
  readonly input: Buffer | undefined;
}

export interface Progress {
  readonly runs: number;
  /** Inputs that new ones are made from. */
  readonly pool: number;
  /** Characters of source reached. */
  readonly places: number;
}

export interface FuzzJob {
  readonly target: string;
  readonly seed: number;
  /** 0: replays the inputs and stops. */
  readonly seconds: number;
  readonly inputs: readonly Uint8Array[];
  /** The input that runs now, for when it never ends: runs so far, its length, its bytes. */
  readonly current: SharedArrayBuffer;
}

export const currentHeaderBytes = 8;

export type FromWorker =
  | ({ readonly type: 'progress' | 'done' } & Progress)
  | { readonly type: 'finding'; readonly kind: FindingKind; readonly message: string; readonly input?: Uint8Array };
