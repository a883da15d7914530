import { KubeConfig } from '@kubernetes/client-node';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { formatRef } from '../api/types.ts';
import { testMetrics, valueOf } from '../telemetry/metrics.fixture.ts';
import { ApiSource } from './api-source.ts';
import type { ApiSourceOptions } from './api-source.ts';
import { kubeAccess, loadKubeAccess } from './kube-access.ts';
import { ScriptedServer, event, page, refuse, watching } from './testing/api-server.ts';
import type { Step } from './testing/api-server.ts';
import { FakeClock, pause, until } from './testing/clock.ts';
import { recordingLog } from './testing/log.ts';
import { networkManifest, peerManifest } from './testing/objects.ts';
import { replay } from './testing/replay.ts';

const peers = '/apis/ovpn-operator.io/v1alpha1/vpnpeers';
const secrets = '/api/v1/namespaces/ovpn-system/secrets';
const nodes = '/api/v1/nodes';
const p1Status = '/apis/ovpn-operator.io/v1alpha1/namespaces/team-a/vpnpeers/p1/status';
const n1 = { metadata: { name: 'n1', resourceVersion: '1', labels: { zone: 'a' } } };

let server: ScriptedServer;
const running: ApiSource[] = [];

beforeEach(async () => {
  server = new ScriptedServer();
  await server.start();
});

afterEach(async () => {
  await Promise.all(running.splice(0).map((source) => source.stop()));
  await server.stop();
});

function make(options: Partial<ApiSourceOptions> = {}) {
  const clock = new FakeClock();
  const { log, lines } = recordingLog();
  const metrics = testMetrics('agent');
  const written = (result = 'written'): Promise<number> =>
    valueOf(metrics, `ovpn_status_writes_total{result="${result}"}`);
  const source = new ApiSource({
    access: server.access(),
    node: 'n1',
    log,
    meter: metrics,
    clock,
    random: () => 0.5,
    ...options,
  });
  running.push(source);
  const changes: string[] = [];
  source.on('change', (refs) => changes.push(...refs.map(formatRef)));
  const names = (): string[] => [...source.list('VpnPeer')].map((peer) => peer.metadata.name).sort();
  const wait = (what: string, holds: () => boolean | Promise<boolean>, stepMs = 1_000): Promise<void> =>
    until(what, async () => {
      if (await holds()) return true;
      clock.advance(stepMs);
      return false;
    });
  return { source, clock, lines, written, changes, names, wait };
}

const served = (name: string, version: string, spec: object = {}, metadata: object = {}): object =>
  peerManifest(name, spec, {
    namespace: 'team-a',
    uid: `uid-${name}`,
    resourceVersion: version,
    generation: 1,
    ...metadata,
  });

const secretCopy = (name: string, version: string, annotations: object, text = 'key'): object => ({
  metadata: { namespace: 'ovpn-system', name, resourceVersion: version, annotations },
  data: { 'static.key': Buffer.from(text).toString('base64') },
  type: 'Opaque',
});

