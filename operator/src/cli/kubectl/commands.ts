import type { Command } from 'commander';
import { versionCommand } from './version.ts';

/** The subcommands of `kubectl ovpn`, by the groups of the help. A new one is a module beside this and a line here. */
export const commands: Readonly<Record<string, readonly (() => Command)[]>> = {
  'Commands:': [versionCommand],
};
