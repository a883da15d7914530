/** How much a log says. On its own, so that a program's options can name the levels without loading a logger. */
export const logLevels = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];
