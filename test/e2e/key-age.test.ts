import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openvpn26, openvpn27 } from '../support/openvpn.ts';
import { eventually } from '../support/run.ts';
import { Scene } from './scene.ts';

/** Client keys of tls-crypt-v2 that are too old are refused; OpenVPN itself writes the time of issue into them. */
let scene: Scene;
const maxKeyAgeDays = 30;
const daysAgo = (days: number): number => Math.floor(Date.now() / 1000) - days * 86_400;

beforeAll(async () => {
  scene = await Scene.open('keyage', {
    wrap: 'tls-crypt-v2',
    spec: { controlChannel: { wrap: 'TLSCryptV2', secretRef: { name: 'corp-wrap' }, maxKeyAgeDays } },
  });
});
afterAll(async () => {
  await scene.close();
});

test.each([
  ["that OpenVPN's own program has just made", undefined],
  ['that is as good as too old', maxKeyAgeDays - 1],
])('a client gets in with a key %s', async (title, days) => {
  const name = days === undefined ? 'fresh' : 'aged';
  scene.admit(name);
  const keys = days === undefined ? {} : { keys: scene.keys.issuedAt(daysAgo(days)) };
  const client = await scene.connectedClient(name, { build: openvpn27, ...keys });
  expect([title, client.running]).toEqual([title, true]);
});

test('a client with a key that is too old gets no answer, and our log says why', async () => {
  scene.admit('late');
  const keys = scene.keys.issuedAt(daysAgo(maxKeyAgeDays + 1));
  const client = await scene.client('late', {
    build: openvpn26,
    keys,
    config: ['connect-retry-max 1', 'hand-window 8'],
  });
  await client.until(/TLS key negotiation failed to occur within/);
  await eventually(
    'our log names the key',
    () =>
      scene.agent
        .said('session.refused')
        .some(({ reason }) => /tls-crypt-v2 key .*not accepted/.test(String(reason))) || undefined,
  );
});
