import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { seriesOf } from '../../operator/src/telemetry/metrics.fixture.ts';
import { attachDirectly, detachDirectly } from '../support/office.ts';
import { openvpn26, openvpn27, type OpenvpnProcess, serverAddresses } from '../support/openvpn.ts';
import { agentTail, untilConnected } from '../support/peer-status.ts';
import { eventually, patienceMs } from '../support/run.ts';
import { type Figures, observed, takeFigures, tolerances } from '../soak/figures.ts';
import { fit, grows, settled } from '../soak/growth.ts';
import { netnsOf, nodeVpn, reaches, Scene } from '../e2e/scene.ts';

/**
 * A day in some minutes (docs/reliability.md): periods of an hour take seconds, and peers and pods come and go without
 * pause. After each round, when those who came have gone, what is there is counted, and none of it may grow. Takes
 * about a minute; `npm run soak -- --minutes 20` for longer.
 */
const minutes = Number(process.env['OVPN_SOAK_MINUTES'] ?? 0.6);
const rekeySeconds = 5;
const podsPerRound = 8;
/** Every so many rounds: a client that ends without a word, a server that we dial starts anew. */
const silentEvery = 4;
const restartEvery = 5;

/** Where the agent tells its metrics, on its own host. */
const health = '127.0.0.1:9907';

let scene: Scene;
const pods: string[] = [];
const staying: OpenvpnProcess[] = [];

beforeAll(async () => {
  const spec = { rekey: { seconds: rekeySeconds }, keepalive: { intervalSeconds: 1, timeoutSeconds: 5 } };
  scene = await Scene.open('soak', { spec, network: false, options: ['--health', health] });
  await scene.agent.stopAgent();
  scene.agent.environment = observed(scene.agent);
  scene.applyNetwork({ spec });
  await scene.agent.startAgent();
  await scene.listening();
  for (let n = 0; n < podsPerRound; n++) pods.push(await scene.hosts.namespace(`soak-pod${n}`));
  const stays = {
    udp26: { build: openvpn26 },
    udp27: { build: openvpn27 },
    tcp27: { build: openvpn27, transport: 'TCP' },
  } as const;
  for (const [name, settings] of Object.entries(stays)) {
    scene.admit(name);
    staying.push(await scene.connectedClient(name, settings));
  }
});
afterAll(async () => {
  await scene.close();
});

const comers = {
  c26: { build: openvpn26 },
  c27: { build: openvpn27 },
  t26: { build: openvpn26, transport: 'TCP' },
} as const;

/** What has happened so far. */
const done = { connections: 0, renewals: 0, attachments: 0, dials: 0, rounds: 0 };

/** Handshakes of an agent by how they ended, in both roles. */
async function handshakes(result: 'established' | 'renewed'): Promise<number> {
  const program = `process.stdout.write(await (await fetch('http://${health}/metrics')).text())`;
  const text = await scene.node.exec(process.execPath, '--input-type=module', '-e', program);
  const wanted = [...seriesOf(text)].filter(
    ([name]) => name.startsWith('ovpn_handshakes_total') && name.includes(`"${result}"`),
  );
  return wanted.reduce((sum, [, value]) => sum + value, 0);
}

test('nothing grows while clients, keys and pods come and go', async () => {
  const visitors = await Promise.all(
    Object.entries(comers).map(async ([name, settings]) => {
      const addresses = scene.admit(name);
      return { name, addresses, settings: { ...settings, host: await scene.hosts.host(name) } };
    }),
  );
  const remote = await scene.hosts.host('remote');
  let server = await scene.server(remote, { build: openvpn27 });
  scene.dial('remote', { endpoints: [{ address: remote.ipv4, port: 1194, protocol: 'UDP' }] });
  await untilConnected(scene.agent, 'remote');

  const visit = async ({ name, addresses, settings }: (typeof visitors)[number]): Promise<void> => {
    const client = await scene.connectedClient(name, settings);
    await reaches(netnsOf(client.host), [nodeVpn.ipv4], 1);
    const silent = done.rounds % silentEvery === silentEvery - 1;
    await client.end(silent ? 'SIGKILL' : 'SIGTERM');
    await scene.gone(addresses.ipv4, patienceMs);
  };
  const attachments = async (): Promise<void> => {
    for (const [n, netns] of pods.entries()) await attachDirectly(scene.agent, `soak-pod${n}`, netns);
    for (const [n, netns] of pods.entries()) await detachDirectly(scene.agent, `soak-pod${n}`, netns);
    done.attachments += pods.length;
  };
  const passing = async (): Promise<void> => {
    scene.readmit('passing', { ipv4: '10.80.0.250', ipv6: 'fd80::250' });
    await scene.agent.until('a peer more', ({ networks }) =>
      networks.some(({ peers }) => peers.some(({ name }) => name === 'default/passing')),
    );
    scene.agent.unapply('peer-passing.yaml');
  };

  const samples: Figures[] = [];
  const end = Date.now() + minutes * 60_000;
  while (samples.length < 4 || Date.now() < end) {
    await Promise.all([...visitors.map(visit), attachments(), passing()]);
    if (done.rounds % restartEvery === restartEvery - 1) {
      await server.end('SIGTERM');
      server = await scene.server(remote, { build: openvpn27 });
      await eventually('the remote to be reached again', async () => {
        const { peer } = (await scene.kernel.dialledTo('remote')) ?? {};
        return peer !== undefined || undefined;
      });
      done.dials += 1;
    }
    done.rounds += 1;
    samples.push(await takeFigures(scene.agent, ['corp'], pods));
  }
  await reaches(scene.kernel.path, [serverAddresses[0]], 1);
  for (const client of staying) await reaches(netnsOf(client.host), [nodeVpn.ipv4], 1);
  done.connections = await handshakes('established');
  done.renewals = await handshakes('renewed');
  report(samples);
  const growing = Object.entries(tolerances).filter(([name, tolerance]) => {
    const values = samples.map((sample) => sample[name] ?? Number.NaN);
    return tolerance !== undefined && grows(values, tolerance);
  });
  expect(growing.map(([name]) => name)).toEqual([]);
  expect(agentTail(scene.agent)).not.toMatch(/"level":"(error|fatal)"/);
});

function report(samples: readonly Figures[]): void {
  const rows = Object.keys(tolerances).map((name) => {
    const values = samples.map((sample) => sample[name] ?? Number.NaN);
    const { slope, error, total } = fit(settled(values));
    const numbers = [values[0], values.at(-1), slope.toFixed(2), error.toFixed(2), total.toFixed(1)];
    return `${name.padEnd(34)} ${numbers.map((value) => String(value).padStart(9)).join(' ')}`;
  });
  const text = [JSON.stringify(done), ...rows].join('\n');
  process.stdout.write(`${text}\n`);
  const folder = process.env['LAB_RESULTS'];
  if (folder !== undefined) writeFileSync(join(folder, 'soak.json'), JSON.stringify({ done, samples }));
}
