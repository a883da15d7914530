import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { VpnPeer } from '../../operator/src/api/types.ts';
import { ApiSource } from '../../operator/src/cluster/api-source.ts';
import type { ListWatchTiming } from '../../operator/src/cluster/list-watch.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { recordingLog } from '../../operator/src/cluster/testing/log.ts';
import { Random } from '../fuzz/random.ts';
import type { AuditEvent } from '../support/kube/audit.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import { type Fault, FaultyProxy, noFault, type Passing } from '../support/kube/faulty-proxy.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { eventually } from '../support/run.ts';

/** What an agent knows of a real API server, while the server and the way to it fail in all manners. */
const peers = apiPath('VpnPeer');
const secrets = apiPath('Secret', { namespace: systemNamespace });
const namespace = 'office';
const inNamespace = apiPath('VpnPeer', { namespace });

let plane: ControlPlane;
let agent: KubeUser;
let proxy: FaultyProxy;
const sources: ApiSource[] = [];

beforeAll(async () => {
  plane = await ControlPlane.start();
  await plane.namespace(namespace);
  agent = await plane.agentOf('node-a');
}, 180_000);
afterAll(() => plane.stop());
beforeEach(async () => {
  proxy = await FaultyProxy.start(agent.credentials);
});
afterEach(async () => {
  await Promise.all(sources.splice(0).map((source) => source.stop()));
  await proxy.stop();
  await plane.admin.must('DELETE', inNamespace);
});

interface Followed {
  readonly source: ApiSource;
  /** What it logged. */
  readonly lines: readonly Record<string, unknown>[];
}

async function follow(timing: Partial<ListWatchTiming> = {}): Promise<Followed> {
  const { log, lines } = recordingLog();
  const headers = { authorization: `Bearer ${agent.credentials.token}` };
  const access = { server: proxy.url, authenticate: () => Promise.resolve({ headers }) };
  const source = new ApiSource({
    access,
    node: 'node-a',
    log,
    timing,
    statusRates: { perSecond: 100, newsPerSecond: 100 },
  });
  sources.push(source);
  await source.start();
  return { source, lines };
}

const peer = (name: string, routes: readonly string[] = []) => ({
  apiVersion: 'ovpn-operator.io/v1alpha1',
  kind: 'VpnPeer',
  metadata: { namespace, name },
  spec: { networkRef: { name: 'corp' }, identity: { commonName: name }, addresses: ['10.80.0.5'], routes },
});

const put = (name: string, routes: readonly string[] = []): Promise<unknown> =>
  plane.admin.apply(`${inNamespace}/${name}`, peer(name, routes));

/** Every peer with its version: two that are equal here are equal. */
function versions(all: Iterable<{ metadata: { name: string; resourceVersion?: string } }>): Record<string, string> {
  const found: Record<string, string> = {};
  for (const { metadata } of all) found[metadata.name] = metadata.resourceVersion ?? '';
  return found;
}

async function onServer(): Promise<Record<string, string>> {
  return versions((await plane.admin.get<{ items: VpnPeer[] }>(peers)).items);
}

async function untilEqual(source: ApiSource, timeoutMs = 60_000): Promise<void> {
  await eventually(
    'the source has what the server has',
    async () => {
      expect(versions(source.list('VpnPeer'))).toEqual(await onServer());
      return true;
    },
    { timeoutMs },
  );
}

/** What the agent asked for since a moment, by the server's own account. */
function asked(since: number, path = peers): AuditEvent[] {
  return plane
    .audit()
    .filter(({ user }) => user.username === 'system:serviceaccount:ovpn-system:ovpn-agent')
    .filter(({ requestURI, requestReceivedTimestamp: at }) => requestURI.startsWith(path) && Date.parse(at) >= since);
}

const parameter = ({ requestURI }: AuditEvent, name: string): string | null =>
  new URL(requestURI, 'https://server').searchParams.get(name);

