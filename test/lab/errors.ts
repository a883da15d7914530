/**
 * A problem a person has to read: what is wrong and where (`message`), and what to do about it (`hint`).
 * Anything else that is thrown is a defect of the lab itself.
 */
export class LabError extends Error {
  readonly hint: string;

  constructor(message: string, hint: string) {
    super(message);
    this.name = 'LabError';
    this.hint = hint;
  }
}

/** A mistake in how a command was called. */
export class UsageError extends LabError {
  constructor(message: string, command: string) {
    super(message, `See: ${command} --help`);
    this.name = 'UsageError';
  }
}

/** The system error code (ENOENT, …) of anything thrown, if it has one. */
export function codeOf(error: unknown): string | undefined {
  // No instanceof: jest runs tests in a realm of their own, where system errors are of another Error class.
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** Prints an error for a person; the stack only when it is a defect of the lab itself. */
export function report(error: unknown): void {
  if (error instanceof LabError) {
    process.stderr.write(`lab: ${error.message}\n`);
    if (error.hint !== '') process.stderr.write(`lab: ${error.hint.replaceAll('\n', '\nlab: ')}\n`);
  } else {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`lab: unexpected error (a defect of test/lab): ${text}\n`);
  }
}