describe('ApiSource replays a session', () => {
  test('lists in pages, all kinds of events, 410, 429 and a list anew', async () => {
    const surprises = replay(server, new URL('./testing/watch-session.jsonl', import.meta.url));
    const { source, changes, names, wait } = make();
    const labels: object[] = [];
    source.on('nodeLabels', (now) => labels.push(now));
    expect(source.complete).toBe(false);
    await source.start();
    let seenP3Gone = false;
    source.on('change', () => (seenP3Gone ||= !names().includes('p3')));
    expect(source.complete).toBe(true);
    await wait('the second list of peers', () => names().includes('p5'));
    await wait(
      'the second watch of keys',
      () => server.watches('/apis/ovpn-operator.io/v1alpha1/vpnkeys').length === 2,
    );
    await pause(20);
    expect(surprises).toEqual([]);
    expect(names()).toEqual(['p1', 'p3', 'p5']);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.spec.suspend).toBe(true);
    // Its invalid version in between left the one before in force; the list brought a good one.
    expect(seenP3Gone).toBe(false);
    expect(source.get('VpnPeer', 'team-a', 'p3')?.metadata.generation).toBe(3);
    expect(source.get('VpnNetwork', undefined, 'offices')?.status).toEqual({ observedGeneration: 1 });
    expect(source.get('VpnKey', 'team-a', 'office')?.spec.static?.generation).toBe(1);
    // Secrets stand where their originals are; of two copies of one, the first by name counts.
    const secret = source.get('Secret', 'team-a', 'office-key');
    expect(Buffer.from(secret?.data['static.key'] ?? []).toString()).toBe('first');
    expect(source.get('Secret', 'team-b', 'other')).toBeDefined();
    expect(source.get('Secret', 'ovpn-system', 'offices-1')).toBeUndefined();
    expect(source.rejections.map(({ origin, errors }) => [origin, errors[0]?.name])).toEqual([
      [`${secrets}/offices-3`, 'DuplicateObject'],
    ]);
    expect(labels).toEqual([
      { 'kubernetes.io/hostname': 'n1', zone: 'a' },
      { 'kubernetes.io/hostname': 'n1', zone: 'b' },
    ]);
    expect(source.nodeLabels).toEqual({ 'kubernetes.io/hostname': 'n1', zone: 'b' });
    // The status of the network changed, and nothing else of it.
    expect(changes.filter((ref) => ref.startsWith('VpnNetwork')).length).toBe(1);
    expect(source.complete).toBe(true);
    expect(source.health()).toEqual({ ok: true, message: '' });
  });

  test('asks for what its role allows, and no more', async () => {
    const { source } = make({ namespace: 'vpn' });
    await source.start();
    expect(server.lists('/api/v1/namespaces/vpn/secrets')[0]?.query).toEqual({
      limit: '500',
      labelSelector: 'ovpn-operator.io/material=true',
    });
    expect(server.lists(nodes)[0]?.query).toEqual({ limit: '500', fieldSelector: 'metadata.name=n1' });
    expect(server.requests.every(({ path }) => !path.endsWith('/secrets') || path.includes('/namespaces/vpn/'))).toBe(
      true,
    );
  });
});

