import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openvpn26, openvpn27Userspace, type OpenvpnBuild } from '../support/openvpn.ts';
import { agentTail } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { PingStream } from '../support/stream.ts';
import { netnsOf, nodeVpn, Scene } from './scene.ts';

/**
 * The agent is killed in the middle of a renegotiation, which nobody can finish then. A stock OpenVPN gives it up after
 * its `hand-window` and begins a session anew on the same port, without restarting: with the peer id of before.
 */
let scene: Scene;
beforeAll(async () => {
  const spec = { keepalive: { intervalSeconds: 2, timeoutSeconds: 60 }, rekey: { seconds: 0 } };
  scene = await Scene.open('midkey', { spec });
});
afterAll(async () => {
  await scene.close();
});

const intervalMs = 50;
const count = (log: string, what: RegExp): number => log.match(what)?.length ?? 0;

/**
 * OpenVPN 2.7 drops what comes in the moment in which its new session begins. With offload it loses track of its own keys
 * then, and restarts: "dco key state desync".
 */
const clients: readonly (readonly [name: string, build: OpenvpnBuild, mostLost: number])[] = [
  ['mid26', openvpn26, 0],
  ['mid27', openvpn27Userspace, 2],
];

test.each(clients)(
  'a client over UDP whose renegotiation is cut off goes on with the key before, and then anew, with no gap: %s',
  async (name, build, mostLost) => {
    scene.admit(name);
    const stock = await scene.connectedClient(name, { build, config: ['reneg-sec 12', 'hand-window 8'] });
    const stream = await PingStream.start(netnsOf(stock.host), nodeVpn.ipv4, intervalMs);
    try {
      // A session begins with key id 0. What was agreed on before the first renegotiation is of that id, too, and cannot
      // stay beside the key of a session that begins anew.
      await eventually('the first renegotiation', () => count(stock.log, /Control Channel: TLSv1/g) > 1 || undefined);
      // The last flights of the handshake are to be under way when the agent dies.
      await scene.hosts.shape(stock.host, 'root', 'netem', 'delay', '150ms');
      const verified = count(stock.log, /VERIFY OK/g);
      const agreed = count(stock.log, /Control Channel: TLSv1/g);
      await eventually('it looks at our certificate', () => count(stock.log, /VERIFY OK/g) > verified || undefined, {
        timeoutMs: 60_000,
        stepMs: 5,
      });
      await scene.agent.stopAgent('SIGKILL');
      expect(count(stock.log, /Control Channel: TLSv1/g)).toBe(agreed);
      await scene.hosts.shape(stock.host, 'root', 'netem', 'delay', '0ms');
      await scene.agent.startAgent();
      await stock.until(/TLS Error: TLS (handshake|key negotiation) failed/, { timeoutMs: 60_000 });
      await eventually('a new session', () => count(stock.log, /Control Channel: TLSv1/g) > agreed || undefined, {
        timeoutMs: 30_000,
      });
      await stream.answers(60);
      const { lost, gaps } = stream.result;
      process.stdout.write(`${name}: ${lost * intervalMs} ms lost: ${gaps.join('; ')}\n`);
      expect(lost).toBeLessThanOrEqual(mostLost);
      expect(stock.log).not.toMatch(/SIGUSR1|Restart pause/);
    } catch (error) {
      throw new Error(`${String(error)}\n${agentTail(scene.agent)}\n${stock.log.slice(-12_000)}`, { cause: error });
    } finally {
      stream.kill();
    }
  },
  150_000,
);
