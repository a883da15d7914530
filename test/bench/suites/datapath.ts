import { Hosts } from '../../support/hosts.ts';
import { attempt, eventually, run, Service } from '../../support/run.ts';
import { type Row, row, type SuiteContext } from '../suite.ts';
import { openvpnPath, ourPaths, type Path, wireguardPath } from './datapath-tunnels.ts';
import { benchPki } from './handshake-pki.ts';

const rounds = 5;
const seconds = 3;
const pings = 300;
/** WireGuard has no other. */
const cipher = 'CHACHA20-POLY1305';
/** Bytes of UDP, as a call or a game sends them. */
const smallPacket = 200;

/** What one path costs. All are times, so less is better. */
interface Costs {
  readonly bulk: number[];
  readonly small: number[];
  readonly roundTrip: number[];
}

/** From pod to pod through our tunnel, beside its ovpn device alone, WireGuard, and OpenVPN's own data channel. */
export async function datapathSuite({ pki, progress }: SuiteContext): Promise<Row[]> {
  const hosts = await Hosts.create('benchd');
  try {
    progress('making the tunnels');
    const { pods, bare } = await ourPaths(hosts, cipher);
    const others = [bare, await wireguardPath(hosts), await openvpnPath(hosts, benchPki(pki), cipher)];
    const costs = new Map<Path, Costs>();
    for (const path of [pods, ...others]) {
      costs.set(path, { bulk: [], small: [], roundTrip: [] });
      const server = new Service('nsenter', [`--net=${path.to}`, 'iperf3', '--server']);
      hosts.onCleanup(() => server.end('SIGKILL'));
      // Whether it is through, and the first packets, which do more.
      await roundTrip(path, 20);
    }
    for (let round = 1; round <= rounds; round++) {
      for (const [path, { bulk, small, roundTrip: times }] of costs) {
        progress(`round ${round} of ${rounds}: ${path.name}`);
        bulk.push(await bulkCost(path));
        small.push(await packetCost(path));
        times.push(await roundTrip(path, pings));
      }
    }
    return others.flatMap((other) => compared(costs.get(pods), costs.get(other), other.name));
  } finally {
    await hosts.remove();
  }
}

function compared(ours: Costs | undefined, peer: Costs | undefined, peerName: string): Row[] {
  const of = (name: string, unit: string, which: keyof Costs): Row =>
    row('datapath', name, unit, { ours: ours?.[which] ?? [], peer: peer?.[which] ?? [], peerName });
  return [
    of('pod to pod, TCP', 'µs/MiB', 'bulk'),
    of(`pod to pod, UDP of ${smallPacket} bytes`, 'µs/packet', 'small'),
    of('pod to pod, round trip', 'µs', 'roundTrip'),
  ];
}

async function iperf(path: Path, ...words: string[]): Promise<Record<string, number>> {
  const args = ['iperf3', '--client', path.address, '--time', `${seconds}`, '--json', ...words];
  const text = await eventually(`iperf3 through ${path.name}`, async () => {
    const { code, stdout, stderr } = await attempt('nsenter', [`--net=${path.from}`, ...args]);
    if (code === 0) return stdout;
    // The test before has ended here, and not yet there.
    if (stdout.includes('the server is busy')) return undefined;
    throw new Error(`${stderr}${stdout}`);
  });
  const { end } = JSON.parse(text) as { readonly end?: Readonly<Record<string, Record<string, number>>> };
  const sum = end?.['sum_received'] ?? end?.['sum'];
  if (sum === undefined) throw new Error(`iperf3 through ${path.name} said no sum: ${text.slice(0, 500)}`);
  return sum;
}

/** Microseconds for a MiB that arrived, one TCP connection. */
async function bulkCost(path: Path): Promise<number> {
  const { bytes = 0, seconds: took = 0 } = await iperf(path);
  if (bytes === 0) throw new Error(`nothing arrived through ${path.name}`);
  return (took * 1e6) / (bytes / 2 ** 20);
}

/** Microseconds for a packet that arrived, of as many as can be sent. */
async function packetCost(path: Path): Promise<number> {
  const sum = await iperf(path, '--udp', '--bitrate', '0', '--length', `${smallPacket}`);
  const { packets = 0, lost_packets: lost = 0, seconds: took = 0 } = sum;
  if (packets - lost <= 0) throw new Error(`no packet arrived through ${path.name}: ${JSON.stringify(sum)}`);
  return (took * 1e6) / (packets - lost);
}

/** Microseconds of a ping's way there and back, on average. */
async function roundTrip(path: Path, count: number): Promise<number> {
  const text = await run(
    'nsenter',
    ...[`--net=${path.from}`, 'ping', '-q', '-c', `${count}`, '-i', '0.005', path.address],
  );
  const average = /= [\d.]+\/([\d.]+)\//.exec(text)?.[1];
  if (average === undefined) throw new Error(`ping through ${path.name} said: ${text}`);
  return Number(average) * 1000;
}
