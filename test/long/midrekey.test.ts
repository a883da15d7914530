import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openvpn26, openvpn27 } from '../support/openvpn.ts';
import { PingStream } from '../support/stream.ts';
import { netnsOf, nodeVpn, Scene } from '../e2e/scene.ts';
let scene: Scene;
beforeAll(async () => {
  scene = await Scene.open('mid', {
    spec: { keepalive: { intervalSeconds: 2, timeoutSeconds: 10 }, rekey: { seconds: 0 } },
    options: ['--resync', '1'],
  });
});
afterAll(async () => scene.close());
test.each([
  ['u26', openvpn26, 'UDP'],
  ['u27', openvpn27, 'UDP'],
  ['t26', openvpn26, 'TCP'],
  ['t27', openvpn27, 'TCP'],
] as const)('%s', async (name, build, transport) => {
  scene.admit(name);
  const stock = await scene.connectedClient(name, {
    build,
    transport,
    config: ['reneg-sec 12', 'hand-window 10', 'verb 4'],
  });
  const stream = await PingStream.start(netnsOf(stock.host), nodeVpn.ipv4, 20);
  let soft = -1;
  const t0 = Date.now();
  while (Date.now() - t0 < 60_000) {
    await new Promise((r) => setTimeout(r, 2));
    if (stock.log.includes('TLS: soft reset')) {
      soft = Date.now();
      break;
    }
  }
  while (!/VERIFY OK: depth=0[^]*VERIFY OK: depth=0/.test(stock.log) && Date.now() - soft < 2_000)
    await new Promise((r) => setTimeout(r, 1));
  await scene.agent.stopAgent('SIGKILL');
  await scene.agent.startAgent();
  await new Promise((r) => setTimeout(r, 40_000));
  const result = stream.result;
  stream.kill();
  process.stdout.write(
    `${name}: killed after ${soft} lost ${result.lost} of ${result.sent}: ${result.gaps.join('; ')}\n${stock.tail}\n---\n`,
  );
  process.stdout.write(scene.agent.log.split('\n').slice(-25).join('\n') + '\n=====\n');
  await stock.end('SIGKILL');
  expect(soft).toBeGreaterThan(0);
});
