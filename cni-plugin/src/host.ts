/**
 * The operating system as the plugin sees it: native/host.c gives it to the bytecode, tests give their own. Calls
 * block, each within the bound it is given. What fails throws an Error with a `code` (`codeOf`): the name of the
 * errno as in Node.js, `ETIMEDOUT` and `EMSGSIZE` for time and size, `EILSEQ` for a text that is not UTF-8, `EOF`
 * when the other end closes before it is done.
 */
export interface Host {
  /** The variables whose names begin with `CNI_`. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Whether stdin is a terminal. */
  readonly isTerminal: boolean;
  /** All of stdin. */
  readStdin(maxBytes: number, ms: number): string;
  /** To stdout (1) or stderr (2). */
  write(fd: 1 | 2, text: string): void;
  /**
   * Sends a line to a Unix socket and gives the line that comes back, without its newline. The error's `phase` says
   * when it failed: `connect`, `reply` before anything came back, `answer` within it.
   */
  exchange(path: string, line: string, connectMs: number, replyMs: number, maxBytes: number): string;
  /** Whether there is a file that may be executed. */
  isExecutable(path: string): boolean;
  /** Runs another plugin with the environment of this one but for CNI_COMMAND; its stderr is this one's. */
  execute(path: string, command: string, input: string, ms: number, maxBytes: number): Executed;
  /** Writes a file whole or not at all, and to the disk; makes the folder and the one above it. */
  writeFile(folder: string, name: string, text: string): void;
}

export interface Executed {
  /** 127 when it could not be executed. */
  readonly exitCode: number;
  readonly stdout: string;
}

/** What {@link Host} throws says by its code. */
export function codeOf(error: unknown): string {
  return property(error, 'code') ?? 'unknown error';
}

/** When an exchange failed. */
export function phaseOf(error: unknown): string | undefined {
  return property(error, 'phase');
}

function property(error: unknown, name: 'code' | 'phase'): string | undefined {
  const value = error instanceof Error ? (error as Error & { code?: unknown; phase?: unknown })[name] : undefined;
  return typeof value === 'string' ? value : undefined;
}
