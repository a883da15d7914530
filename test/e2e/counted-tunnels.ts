import { join } from 'node:path';
import { expect } from '@jest/globals';
import { Capture } from '../support/capture.ts';
import { openvpn27, type OpenvpnProcess, type Transport } from '../support/openvpn.ts';
import { type FlowResult, PacketCounter, PacketFlow } from '../support/packet-counter.ts';
import { agentTail, peerStatus } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { dataPackets, ethernetFrames, nonceUse } from '../support/wire.ts';
import { netnsOf, nodeVpn, Scene, type VpnAddresses } from './scene.ts';

/** In each direction. */
export const perSecond = 1_000;
/** What has to come through. */
export const count = 10_000;
/**
 * Longer than an agent is away, on a machine that is busy with other things, too: a client that begins another
 * renegotiation throws away the key before its newest, and that is what the kernel still sends with if the agent died
 * before it could tell it otherwise (docs/decisions/0008).
 */
export const renegotiateSeconds = 25;

export interface CountedTunnel {
  readonly name: string;
  readonly vpn: VpnAddresses;
  readonly stock: OpenvpnProcess;
  readonly far: PacketCounter;
  readonly near: PacketCounter;
}

/** Whether the client is agreeing on new keys: it has asked for them, or looks at the certificate of who asked. */
export const asks = ({ stock: { log } }: CountedTunnel): boolean =>
  Math.max(log.lastIndexOf('TLS: soft reset'), log.lastIndexOf('VERIFY OK')) >
  log.lastIndexOf('Control Channel: TLSv1');

/** A tunnel over UDP and one over TCP, with a packet counter at each end, and a capture of all that is on the wire. */
export class CountedTunnels {
  readonly scene: Scene;
  readonly #capture: Capture;
  readonly #wire: string;
  #tunnels: readonly CountedTunnel[] = [];
  /** How many packets there were in all, as the node sees it. */
  readonly #totals = new Map<string, { sent: number; received: number }>();

  private constructor(scene: Scene, capture: Capture, wire: string) {
    this.scene = scene;
    this.#capture = capture;
    this.#wire = wire;
  }

  /** @param prefix of the scene's names */
  static async open(prefix: string): Promise<CountedTunnels> {
    const spec = { keepalive: { intervalSeconds: 2, timeoutSeconds: 60 }, rekey: { seconds: 0 } };
    const scene = await Scene.open(prefix, { spec, options: ['--resync', '2', '--status-interval', '2'] });
    // From before the first connection on: TCP has to be read from its beginning.
    const wire = join(scene.hosts.folder, 'wire.pcap');
    const capture = await Capture.toFile(netnsOf(scene.node), 'eth0', 'port 1194', wire);
    const counted = new CountedTunnels(scene, capture, wire);
    counted.#tunnels = await Promise.all([counted.#open('udp', 'UDP', 5000), counted.#open('tcp', 'TCP', 5001)]);
    return counted;
  }

  get tunnels(): readonly CountedTunnel[] {
    return this.#tunnels;
  }

