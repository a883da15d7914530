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
  process.exitCode = await runPlugin({
    env: process.env,
    stdin: () => (process.env['CNI_COMMAND'] === 'VERSION' ? versionInput() : readAll(process.stdin, configBounds)),
    stdout: (text) => process.stdout.write(text),
    stderr: (text) => process.stderr.write(text),
    callAgent,
  });
  // An stdin that never ends must not keep the process. What was written is out: on Linux, writes of
  // Node.js to pipes and files are synchronous.
  process.stdin.destroy();
}

// Not awaited at the top level: the bundle is a plain script (build.ts), and runPlugin never rejects.
void main();
