import { ping } from '../support/hosts.ts';
import type { Pod } from '../support/office.ts';

/** How the demo speaks: numbered steps, a line for each thing that happens, and an error for what is not so. */

let step = 0;
const started = Date.now();

/** The number of the step that runs. */
export const currentStep = (): number => step;

export function heading(text: string): void {
  step++;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  process.stdout.write(`\n[${seconds.padStart(5)} s] ${step}. ${text}\n`);
}

export function say(text: string): void {
  process.stdout.write(`${text.trimEnd().replaceAll(/^/gm, '    ')}\n`);
}

export function demand(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** Pings that must all be answered. */
export async function reach({ netns }: Pick<Pod, 'netns'>, destination: string, what: string): Promise<void> {
  const { sent, received, output } = await ping(netns, destination);
  demand(sent > 0 && received === sent, `${what}: ${received} of ${sent} pings answered\n${output}`);
  say(
    `${what} ${destination}: ${received} of ${sent} answered, ${/rtt [^=]*= [\d.]+\/([\d.]+)/.exec(output)?.[1] ?? '?'} ms`,
  );
}
