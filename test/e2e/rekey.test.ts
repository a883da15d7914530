import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openvpn26, openvpn27, openvpn27Userspace, type OpenvpnProcess, serverAddresses } from '../support/openvpn.ts';
import { agentTail, untilConnected } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { PingStream, type StreamResult } from '../support/stream.ts';
import { type MaybeSoon, netnsOf, nodeVpn, Scene } from './scene.ts';

/** New keys while packets flow, from either side and in both roles. All tunnels run at the same time. */
const seconds = 8;
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('rekey', { spec: { rekey: { seconds: 0 } } });
  scene.applyNetwork({ name: 'eager', port: 1195, spec: { rekey: { seconds } } });
  // All servers have the same addresses inside, so each that we dial needs a network of its own.
  scene.applyNetwork({ name: 'third', port: 1196, spec: { rekey: { seconds: 0 } } });
  scene.applyNetwork({ name: 'fourth', port: 1197, spec: { rekey: { seconds } } });
  await Promise.all(['eager', 'third', 'fourth'].map((name) => scene.listening(name)));
});
afterAll(async () => {
  await scene.close();
});

/** What a tunnel looked like after it had two new keys under traffic. */
interface Rekeyed {
  readonly stream: StreamResult;
  /** The id of the key that we send with. */
  readonly keyId: number;
  readonly stock: OpenvpnProcess;
}

async function underTraffic(stock: OpenvpnProcess, stream: PingStream, key: () => MaybeSoon<number>): Promise<Rekeyed> {
  const keyId = async (): Promise<number> => (await key()) ?? 0;
  try {
    await eventually('we send with the third key', async () => (await keyId()) >= 2 || undefined, {
      timeoutMs: 180_000,
    });
    // Until the key before is gone on both ends.
    await stream.answers(300);
    const result = await stream.stop();
    return { stream: result, keyId: await keyId(), stock };
  } catch (error) {
    throw new Error(`${String(error)}\n${stock.tail}\n${agentTail(scene.agent)}`, { cause: error });
  } finally {
    stream.kill();
  }
}

const interval = 20;

async function clientOfOurs(
  name: string,
  settings: Parameters<Scene['client']>[1],
  networkName = 'corp',
): Promise<Rekeyed> {
  const vpn = scene.admit(name, { networkName });
  const stock = await scene.connectedClient(name, settings);
  const kernel = scene.kernelOf(networkName);
  const stream = await PingStream.start(netnsOf(stock.host), nodeVpn.ipv4, interval);
  return underTraffic(stock, stream, () => scene.keyTo(vpn, kernel));
}

async function serverOfTheirs(
  name: string,
  networkName: string,
  settings: Parameters<Scene['server']>[1],
): Promise<Rekeyed> {
  const host = await scene.hosts.host(name);
  const stock = await scene.server(host, settings);
  const protocol = settings?.transport ?? 'UDP';
  scene.dial(name, { networkName, endpoints: [{ address: host.ipv4, port: 1194, protocol }] });
  await untilConnected(scene.agent, name);
  const kernel = scene.kernelOf(networkName);
  const stream = await PingStream.start(kernel.path, serverAddresses[0], interval);
  return underTraffic(stock, stream, () => scene.keyToRemote(name, kernel));
}

describe('new keys under traffic lose no packet', () => {
  const tunnels = {
    'a client asks for them, 2.6.14 over UDP': () =>
      clientOfOurs('asks26', { build: openvpn26, config: [`reneg-sec ${seconds}`] }),
    'a client asks for them, 2.7.8 with offload over TCP': () =>
      clientOfOurs('asks27', { build: openvpn27, transport: 'TCP', config: [`reneg-sec ${seconds}`] }),
    'we ask a client, 2.7.8 with offload over UDP': () => {
      const remotes = [{ address: scene.node.ipv4, port: 1195 }];
      return clientOfOurs('asked27', { build: openvpn27, remotes, config: ['reneg-sec 0'] }, 'eager');
    },
    'we ask a client, 2.6.14 over TCP': () => {
      const remotes = [{ address: scene.node.ipv4, port: 1195 }];
      return clientOfOurs('asked26', { transport: 'TCP', remotes, config: ['reneg-sec 0'] }, 'eager');
    },
    'a server asks us, 2.7.8 with offload over UDP': () =>
      serverOfTheirs('asking', 'corp', { build: openvpn27, config: [`reneg-sec ${seconds}`] }),
    'a server asks us, 2.6.14 over TCP': () =>
      serverOfTheirs('asking26', 'third', { transport: 'TCP', config: [`reneg-sec ${seconds}`] }),
    'we ask a server, 2.7.8 with offload over UDP': () =>
      serverOfTheirs('awaiting27', 'fourth', { build: openvpn27, config: ['reneg-sec 0'] }),
    'we ask a server, 2.7.8 without offload over TCP': () =>
      serverOfTheirs('awaiting', 'eager', { build: openvpn27Userspace, transport: 'TCP', config: ['reneg-sec 0'] }),
  };
  let outcomes: Map<string, Promise<Rekeyed>>;
  beforeAll(() => {
    outcomes = new Map(Object.entries(tunnels).map(([name, open]) => [name, open()]));
    for (const outcome of outcomes.values()) outcome.catch(() => undefined);
  });

  test.each(Object.keys(tunnels))('%s', async (name) => {
    const { stream, keyId, stock } = (await outcomes.get(name))!;
    expect({ lost: stream.lost, missing: stream.missing }).toEqual({ lost: 0, missing: [] });
    expect(stream.sent).toBeGreaterThan(300);
    expect(keyId).toBeGreaterThanOrEqual(2);
    // One session all along, and keys by renegotiation: the first and at least two more.
    expect(stock.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
    expect(stock.log.match(/Control Channel: TLSv1/g)?.length).toBeGreaterThanOrEqual(3);
  });
});