describe('ApiSource keeps', () => {
  test('what is invalid from stopping the rest, and is incomplete without a good version', async () => {
    server.script(nodes, page([n1], '1'));
    const bad = served('bad', '2', { endpoint: { address: 'nonsense', port: 1 } });
    server.script(peers, page([served('p1', '1'), bad], '10'));
    const { source, names } = make();
    await source.start();
    expect(names()).toEqual(['p1']);
    expect(source.complete).toBe(false);
    expect(source.rejections[0]).toMatchObject({
      ref: { kind: 'VpnPeer', namespace: 'team-a', name: 'bad' },
      origin: '/apis/ovpn-operator.io/v1alpha1/namespaces/team-a/vpnpeers/bad',
    });
    await server.send(peers, event('MODIFIED', served('bad', '11')));
    await until('mended', () => source.complete);
    expect(names()).toEqual(['bad', 'p1']);
    await server.send(peers, event('MODIFIED', served('p1', '12', { endpoint: { address: 'nonsense', port: 1 } })));
    await until('the rejection', () => source.rejections.length === 1);
    expect(source.complete).toBe(true);
    expect(source.get('VpnPeer', 'team-a', 'p1')?.spec.endpoint?.address).toBe('198.51.100.7');
    await server.send(peers, event('DELETED', served('p1', '13', { endpoint: { address: 'nonsense', port: 1 } })));
    await until('the removal', () => names().join() === 'bad');
    expect(source.rejections).toEqual([]);
  });

  test('objects while the server is away, and says that it is', async () => {
    server.script(nodes, page([n1], '1'));
    server.script(peers, page([served('p1', '1')], '10'), watching('', 'break'), refuse(503, 'ServiceUnavailable'));
    server.script(peers, page([], '10'));
    const { source, names, changes, wait } = make();
    await source.start();
    await wait('trouble', () => source.health().message.includes('503'));
    expect(source.health().message).toContain('OVPN112');
    expect(names()).toEqual(['p1']);
    expect(source.complete).toBe(true);
    await wait('health', () => source.health().ok);
    expect(changes).toEqual(['VpnPeer team-a/p1']);
  });

  test('the labels of a Node that went, and is incomplete before it was seen', async () => {
    const { source } = make();
    await source.start();
    expect(source.complete).toBe(false);
    expect(source.nodeLabels).toEqual({});
    await server.send(nodes, event('ADDED', n1));
    await until('the node', () => source.complete);
    await server.send(nodes, event('DELETED', { metadata: { ...n1.metadata, resourceVersion: '9' } }));
    await pause(30);
    expect(source.nodeLabels).toEqual({ zone: 'a' });
    expect(source.complete).toBe(true);
  });

  test.each([
    ['no annotation', {}],
    ['one of another form', { 'ovpn-operator.io/source': 'office-key' }],
    ['one that climbs', { 'ovpn-operator.io/source': '../kube-system/admin' }],
  ])('a Secret out that has %s', async (_what, annotations) => {
    server.script(nodes, page([n1], '1'));
    server.script(secrets, page([secretCopy('s1', '1', annotations, 'hush')], '10'));
    const { source, lines } = make();
    await source.start();
    expect([...source.list('Secret')]).toEqual([]);
    expect(source.rejections[0]?.errors[0]?.name).toBe('InvalidField');
    expect(source.complete).toBe(false);
    expect(JSON.stringify([lines, source.rejections])).not.toMatch(/hush|aHVzaA/);
  });

  test('the Secret of another copy when the first copy goes', async () => {
    const annotations = { 'ovpn-operator.io/source': 'team-a/office-key' };
    server.script(
      secrets,
      page([secretCopy('s1', '1', annotations, 'one'), secretCopy('s2', '2', annotations, 'two')], '10'),
    );
    const { source } = make();
    await source.start();
    const text = (): string =>
      Buffer.from(source.get('Secret', 'team-a', 'office-key')?.data['static.key'] ?? []).toString();
    expect(text()).toBe('one');
    await server.send(secrets, event('DELETED', secretCopy('s1', '11', annotations, 'one')));
    await until('the other', () => text() === 'two');
    await server.send(secrets, event('DELETED', secretCopy('s2', '12', annotations, 'two')));
    await until('none', () => text() === '');
  });
});

