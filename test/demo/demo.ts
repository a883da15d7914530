import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

// `npm run demo`: builds the programs and runs the scenario (scenario.ts) in the lab, on a real ovpn kernel:
// this machine's own, the cached lab kernel, or else Debian's stock kernel under QEMU. Compiles nothing.
const usage = `usage: npm run demo [-- --kernel fast|host|uml|qemu]

Shows the product at work on a real ovpn kernel: two nodes, a remote office, pods attached by the CNI binary,
clients with stock OpenVPN, and a stock OpenVPN server that a node dials.
It needs no cluster; what it sets up lives in network namespaces of a virtual machine and goes with it.
`;

const root = join(import.meta.dirname, '../..');
const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) {
  process.stdout.write(usage);
  process.exit(0);
}
const kernel = args[0] === '--kernel' && args.length === 2 ? args[1] : args.length === 0 ? 'fast' : undefined;
if (kernel === undefined) {
  process.stderr.write(usage);
  process.exit(2);
}

const started = Date.now();
process.stdout.write('demo: building the agent and the CNI plugin\n');
runNode(['scripts/build.ts', '--no-types'], 'ignore');
process.stdout.write('demo: starting the lab (the first time on a machine this fetches packages)\n');
const lab = ['test/lab/lab.ts', '--kernel', kernel, '--timeout', '1200', '--env', 'OVPN_PROGRAMS=dist'];
runNode([...lab, '--', 'node', 'test/demo/scenario.ts'], 'inherit');
process.stdout.write(`demo: ok (${Math.round((Date.now() - started) / 1000)} s)\n`);

function runNode(command: readonly string[], output: 'ignore' | 'inherit'): void {
  const { status } = spawnSync(process.execPath, [...command], { cwd: root, stdio: ['ignore', output, 'inherit'] });
  if (status === 0) return;
  process.stdout.write(`demo: failed: ${command[0] ?? ''} exited with ${status ?? 'a signal'}\n`);
  process.exit(1);
}
