import { pino } from 'pino';
import type { DestinationStream, Logger } from 'pino';
import type { LogLevel } from './levels.ts';
import { scrub, scrubText } from './scrub.ts';

/**
 * The fields of one line. `event` is a stable name in lower case with dots (`source.relisted`): people
 * search and alert by it, so it never changes with the wording of the message.
 */
export interface LogFields {
  readonly event: string;
  readonly [field: string]: unknown;
}

/** What the rest of the code knows of logging. */
export interface Log {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
  /** A log whose lines all carry these fields too. */
  child(fields: Readonly<Record<string, unknown>>): Log;
}

export interface LogOptions {
  /** Default `info`. */
  readonly level?: LogLevel;
  /** Where JSON lines go: `stderr` (default), `stdout`, or a stream of one's own. */
  readonly to?: 'stdout' | 'stderr' | DestinationStream;
  /** Fields of every line, for example the node's name. */
  readonly base?: Readonly<Record<string, unknown>>;
}

/**
 * A log that writes one JSON object per line. Writing is synchronous, so that the last lines before a crash
 * are there. Secrets are taken out of fields and messages (see scrub.ts).
 */
export function createLog({ level = 'info', to = 'stderr', base = {} }: LogOptions = {}): Log {
  const destination = typeof to === 'string' ? pino.destination({ dest: to === 'stdout' ? 1 : 2, sync: true }) : to;
  return wrap(
    pino(
      {
        level,
        base: scrub(base) as Record<string, unknown>,
        messageKey: 'message',
        timestamp: pino.stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
      },
      destination,
    ),
  );
}

/** A log that drops everything. */
export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
};

function wrap(logger: Logger): Log {
  const write =
    (level: Exclude<LogLevel, 'silent'>) =>
    (fields: LogFields, message: string): void => {
      // Scrubbing costs a copy of the fields: not for lines nobody reads.
      if (logger.isLevelEnabled(level)) logger[level](scrub(fields), scrubText(message));
    };
  return {
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    child: (fields) => wrap(logger.child(scrub(fields) as Record<string, unknown>)),
  };
}