describe('ApiSource writes status', () => {
  async function synced(options: Partial<ApiSourceOptions> = {}, count = 1) {
    server.script(nodes, page([n1], '1'));
    server.script(
      peers,
      page(
        Array.from({ length: count }, (_, index) => served(`p${index + 1}`, '1')),
        '10',
      ),
    );
    const made = make(options);
    await made.source.start();
    const peer = (name = 'p1') => made.source.get('VpnPeer', 'team-a', name)!;
    return { ...made, peer };
  }

  test('by server-side apply, forced, under the name of the node', async () => {
    const { source, peer, written } = await synced();
    source.publishStatus(peer(), { node: 'n1', peerID: 7 });
    await until('the write', async () => (await written()) === 1);
    const [write] = server.writes();
    expect(write?.path).toBe(p1Status);
    expect(write?.query).toEqual({ fieldManager: 'ovpn-agent/n1', force: 'true' });
    expect(write?.headers['content-type']).toBe('application/apply-patch+yaml');
    expect(JSON.parse(write?.body ?? '')).toEqual({
      apiVersion: 'ovpn-operator.io/v1alpha1',
      kind: 'VpnPeer',
      metadata: { namespace: 'team-a', name: 'p1', uid: 'uid-p1' },
      status: { node: 'n1', peerID: 7 },
    });
  });

  test('of cluster-scoped objects, too', async () => {
    server.script('/apis/ovpn-operator.io/v1alpha1/vpnnetworks', page([networkManifest('offices')], '1'));
    const { source } = await synced();
    source.publishStatus(source.get('VpnNetwork', undefined, 'offices')!, {});
    await until('the write', () => server.writes().length === 1);
    expect(server.writes()[0]?.path).toBe('/apis/ovpn-operator.io/v1alpha1/vpnnetworks/offices/status');
  });

  test('never twice the same', async () => {
    const { source, peer } = await synced();
    source.publishStatus(peer(), { node: 'n1', peerID: 7 });
    await until('the write', () => server.writes().length === 1 && server.open(p1Status) === 0);
    await pause(20);
    source.publishStatus(peer(), { peerID: 7, node: 'n1' });
    await server.send(peers, event('MODIFIED', served('p1', '99')));
    await pause(50);
    source.publishStatus(peer(), { peerID: 7, node: 'n1' });
    await pause(50);
    expect(server.writes().length).toBe(1);
  });

  test('one at a time per object, and of those that wait the last', async () => {
    const held: (() => void)[] = [];
    const hold: Step = (response) =>
      void held.push(() => {
        response.writeHead(200);
        response.end('{}');
      });
    server.script(p1Status, hold);
    const { source, peer } = await synced();
    source.publishStatus(peer(), { peerID: 1 });
    await until('the first write', () => held.length === 1);
    for (const peerID of [2, 3, 4]) source.publishStatus(peer(), { peerID });
    await pause(30);
    expect(server.writes().length).toBe(1);
    held[0]?.();
    await until('the second write', () => server.writes().length === 2);
    await pause(30);
    expect(server.writes().map(({ body }) => (JSON.parse(body) as { status: unknown }).status)).toEqual([
      { peerID: 1 },
      { peerID: 4 },
    ]);
  });

  test('not again when it is back to what is in flight', async () => {
    const { source, peer } = await synced();
    source.publishStatus(peer(), { peerID: 1 });
    source.publishStatus(peer(), { peerID: 2 });
    source.publishStatus(peer(), { peerID: 1 });
    await until('the write', () => server.writes().length === 1);
    await pause(50);
    expect(server.writes().map(({ body }) => (JSON.parse(body) as { status: unknown }).status)).toEqual([
      { peerID: 1 },
    ]);
  });

  test('again what was written before, after a write whose outcome is not known', async () => {
    const { source, peer, written, wait } = await synced();
    source.publishStatus(peer(), { peerID: 1 });
    await until('the first write', async () => (await written()) === 1);
    server.script(p1Status, (response) => response.destroy());
    source.publishStatus(peer(), { peerID: 2 });
    await until('the failure', async () => (await written('failed')) === 1);
    source.publishStatus(peer(), { peerID: 1 });
    await wait('the write', async () => (await written()) === 2);
    expect((JSON.parse(server.writes().at(-1)?.body ?? '') as { status: unknown }).status).toEqual({ peerID: 1 });
  });

  test('at a limited rate', async () => {
    const { source, peer, clock, wait } = await synced({ statusRates: { newsPerSecond: 5, newsBurst: 20 } }, 50);
    for (let index = 1; index <= 50; index += 1) source.publishStatus(peer(`p${index}`), { peerID: index });
    await until('the burst', () => server.writes().length === 20);
    await pause(50);
    expect(server.writes().length).toBe(20);
    clock.advance(1_000);
    await until('a second more', () => server.writes().length === 25);
    await pause(30);
    expect(server.writes().length).toBe(25);
    await wait('the rest', () => server.writes().length === 50, 200);
    expect(new Set(server.writes().map(({ path }) => path)).size).toBe(50);
  });

  test('again after what may pass, with what is wanted by then', async () => {
    server.script(
      p1Status,
      refuse(500, 'InternalError'),
      refuse(429, 'TooManyRequests', { 'retry-after': '3' }),
      (response) => response.destroy(),
    );
    const { source, peer, wait, written } = await synced();
    source.publishStatus(peer(), { peerID: 1 });
    await until('the first failure', () => !source.health().ok);
    expect(source.health().message).toContain('VpnPeer team-a/p1');
    source.publishStatus(peer(), { peerID: 2 });
    await pause(20);
    expect(server.writes().length).toBe(1);
    await wait('the write', async () => (await written()) === 1);
    expect(
      server.writes().map(({ body }) => (JSON.parse(body) as { status: { peerID: number } }).status.peerID),
    ).toEqual([1, 2, 2, 2]);
    expect(source.health().ok).toBe(true);
  });

  test('not again for an object that is gone, nor what is refused for good', async () => {
    server.script(p1Status, refuse(404, 'NotFound'), refuse(422, 'Invalid'));
    const { source, peer, clock, written, lines } = await synced();
    source.publishStatus(peer(), { peerID: 1 });
    await until('gone', async () => (await written('gone')) === 1);
    source.publishStatus(peer(), { peerID: 2 });
    await until('refused', async () => (await written('refused')) === 1);
    clock.advance(100_000);
    await pause(30);
    expect(server.writes().length).toBe(2);
    expect(lines.filter(({ level }) => level === 'error').length).toBe(1);
    source.publishStatus(peer(), { peerID: 3 });
    await until('what differs is written', async () => (await written()) === 1);
  });

  test('of an object made anew, though it is the same', async () => {
    const { source, peer } = await synced();
    source.publishStatus(peer(), { peerID: 1 });
    await until('the write', () => server.writes().length === 1);
    await server.send(
      peers,
      event('DELETED', served('p1', '11')) + event('ADDED', served('p1', '12', {}, { uid: 'another' })),
    );
    await until('the new object', () => peer().metadata.uid === 'another');
    source.publishStatus(peer(), { peerID: 1 });
    await until('the second write', () => server.writes().length === 2);
    expect(server.writes()[1]?.body).toContain('"uid":"another"');
  });
});

