/** The process around the plugin: the real environment, streams and socket. Loads nothing it does not need. */
import { callAgent } from './agent-client.ts';
import { runPlugin } from './skeleton.ts';
import { configBounds, readAll } from './stdin.ts';

/**
 * VERSION works for a person at a terminal and for a caller that leaves stdin open: neither has an end of
 * input to wait for, and the input matters little.
 */
async function versionInput(): Promise<Uint8Array> {
  if (process.stdin.isTTY) {
    return new Uint8Array();
  }
  try {
    return await readAll(process.stdin, { ...configBounds, ms: 500 });
  } catch {
    return new Uint8Array();
  }
}

async function main(): Promise<void> {
  // A caller that closed its end of stdout or stderr learns nothing more; a stack trace would help nobody.
  process.stdout.on('error', () => (process.exitCode = 1));
  process.stderr.on('error', () => undefined);
  const exitCode = await runPlugin({
    env: process.env,
    stdin: () => (process.env['CNI_COMMAND'] === 'VERSION' ? versionInput() : readAll(process.stdin, configBounds)),
    stdout: (text) => process.stdout.write(text),
    stderr: (text) => process.stderr.write(text),
    callAgent,
  });
  process.exitCode ??= exitCode;
  // An stdin that never ends must not keep the process. What was written is out: on Linux, writes of
  // Node.js to pipes and files are synchronous.
  process.stdin.destroy();
}

// Not awaited at the top level: the bundle is a plain script (build.ts), and runPlugin never rejects.
void main();