describe('a watch of the real API server', () => {
  test('begins with a list in pages, all of one version', async () => {
    const names = Array.from({ length: 25 }, (_, index) => `p${index}`);
    for (const name of names) await put(name);
    const since = Date.now();
    const { source } = await follow({ pageSize: 10 });
    expect(versions(source.list('VpnPeer'))).toEqual(await onServer());
    const lists = await eventually('the requests are noted', () => {
      const found = asked(since).filter(({ verb, stage }) => verb === 'list' && stage === 'ResponseComplete');
      return found.length >= 3 ? found : undefined;
    });
    expect(lists.map((event) => [parameter(event, 'limit'), parameter(event, 'continue') !== null])).toEqual([
      ['10', false],
      ['10', true],
      ['10', true],
    ]);
  });

  test('goes on from the last bookmark, without a list', async () => {
    const since = Date.now();
    await follow({ watchSeconds: 3 });
    // The watch does not select these Secrets: only bookmarks tell it that the server's version moves on.
    const metadata = { namespace: systemNamespace, name: 'not-ours' };
    const watches = await eventually(
      'three watches',
      async () => {
        const labels = { tick: String(Date.now()) };
        const secret = { apiVersion: 'v1', kind: 'Secret', metadata: { ...metadata, labels } };
        await plane.admin.apply(apiPath('Secret', metadata), secret);
        const found = asked(since, secrets).filter(
          ({ verb, stage }) => verb === 'watch' && stage === 'ResponseStarted',
        );
        return found.length >= 3 ? found : undefined;
      },
      { timeoutMs: 50_000 },
    );
    const from = watches.map((event) => Number(parameter(event, 'resourceVersion')));
    expect(from[1]).toBeGreaterThan(from[0]!);
    expect(from[2]).toBeGreaterThan(from[1]!);
    const lists = asked(since, secrets).filter(({ verb, stage }) => verb === 'list' && stage === 'ResponseComplete');
    expect(lists).toHaveLength(1);
  });

  test('begins anew with a list when the server has forgotten its version, and keeps what it has until then', async () => {
    await put('stays');
    await put('leaves');
    const { source, lines } = await follow({ backoffMaxMs: 500 });
    const told: string[] = [];
    source.on('change', (refs) => void told.push(...refs.map(({ name }) => name)));
    await plane.killApiServer();
    proxy.plan = () => ({ kind: 'refuse', status: 503 });
    await plane.startApiServer();
    await plane.admin.delete(`${inNamespace}/leaves`);
    await put('comes');
    await plane.compact();
    // The server remembers versions from its start on: after this one, it knows none that the watch has seen.
    await plane.killApiServer();
    await plane.startApiServer();
    expect(Object.keys(versions(source.list('VpnPeer'))).sort()).toEqual(['leaves', 'stays']);
    proxy.heal();
    await untilEqual(source);
    expect(told.sort()).toEqual(['comes', 'leaves']);
    const expired = lines.filter(
      ({ path, error }) => path === peers && String(error).includes('too old resource version'),
    );
    expect(expired.map(({ relist }) => relist)).toEqual([true]);
  });

  test('that hangs is noticed and opened anew; one that hangs again leads to a list', async () => {
    await put('a');
    const { source } = await follow({ stallMs: 2000, requestMs: 3000, backoffMaxMs: 500 });
    proxy.plan = ({ watch, path }) => (watch && path === peers ? { kind: 'stall', afterBytes: 0 } : noFault);
    proxy.cutAll();
    await eventually('two watches hang', () => (faultsOf('stall').length >= 2 ? true : undefined));
    await put('a', ['10.2.0.0/16']);
    await untilEqual(source);
  });

  test('an API server that stops in its tracks is missed, and loses nothing', async () => {
    await put('a');
    const { source } = await follow({ stallMs: 2000, requestMs: 2000, backoffMaxMs: 500 });
    plane.pauseApiServer();
    try {
      await eventually('it is missed', () => (source.health().ok ? undefined : true), { timeoutMs: 60_000 });
      expect(source.health().message).toContain('OVPN112');
      expect(Object.keys(versions(source.list('VpnPeer')))).toEqual(['a']);
    } finally {
      plane.resumeApiServer();
    }
    await put('b');
    await untilEqual(source);
    await eventually('all is well again', () => (source.health().ok ? true : undefined));
  });

  test.each([429, 503])('a server that answers %d is asked again after the time that it names', async (status) => {
    await put('a');
    const { source } = await follow({ backoffMs: 50 });
    let refusals = 2;
    proxy.plan = ({ path }): Fault =>
      path === peers && refusals-- > 0 ? { kind: 'refuse', status, retryAfterSeconds: 1 } : noFault;
    proxy.cutAll();
    await put('b');
    await untilEqual(source);
    const times = proxy.seen.filter(({ passing: { path } }) => path === peers).map(({ at }) => at);
    // Behind these is the watch itself: the third request asks how far the server is.
    const [first, second, third] = times.slice(-4) as [number, number, number];
    expect(second - first).toBeGreaterThanOrEqual(1000);
    expect(third - second).toBeGreaterThanOrEqual(1000);
  });

  test('a server that does not come back is asked ever less often', async () => {
    await follow({ backoffMs: 100, backoffMaxMs: 60_000 });
    proxy.plan = () => ({ kind: 'refuse', status: 500 });
    const begin = performance.now();
    proxy.cutAll();
    await eventually('five requests', () => (faultsOf('refuse').length >= 5 ? true : undefined));
    // 100 + 200 + 400 + 800 ms, each shortened by chance by no more than half.
    expect(performance.now() - begin).toBeGreaterThan(750);
  });
});