  async #open(name: string, transport: Transport, port: number): Promise<CountedTunnel> {
    const { scene } = this;
    const vpn = scene.admit(name);
    const stock = await scene.connectedClient(name, {
      build: openvpn27,
      transport,
      config: [`reneg-sec ${renegotiateSeconds}`],
    });
    // A process for each end of each tunnel: who sends what two receive would be the first to fall behind.
    const far = await PacketCounter.open(netnsOf(stock.host), vpn.ipv4, port);
    scene.hosts.onCleanup(() => far.close());
    const near = await PacketCounter.open(scene.kernel.path, nodeVpn.ipv4, port);
    scene.hosts.onCleanup(() => near.close());
    return { name, vpn, stock, far, near };
  }

  /** Both directions of each tunnel. */
  async startAll(limit: { count?: number } = {}): Promise<Map<string, PacketFlow>> {
    const flows = this.tunnels.flatMap(({ name, far, near }) => [
      [`from ${name}`, far, near] as const,
      [`to ${name}`, near, far] as const,
    ]);
    return new Map(
      await Promise.all(
        flows.map(
          async ([name, from, to]) => [name, await PacketFlow.start(from, to, { perSecond, ...limit })] as const,
        ),
      ),
    );
  }

  /** @param name `to` or `from`, and the tunnel's name */
  async finish(name: string, flow: PacketFlow): Promise<FlowResult> {
    const result = await flow.finish();
    const tunnel = name.split(' ')[1] ?? '';
    const total = this.#totals.get(tunnel) ?? { sent: 0, received: 0 };
    this.#totals.set(tunnel, total);
    if (name.startsWith('to')) total.sent += result.sent;
    else total.received += result.received;
    return result;
  }

  /** Ends all flows. Nothing was lost or doubled, no fewer were sent than `count`, and nobody connected anew. */
  async expectWhole(flows: ReadonlyMap<string, PacketFlow>): Promise<void> {
    const results = await Promise.all(
      [...flows].map(async ([name, flow]) => [name, await this.finish(name, flow)] as const),
    );
    const trouble = results.filter(([, { sent, lost, duplicates }]) => sent < count || lost > 0 || duplicates > 0);
    const beginnings = this.tunnels.filter(
      ({ stock }) => stock.log.match(/Initialization Sequence Completed/g)?.length !== 1,
    );
    if (trouble.length > 0 || beginnings.length > 0)
      throw new Error(
        [
          JSON.stringify(Object.fromEntries(results), undefined, 1),
          ...beginnings.map(({ name }) => `${name} began anew`),
          agentTail(this.scene.agent),
          ...this.tunnels.map(({ name, stock }) => `${name}: ${stock.tail}`),
        ].join('\n'),
      );
    for (const [name, { sent, late, perSecond: rate }] of results)
      process.stdout.write(`${name}: 0 lost of ${sent}, ${late} out of order, ${Math.round(rate)}/s\n`);
  }

  /** Waits until this much of all flows has been sent. */
  async passes(flows: ReadonlyMap<string, PacketFlow>, packets: number): Promise<void> {
    await Promise.all([...flows.values()].map((flow) => flow.sent(packets)));
  }

  /**
   * Kills the agent, but not in the middle of a renegotiation: that one could not be finished, since TLS does not outlive
   * a process (docs/decisions/0008). It is held first, so that none begins between the look and the kill.
   */
  async killBetweenHandshakes(): Promise<void> {
    const { agent } = this.scene;
    const isAsking = (): boolean => this.tunnels.some(asks);
    const pid = agent.agentPid;
    for (;;) {
      if (pid !== undefined) process.kill(pid, 'SIGSTOP');
      // What the clients have said by now is here.
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (!isAsking()) break;
      if (pid !== undefined) process.kill(pid, 'SIGCONT');
      await eventually('the renegotiation is over', () => !isAsking() || undefined, { stepMs: 20 });
    }
    await agent.stopAgent('SIGKILL');
  }

  /** The counters of kernel, status and packets agree, and no nonce was used twice; ends the capture. */
  async expectCountsAndNonces(): Promise<void> {
    const { agent, kernel } = this.scene;
    for (const { name, vpn } of this.tunnels) {
      const counted = await eventually('status has what the kernel counted', () => {
        const { rxBytes, txBytes, rxPackets, txPackets } = kernel.peerAt(vpn.ipv4)!.vpn;
        const inKernel = JSON.stringify([rxBytes, txBytes, rxPackets, txPackets].map(Number));
        const traffic = peerStatus(agent, name)?.traffic;
        const said = [traffic?.rxBytes, traffic?.txBytes, traffic?.rxPackets, traffic?.txPackets];
        return JSON.stringify(said) === inKernel ? traffic : undefined;
      });
      const total = this.#totals.get(name)!;
      process.stdout.write(`${name}: ${JSON.stringify(counted)} packets counted ${JSON.stringify(total)}\n`);
      // Nobody has counted anew in between; and there was nothing else, up to what clients send by themselves.
      expect(counted.txPackets).toBe(total.sent);
      expect(counted.rxPackets).toBeGreaterThanOrEqual(total.received);
      expect(counted.rxPackets).toBeLessThan(total.received + 100);
    }
    await this.#capture.stopWhole();
    const uses = nonceUse(dataPackets(ethernetFrames(this.#wire), 1194));
    expect(uses.size).toBe(4);
    for (const [flow, { keys, packets, repeated }] of uses) {
      process.stdout.write(`${flow}: ${packets} packets under ${keys} keys\n`);
      expect({ flow, repeated }).toEqual({ flow, repeated: [] });
    }
  }
}
