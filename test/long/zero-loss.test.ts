import { cpSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { version } from '../../operator/src/version.ts';
import { asks, count, type CountedTunnel, CountedTunnels, renegotiateSeconds } from '../e2e/counted-tunnels.ts';
import { Random } from '../fuzz/random.ts';
import { agentProgram, projectRoot } from '../support/hosts.ts';
import { eventually } from '../support/run.ts';

/**
 * As test/e2e/zero-loss.test.ts, while the agent is replaced by another version, and dies again and again. (About two
 * and a half minutes.)
 */
const kills = 50;
const seed = Number(process.env['KILL_SEED'] ?? 1);

let counted: CountedTunnels;
beforeAll(async () => {
  counted = await CountedTunnels.open('nolong');
});
afterAll(async () => {
  await counted.scene.close();
});

const keysOf = ({ stock }: CountedTunnel): number => stock.log.match(/Control Channel: TLSv1/g)?.length ?? 0;

/** The agent as it would come with an upgrade: other files, another version. */
function nextVersion(): { program: string; version: string } {
  const program = join(counted.scene.hosts.folder, 'next', 'ovpn-agent.js');
  const next = `${version}-next`;
  if (!agentProgram.endsWith('.js')) throw new Error('this test takes the bundles: set OVPN_PROGRAMS=dist');
  cpSync(dirname(agentProgram), dirname(program), { recursive: true });
  symlinkSync(join(projectRoot, 'node_modules'), join(counted.scene.hosts.folder, 'node_modules'));
  for (const name of readdirSync(dirname(program)).filter((file) => file.endsWith('.js'))) {
    const file = join(dirname(program), name);
    writeFileSync(file, readFileSync(file, 'utf8').replace(`version = "${version}"`, `version = "${next}"`));
  }
  return { program, version: next };
}

describe('1,000 packets a second in each direction, over UDP and TCP,', () => {
  test('0 lost of 10,000 over an upgrade to another version', async () => {
    const next = nextVersion();
    const flows = await counted.startAll();
    const pid = counted.scene.agent.holderPid;
    // In the middle of a renegotiation. The old agent finishes it first, or it has not heard of it yet when it is told
    // to stop; then it passes it over, and the client repeats its packet to the next one.
    await eventually('a client asks for new keys', () => counted.tunnels.some(asks) || undefined, {
      timeoutMs: 3_000 * renegotiateSeconds,
      stepMs: 20,
    });
    await counted.scene.agent.stopAgent('SIGTERM');
    counted.scene.agent.program = next.program;
    await counted.scene.agent.startAgent();
    await counted.passes(flows, count);
    await counted.expectWhole(flows);
    expect(counted.scene.agent.said('agent.ready').at(-1)).toMatchObject({ version: next.version });
    expect(counted.scene.agent.holderPid).toBe(pid);
  });

  test('0 lost of more than 10,000 over 50 kills at random moments outside of renegotiations, with new keys in between', async () => {
    const random = new Random(seed);
    const flows = await counted.startAll();
    const before = counted.tunnels.map(keysOf);
    for (let kill = 0; kill < kills; kill++) {
      // A third of them at work; the others perhaps while it starts, which is a matter of the machine.
      if (random.below(3) === 0) await counted.scene.agent.agentStarts();
      await new Promise((resolve) => setTimeout(resolve, random.below(2_000)));
      await counted.killBetweenHandshakes();
      counted.scene.agent.launchAgent();
    }
    await counted.scene.agent.agentStarts();
    // The last one agrees on new keys, too.
    const last = counted.tunnels.map(keysOf);
    await Promise.all(
      counted.tunnels.map((tunnel, n) => eventually('new keys', () => keysOf(tunnel) > (last[n] ?? 0) || undefined)),
    );
    await counted.expectWhole(flows);
    for (const [n, tunnel] of counted.tunnels.entries()) expect(keysOf(tunnel) - (before[n] ?? 0)).toBeGreaterThan(2);
  }, 600_000);
});

test('after all of that no nonce was used twice, and the counters of kernel, status and packets agree', async () => {
  await counted.expectCountsAndNonces();
});
