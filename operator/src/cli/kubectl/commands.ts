import type { Command } from 'commander';
import { completionCommand } from './completion.ts';
import { doctorCommand } from './doctor.ts';
import { explainRouteCommand } from './explain-route.ts';
import { logsCommand } from './logs.ts';
import { peersCommand } from './peers.ts';
import { profileCommand } from './profile.ts';
import { statusCommand } from './status.ts';
import { supportBundleCommand } from './support-bundle.ts';
import { versionCommand } from './version.ts';

/** The subcommands of `kubectl ovpn`, by the groups of the help. A new one is a module beside this and a line here. */
export const commands: Readonly<Record<string, readonly (() => Command)[]>> = {
  'Commands:': [statusCommand, peersCommand, profileCommand, logsCommand, completionCommand, versionCommand],
  'When something is wrong:': [explainRouteCommand, doctorCommand, supportBundleCommand],
};
