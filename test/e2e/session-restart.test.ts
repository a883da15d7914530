import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { HolderClient } from '../../operator/src/holder/client.ts';
import {
  openvpn26,
  openvpn27,
  type OpenvpnBuild,
  type OpenvpnProcess,
  serverAddresses,
  type Transport,
} from '../support/openvpn.ts';
import { agentTail, connection, peerStatus, untilConnected, untilStatus } from '../support/peer-status.ts';
import { eventually } from '../support/run.ts';
import { PingStream } from '../support/stream.ts';
import { netnsOf, nodeVpn, Scene } from './scene.ts';

/** Our processes end and begin anew; tunnels and their control channels do not notice. */
let scene: Scene;
beforeAll(async () => {
  const spec = { keepalive: { intervalSeconds: 2, timeoutSeconds: 30 }, rekey: { seconds: 0 } };
  scene = await Scene.open('goeson', { spec, options: ['--resync', '1'] });
  scene.applyNetwork({ name: 'other', port: 1195, spec });
  await scene.listening('other');
});
afterAll(async () => {
  await scene.close();
});

/** The other end asks for new keys by itself, too, when it has had none for this time. */
const renegotiation = ['reneg-sec 40'];
const intervalMs = 50;

interface Tunnel {
  readonly name: string;
  readonly stock: OpenvpnProcess;
  readonly stream: PingStream;
}

async function client(name: string, build: OpenvpnBuild, transport: Transport): Promise<Tunnel> {
  scene.admit(name);
  const stock = await scene.connectedClient(name, { build, transport, config: renegotiation });
  return { name, stock, stream: await PingStream.start(netnsOf(stock.host), nodeVpn.ipv4, intervalMs) };
}

async function server(name: string, build: OpenvpnBuild, transport: Transport, networkName: string): Promise<Tunnel> {
  const host = await scene.hosts.host(name);
  const stock = await scene.server(host, { build, transport, config: renegotiation });
  scene.dial(name, { networkName, endpoints: [{ address: host.ipv4, port: 1194, protocol: transport }] });
  await untilConnected(scene.agent, name);
  const { path } = scene.kernelOf(networkName);
  return { name, stock, stream: await PingStream.start(path, serverAddresses[0], intervalMs) };
}

const keysOf = ({ stock }: Tunnel): number => stock.log.match(/Control Channel: TLSv1/g)?.length ?? 0;
const beginningsOf = ({ stock }: Tunnel): number => stock.log.match(/Initialization Sequence Completed/g)?.length ?? 0;

/** Waits until each tunnel has had so many more keys. */
async function newKeys(tunnels: readonly Tunnel[], before: readonly number[], count: number): Promise<void> {
  await Promise.all(
    tunnels.map(async (tunnel, n) =>
      eventually(`${tunnel.name}: ${count} new keys`, () => keysOf(tunnel) >= (before[n] ?? 0) + count || undefined, {
        timeoutMs: 180_000,
      }).catch((error: unknown) => {
        throw new Error(`${String(error)}\n${tunnel.stock.tail}\n${agentTail(scene.agent)}`, { cause: error });
      }),
    ),
  );
}

/** Watches whether status calls every tunnel Connected all the while. */
function watchStatus(tunnels: readonly Tunnel[]): () => string[] {
  const seen = new Set<string>();
  const timer = setInterval(() => {
    for (const { name } of tunnels) {
      const status = connection(peerStatus(scene.agent, name));
      if (status !== 'True/Connected') seen.add(`${name}: ${status}`);
    }
  }, 10);
  return () => {
    clearInterval(timer);
    return [...seen];
  };
}

let tunnels: readonly Tunnel[] = [];
beforeAll(async () => {
  tunnels = await Promise.all([
    client('udp26', openvpn26, 'UDP'),
    client('udp27', openvpn27, 'UDP'),
    client('tcp26', openvpn26, 'TCP'),
    client('tcp27', openvpn27, 'TCP'),
    server('srvudp', openvpn26, 'UDP', 'corp'),
    server('srvtcp', openvpn27, 'TCP', 'other'),
  ]);
});
afterAll(() => {
  for (const { stream } of tunnels) stream.kill();
});

/**
 * Does something to our processes under traffic, and looks whether keys are agreed on afterwards: we ask for the first
 * some seconds after a start, the other ends for the second.
 */
async function keepsAll(action: () => Promise<void>, keys: 1 | 2): Promise<void> {
  const watched = watchStatus(tunnels);
  const peers = scene.kernel.peers().length;
  await action();
  await newKeys(tunnels, tunnels.map(keysOf), keys);
  for (const { stream } of tunnels) await stream.answers(40);
  const troubles = [
    ...watched(),
    ...tunnels.flatMap(({ name, stream: { result } }) =>
      result.lost === 0 ? [] : [`${name} lost ${result.gaps.join('; ')}`],
    ),
    ...tunnels.flatMap((tunnel) => (beginningsOf(tunnel) === 1 ? [] : [`${tunnel.name} began anew`])),
  ];
  if (troubles.length > 0)
    throw new Error(
      [
        ...troubles,
        'our agent:',
        agentTail(scene.agent),
        ...tunnels.map(({ name, stock }) => `${name}: ${stock.tail}`),
      ].join('\n'),
    );
  expect(scene.kernel.peers()).toHaveLength(peers);
}

const restart = async (signal: 'SIGKILL' | 'SIGTERM', pauseMs = 0): Promise<void> => {
  await scene.agent.stopAgent(signal);
  await new Promise((resolve) => setTimeout(resolve, pauseMs));
  await scene.agent.startAgent();
};

describe('tunnels go on without a lost packet, and agree on new keys,', () => {
  test('when the agent is killed, and killed again', async () => {
    await keepsAll(async () => {
      await restart('SIGKILL');
      await restart('SIGKILL');
    }, 2);
  });

  test('when the agent is stopped and comes back later', async () => {
    await keepsAll(async () => restart('SIGTERM', 3_000), 1);
  });

  test('when the holder is killed, and the agent after the next one has everything', async () => {
    await keepsAll(async () => {
      const holder = new HolderClient(scene.agent.holderSocket);
      const held = holder.list();
      expect(held.filter((name) => name.includes('@'))).toHaveLength(6);
      await scene.agent.killHolder();
      scene.agent.startHolder();
      await eventually('the next holder has all', () => String(holder.list()) === String(held) || undefined);
      await restart('SIGKILL');
    }, 1);
  });
});

test('farewells are heard again, and the holder lets go of what is over', async () => {
  const stocks = new Map(tunnels.map(({ name, stock }) => [name, stock]));
  for (const { stream } of tunnels) stream.kill();
  for (const name of ['udp26', 'udp27', 'tcp26', 'tcp27']) {
    await stocks.get(name)!.end('SIGTERM');
    await untilStatus(scene.agent, name, 'gone', (status) => connection(status).startsWith('False/'), 30_000);
  }
  scene.agent.unapply('peer-srvudp.yaml');
  scene.agent.unapply('peer-srvtcp.yaml');
  for (const name of ['srvudp', 'srvtcp'])
    await stocks.get(name)!.until(/CC-EEN exit message received|Connection reset/);
  const names = (): readonly string[] => new HolderClient(scene.agent.holderSocket).list();
  await eventually('the holder lets go', () => {
    const left = names().filter((name) => name.includes('@') && !name.endsWith('@sessions'));
    return left.length === 0 || undefined;
  });
});
