/** The script that native/host.c runs. */
import type { Host } from './host.ts';
import { runPlugin } from './skeleton.ts';

declare const host: Host & { exit(code: number): never };

host.exit(runPlugin(host));
