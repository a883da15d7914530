/**
 * What a pod sends to its network never leaves by eth0, and never unencrypted by the node's own interface, whatever
 * happens meanwhile. A pod that never pauses sends all the time.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Capture } from '../support/capture.ts';
import { ping } from '../support/hosts.ts';
import { attachPod, Office, officePeer, type Pod, sandboxWithEth0 } from '../support/office.ts';
import { eventually, run, Service } from '../support/run.ts';

const ofTheNetwork =
  'net 10.80.0.0/16 or net 10.81.0.0/16 or net 192.168.50.0/24 or ip6 net fd50::/16 or ip6 net fd80::/15';

let office: Office;
let pod: Pod;

beforeAll(async () => {
  office = await Office.open('leak', { options: ['--resync', '1'] });
  pod = await attachPod(office.agent, 'e', { netns: await sandboxWithEth0(office.hosts, 'leak-e', 'leak-world') });
}, 120_000);
afterAll(() => office.close(), 60_000);

/** Sends to an address fifty times a second, and counts what came back. */
class Sender {
  readonly #service: Service;

  constructor(destination: string) {
    // Neither an error nor silence ends it.
    const args = ['-n', '-i', '0.02', '-W', '1', destination];
    this.#service = new Service('nsenter', [`--net=${pod.netns}`, 'ping', ...args]);
  }

  get answers(): number {
    return this.#service.log.split('bytes from').length - 1;
  }

  /** Waits until it gets answers again. */
  async untilAnswered(): Promise<void> {
    const before = this.answers;
    await eventually('packets are answered', () => this.answers > before + 5 || undefined);
  }

  async end(): Promise<void> {
    await this.#service.end('SIGINT');
  }
}

test('a pod that sends without pause, while agent and peer come and go', async () => {
  const { agent } = office;
  const way = (): Promise<string> => run('nsenter', `--net=${pod.netns}`, 'ip', 'route', 'get', '10.96.0.10');
  const [captureOfPod, captureOfNode, wayOfServices] = await Promise.all([
    Capture.start(pod.netns, 'eth0', `${ofTheNetwork} or host 8.8.8.8`),
    Capture.start(`/run/netns/${agent.host.namespace}`, 'eth0', `${ofTheNetwork} or udp port 1194`),
    way(),
  ]);
  expect(wayOfServices).toContain('dev eth0');
  const senders = [office.lan.ipv4, office.lan.ipv6].map((address) => new Sender(address));
  const flows = (): Promise<unknown> => Promise.all(senders.map((sender) => sender.untilAnswered()));
  const suspend = (yes: boolean): void => agent.apply('peer.yaml', officePeer(office.remote.host, { suspend: yes }));
  const untilGone = (): Promise<true> =>
    eventually('the peer is gone', () => office.kernel.peer(7) === undefined || undefined);
  await flows();

  await agent.stopAgent('SIGKILL');
  await flows();
  await agent.startAgent();
  await flows();
  for (let round = 0; round < 3; round++) {
    suspend(true);
    await untilGone();
    suspend(false);
    // A key that was installed is spent: without its peer it comes back only as another generation.
    await eventually('the peer is back', () => office.kernel.peer(7));
  }
  suspend(true);
  await untilGone();
  await agent.stopAgent('SIGKILL');
  await agent.startAgent();
  // The kernel loses what the agent made: the fail-closed routes stay.
  await run('nsenter', `--net=${pod.netns}`, 'ip', 'link', 'set', 'vpn0', 'down');
  await eventually('the interface is up again', async () => {
    const link = await run('nsenter', `--net=${pod.netns}`, 'ip', '-br', 'link', 'show', 'vpn0');
    return /\bUP\b/.test(link) || undefined;
  });

  expect(await ping(pod.netns, '8.8.8.8', { count: 1 })).toMatchObject({ received: 1 });
  expect(await way()).toBe(wayOfServices);
  for (const sender of senders) await sender.end();
  const [byPod, byNode] = [await captureOfPod.stop(), await captureOfNode.stop()];
  // Both saw what they may see, and nothing else.
  expect(byPod.filter((packet) => packet.includes('8.8.8.8')).length).toBeGreaterThanOrEqual(2);
  expect(byPod.filter((packet) => !packet.includes('8.8.8.8'))).toEqual([]);
  expect(byNode.length).toBeGreaterThan(10);
  expect(byNode.filter((packet) => !/\.1194[ :>]/.test(packet))).toEqual([]);
}, 180_000);
