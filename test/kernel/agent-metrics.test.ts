import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { seriesOf } from '../../operator/src/telemetry/metrics.fixture.ts';
import { agentProgram, ping } from '../support/hosts.ts';
import { Office } from '../support/office.ts';
import { eventually } from '../support/run.ts';

/** A real agent's health and metrics, with a static peer that carries traffic. */
let office: Office;
beforeAll(async () => {
  office = await Office.open('metr', { options: ['--status-interval', '1'] });
});
afterAll(async () => {
  await office.close();
});

const url = 'http://127.0.0.1:9908';

/** Runs a program for Node.js on the node's host: the agent listens on its loopback only. */
const onNode = (program: string): Promise<string> =>
  office.agent.host.exec(process.execPath, '--input-type=module', '-e', program);

async function scrape(): Promise<ReadonlyMap<string, number>> {
  return seriesOf(await office.agent.metrics());
}

const peer = '{network="corp",namespace="default",peer="office"}';

test('what the kernel counts of a peer grows with its traffic', async () => {
  const before = await scrape();
  expect(before.get(`ovpn_peer_connected${peer}`)).toBe(1);
  expect(before.get('ovpn_network_ready{network="corp"}')).toBe(1);
  expect(before.get('ovpn_network_attachments{network="corp"}')).toBe(1);
  expect(before.get('ovpn_attach_requests_total{verb="add",result="ok"}')).toBe(1);
  await ping(office.pod.netns, office.lan.ipv4, { count: 5 });
  const grown = (series: string, after: ReadonlyMap<string, number>): number =>
    (after.get(series + peer) ?? 0) - (before.get(series + peer) ?? 0);
  const after = await eventually('the next look at the counters', async () => {
    const now = await scrape();
    return grown('ovpn_peer_vpn_received_packets_total', now) >= 5 ? now : undefined;
  });
  for (const way of ['received', 'transmitted']) {
    // Five times an IPv4 header, one of ICMP and 56 bytes.
    expect(grown(`ovpn_peer_vpn_${way}_bytes_total`, after)).toBeGreaterThanOrEqual(5 * 84);
    // And around each what encryption and UDP add.
    expect(grown(`ovpn_peer_link_${way}_bytes_total`, after)).toBeGreaterThan(
      grown(`ovpn_peer_vpn_${way}_bytes_total`, after),
    );
  }
});

test('an agent that starts is not ready before it has read its resources', async () => {
  await office.agent.stopAgent();
  // What is in error has to stay so for a while before it is believed.
  office.agent.apply('broken.yaml', 'spec: [');
  const watched = onNode(`
    const seen = [];
    for (const end = Date.now() + 90_000; Date.now() < end && seen.at(-1)?.[0] !== 200; ) {
      const answer = await fetch('${url}/readyz').catch(() => undefined);
      const now = answer === undefined ? undefined : [answer.status, await answer.text()];
      if (now !== undefined && now[0] !== seen.at(-1)?.[0]) seen.push(now);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    process.stdout.write(JSON.stringify(seen));`);
  await office.agent.startAgent();
  expect(JSON.parse(await watched)).toEqual([
    [503, 'the resources have not been read yet\n'],
    [200, 'ok\n'],
  ]);
  office.agent.unapply('broken.yaml');
});

test('an agent whose address is taken says so and ends', async () => {
  const folder = mkdtempSync(join(office.hosts.folder, 'second-'));
  const options = ['--manifests', folder, '--state', folder, '--socket', join(folder, 's'), '--holder', 'none'];
  const second = office.agent.host.exec(process.execPath, agentProgram, 'run', ...options);
  await expect(second).rejects.toThrow(/option --health: cannot listen on 127\.0\.0\.1:9908: .*EADDRINUSE/);
});