describe('ApiSource at size', () => {
  test('10,000 objects are listed, and listed again without a change', async () => {
    const all = Array.from({ length: 10_000 }, (_, index) => {
      const [high, low] = [index >> 8, index & 255];
      return served(`p${index}`, '1', { static: { peerID: index }, addresses: [`10.8.${high}.${low}`] });
    });
    const pages = (version: string): Step[] =>
      Array.from({ length: 20 }, (_, index) =>
        page(all.slice(index * 500, index * 500 + 500), version, index < 19 ? `page-${index + 1}` : undefined),
      );
    server.script(nodes, page([n1], '1'));
    server.script(peers, ...pages('10'), refuse(410, 'Gone'), ...pages('20'));
    const { source, changes, names, wait } = make();
    const began = performance.now();
    await source.start();
    const took = performance.now() - began;
    expect(names().length).toBe(10_000);
    expect(server.lists(peers).length).toBe(20);
    await pause(20);
    expect(changes.length).toBe(10_000);
    await wait('the second list', () => server.watches(peers).length === 2, 100);
    await pause(50);
    expect(changes.length).toBe(10_000);
    process.stderr.write(`10,000 objects listed in ${Math.round(took)} ms\n`);
    // Some five times what a slow machine needs: this is to catch what grows with the square.
    expect(took).toBeLessThan(15_000);
  }, 60_000);
});

describe('kubeAccess', () => {
  test.each(['http://10.0.0.1:8080', 'http://127.example.com', 'api.example.com:6443', ''])(
    'refuses %j as a server',
    (server) => {
      const config = new KubeConfig();
      config.loadFromClusterAndUser({ name: 'home', server, skipTLSVerify: false }, { name: 'me' });
      expect(() => kubeAccess(config)).toThrow(/kubeconfig: clusters\[\]\.cluster\.server: .*"home".*https.*OVPN405/);
    },
  );

  test.each(['https://api.example.com', 'http://127.0.0.1:8001', 'http://localhost:8001', 'http://[::1]:8001'])(
    'takes %j',
    (server) => {
      const config = new KubeConfig();
      config.loadFromClusterAndUser({ name: 'home', server, skipTLSVerify: false }, { name: 'me' });
      expect(kubeAccess(config).server).toBe(server);
    },
  );
});

describe('loadKubeAccess', () => {
  test('names what is wrong with a kubeconfig', async () => {
    await expect(loadKubeAccess({ kubeconfig: '/nonexistent/config' })).rejects.toMatchObject({
      name: 'ConfigInvalid',
    });
    await expect(loadKubeAccess({ context: 'nowhere' })).rejects.toThrow('nowhere');
  });
});