const faultsOf = (kind: Fault['kind']) =>
  proxy.seen.filter(({ passing, fault }) => passing.path === peers && fault.kind === kind);

/** Watches, lists and writes fail in every manner, about every second time. */
function randomFault(random: Random, { watch }: Passing): Fault {
  const afterBytes = watch ? random.below(4000) : random.below(20_000);
  switch (random.below(14)) {
    case 0:
      return { kind: 'refuse', status: random.pick([410, 429, 500, 503]) };
    case 1:
    case 2:
      return { kind: 'cut', afterBytes, cleanly: false };
    case 3:
      return { kind: 'cut', afterBytes, cleanly: true };
    case 4:
      return { kind: 'stall', afterBytes };
    case 5:
      return { kind: 'delay', ms: random.below(300) };
    case 6:
      return { kind: 'corrupt', atByte: afterBytes };
    case 7:
      return { kind: 'swallow' };
    default:
      return noFault;
  }
}

describe('whatever goes wrong, and in whatever order', () => {
  const seeds = process.env['OVPN_SEED']?.split(',').map(Number) ?? [1, 2, 3];
  test.each(seeds)(
    'in the end the agent has what the server has, and the server what the agent says (seed %d)',
    async (seed) => {
      const random = new Random(seed);
      const constant = ['stays-1', 'stays-2', 'stays-3'];
      for (const name of constant) await put(name);
      const { source } = await follow({
        pageSize: 7,
        requestMs: 1500,
        stallMs: 1500,
        watchSeconds: 2,
        backoffMs: 20,
        backoffMaxMs: 200,
      });
      const lost: string[] = [];
      source.on('change', (refs) => {
        for (const { name } of refs) {
          if (constant.includes(name) && source.get('VpnPeer', namespace, name) === undefined) lost.push(name);
        }
      });
      proxy.plan = (passing) => randomFault(random, passing);
      proxy.cutAll();
      const until = performance.now() + 12_000;
      let round = 0;
      while (performance.now() < until) {
        round += 1;
        const name = `p${random.below(20)}`;
        if (random.below(3) === 0) await plane.admin.send('DELETE', `${inNamespace}/${name}`);
        else await put(name, [`10.${random.below(256)}.0.0/16`]);
        for (const stable of constant) {
          const known = source.get('VpnPeer', namespace, stable);
          if (known !== undefined) source.publishStatus(known, { node: 'node-a', lastError: `round ${round}` });
        }
        await new Promise((resolve) => setTimeout(resolve, random.below(60)));
      }
      proxy.heal();
      await untilEqual(source);
      expect(lost).toEqual([]);
      expect(source.complete).toBe(true);
      expect(source.rejections).toEqual([]);
      await eventually('the last status is written', async () => {
        for (const name of constant) {
          const { status } = await plane.admin.get<{ status: unknown }>(`${inNamespace}/${name}`);
          expect(status).toEqual({ node: 'node-a', lastError: `round ${round}` });
        }
        return true;
      });
      await eventually('all is well', () => (source.health().ok ? true : undefined));
    },
    120_000,
  );
});
