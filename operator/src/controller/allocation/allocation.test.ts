import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { BlockList } from 'node:net';
import { parseClaimName } from '../../api/allocation.ts';
import { asRecord } from '../../cluster/json.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { FakeClock } from '../../cluster/testing/clock.ts';
import { recordingLog } from '../../cluster/testing/log.ts';
import { modelRuns, modelTimeout } from '../../cluster/testing/model-runs.ts';
import { networkManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { noMeter } from '../../telemetry/metrics.ts';
import { type Change, FakeCluster, fakeWriter, handView } from '../testing/fake-cluster.ts';
import { Allocation } from './allocation.ts';

const peersPath = apiPath('VpnPeer', { namespace: 'team-a' });
const claimsPath = apiPath('VpnAllocation');
const networkPath = apiPath('VpnNetwork', { name: 'offices' });
const second = 1000;

const spec = { pools: { peers: ['10.8.0.0/27', 'fd00:8::/64'], pods: ['10.9.0.0/22'] }, nodes: [] };
const pki = { secretRef: { name: 'pki' } };

/** What the pools of a network may become, and may have been: smaller, moved, of fewer families, of other blocks. */
const otherPools = [
  spec.pools,
  { ...spec.pools, peers: ['10.8.0.0/28', 'fd00:8::/64'] },
  { ...spec.pools, peers: ['10.8.0.0/27'] },
  { ...spec.pools, peers: ['10.18.0.0/27', 'fd00:18::/64'] },
  { ...spec.pools, peers: ['fd00:8::/64'] },
  { ...spec.pools, pods: ['10.19.0.0/22'] },
];

/** Whether each pool has just one of the addresses; of a peer that asks for one, at most. */
function fits(path: string, addresses: readonly string[], { peers }: (typeof otherPools)[number]): boolean {
  const within = peers.map((pool) => {
    const [base = '', length] = pool.split('/');
    const family = base.includes(':') ? 'ipv6' : 'ipv4';
    const list = new BlockList();
    list.addSubnet(base, Number(length), family);
    return addresses.filter((address) => list.check(address, family)).length;
  });
  const asks = /p[67]$/.test(path);
  const inside = within.reduce((sum, count) => sum + count, 0) === addresses.length;
  return inside && within.every((count) => count === 1 || (asks && count === 0));
}

function resize(cluster: FakeCluster, pools: (typeof otherPools)[number]): void {
  const { spec: changed } = networkManifest('offices', { ...spec, pools, pki });
  cluster.edit(networkPath, asRecord(changed) ?? {});
}

/** A manifest of a peer that dials in. */
function client(name: string, addresses: readonly string[] = []): Record<string, unknown> {
  const { apiVersion, kind, metadata } = peerManifest(name);
  const identity = { commonName: name };
  return { apiVersion, kind, metadata, spec: { networkRef: { name: 'offices' }, identity, addresses } };
}

interface Request {
  readonly at: number;
  readonly carryOut: (lose: boolean) => void;
}

/** One controller: its caches lag behind the cluster, and each of its requests waits to be let through. */
class Replica {
  readonly requests: Request[] = [];
  readonly changes: { readonly at: number; readonly change: Change }[] = [];
  readonly dirty = new Set<string>();
  readonly later = new Map<string, number>();
  readonly busy = new Set<string>();
  readonly allocation: Allocation;
  readonly #take: (change: Change) => void;
  alive = true;

  constructor(cluster: FakeCluster, clock: FakeClock) {
    const { view, take } = handView();
    this.#take = take;
    const writer = fakeWriter(
      cluster,
      (request) =>
        new Promise((resolve, reject) => {
          this.requests.push({
            at: clock.now(),
            carryOut: (lose) => {
              try {
                const answer = request();
                if (!lose) resolve(answer);
              } catch (error) {
                if (!lose) reject(error instanceof Error ? error : new Error('no error'));
              }
            },
          });
        }),
    );
    this.allocation = new Allocation({
      caches: view,
      writer,
      events: { record: () => undefined },
      clock,
      random: () => 0,
      log: recordingLog().log,
      meter: noMeter,
      namespace: 'ovpn-system',
    });
    this.allocation.watch((key) => this.dirty.add(key));
    // The list that it begins with.
    for (const { path, object } of cluster.list('/')) take({ path, object, gone: false });
    cluster.onChange((change) => this.alive && this.changes.push({ at: clock.now(), change }));
  }

  hear(): void {
    const next = this.changes.shift();
    if (next !== undefined) this.#take(next.change);
  }

  /** Begins a pass for a key that waits for one. */
  begin(choice: number, now: number): void {
    for (const [key, at] of this.later) if (at <= now && this.later.delete(key)) this.dirty.add(key);
    const keys = [...this.dirty].filter((key) => !this.busy.has(key));
    const key = keys[choice % Math.max(1, keys.length)];
    if (key === undefined) return;
    this.dirty.delete(key);
    this.busy.add(key);
    this.allocation
      .reconcile(key)
      .then(
        (again) => {
          if (again !== undefined) this.later.set(key, now + again);
        },
        () => void this.dirty.add(key),
      )
      .finally(() => this.busy.delete(key));
  }
}

function world() {
  const cluster = new FakeCluster();
  const clock = new FakeClock();
  cluster.create(apiPath('VpnNetwork'), networkManifest('offices', { ...spec, pki }));
  for (const name of ['n1', 'n2']) cluster.create(apiPath('Node'), { metadata: { name } });
  let replicas = [new Replica(cluster, clock), new Replica(cluster, clock)];
  const settle = () => new Promise((resolve) => setImmediate(resolve));

  const published = (): Map<string, readonly string[]> =>
    new Map(
      cluster.list(peersPath).flatMap(({ path, object }) => {
        const allocation = asRecord(asRecord(object['status'])?.['allocation']);
        return allocation === undefined ? [] : [[path, allocation['addresses'] as string[]] as const];
      }),
    );
  /** Nobody has what somebody else has. */
  const check = (): void => {
    const all = [...published().values()].flat();
    expect(new Set(all).size).toBe(all.length);
  };
  /** Time passes, but no watch lags and no request hangs for longer than they can unnoticed. */
  const wait = async (ms: number): Promise<void> => {
    for (const replica of replicas) {
      while ((replica.requests[0]?.at ?? Infinity) < clock.now() + ms - 30 * second)
        replica.requests.shift()?.carryOut(false);
      while ((replica.changes[0]?.at ?? Infinity) < clock.now() + ms - 120 * second) replica.hear();
    }
    await settle();
    clock.advance(ms);
  };
  const restart = (index: number): void => {
    const [old] = replicas.splice(index, 1, new Replica(cluster, clock));
    if (old !== undefined) old.alive = false;
  };
  /** Everything is heard and done, also what takes time: two that race for the last number may take several quarantines. */
  const finish = async (): Promise<void> => {
    for (let idle = 0, round = 0; idle < 40; round++) {
      if (round > 20_000) throw new Error('does not come to rest');
      let worked = false;
      for (const replica of replicas) {
        worked ||= replica.changes.length > 0 || replica.requests.length > 0 || replica.dirty.size > 0;
        while (replica.changes.length > 0) replica.hear();
        replica.requests.shift()?.carryOut(false);
        replica.begin(0, clock.now());
      }
      await settle();
      check();
      if (worked) continue;
      clock.advance(60 * second);
      idle++;
    }
  };
  return {
    cluster,
    clock,
    replicas: () => replicas,
    settle,
    check,
    wait,
    restart,
    finish,
    published,
    stopOne: () => (replicas = replicas.slice(0, 1)),
  };
}

/** Claims of a kind, by who has them. */
function claimsBy(cluster: FakeCluster, kind: 'number' | 'pods'): Record<string, string[]> {
  const found: Record<string, string[]> = {};
  for (const { object } of cluster.list(claimsPath)) {
    const name = String(asRecord(object['metadata'])?.['name']);
    const holder = asRecord(asRecord(object['spec'])?.['holder']);
    const text = String(holder?.['name']);
    if (parseClaimName(name)?.kind === kind) found[text] = [...(found[text] ?? []), name];
  }
  return found;
}

describe('allocation with two controllers, interleaved at every request, that crash anywhere', () => {
  const act = fc.tuple(fc.nat(12), fc.nat(1), fc.nat(7));
  test.each([
    ['short', 60],
    ['long', 400],
  ] as const)(
    'keeps numbers unique and comes to rest: %s runs',
    async (_, length) => {
      await fc.assert(
        fc.asyncProperty(fc.array(act, { maxLength: length, size: 'max' }), async (acts) => {
          const { cluster, clock, replicas, settle, check, wait, restart, finish, published } = world();
          let pools = spec.pools;
          for (const [what, which, choice] of acts) {
            const replica = replicas()[which]!;
            const path = `${peersPath}/p${choice}`;
            if (what <= 2) replica.begin(choice, clock.now());
            else if (what <= 5)
              replica.requests.splice(choice % Math.max(1, replica.requests.length), 1)[0]?.carryOut(false);
            else if (what <= 7) replica.hear();
            else if (what === 8) {
              // A request may be carried out though its sender never hears of it.
              replica.requests.splice(choice, 1)[0]?.carryOut(true);
              restart(which);
            } else if (what === 9) {
              if (cluster.get(path) === undefined)
                cluster.create(peersPath, client(`p${choice}`, choice > 5 ? [`10.8.0.${choice}`] : []));
              else cluster.delete(path);
            } else if (what === 10) {
              const node = apiPath('Node', { name: 'n2' });
              if (choice > 2) await wait(60 * second);
              else if (cluster.get(node) === undefined) cluster.create(apiPath('Node'), { metadata: { name: 'n2' } });
              else cluster.delete(node);
            } else if (what === 11) await wait(choice * 10 * second);
            else resize(cluster, (pools = otherPools[choice % otherPools.length] ?? spec.pools));
            await settle();
            check();
          }
          // Whatever the pools have been meanwhile.
          await finish();
          for (const [path, addresses] of published())
            expect({ path, addresses, fits: fits(path, addresses, pools) }).toMatchObject({ fits: true });
          resize(cluster, spec.pools);
          await finish();
          const peers = cluster.list(peersPath);
          // A peer that asks for an address that somebody got before has to be told; all others have some.
          const without = peers.filter(({ path: at }) => !published().has(at));
          for (const { object } of without) {
            const [condition] = asRecord(object['status'])?.['conditions'] as Record<string, string>[];
            expect(condition).toMatchObject({ reason: 'Conflict', message: expect.stringMatching(/10\.8\.0\.[67] /) });
          }
          const numbers = claimsBy(cluster, 'number');
          const nodes = cluster.list(`${apiPath('Node')}/`).length;
          expect(Object.keys(numbers)).toHaveLength(peers.length - without.length + nodes);
          expect(Object.values(numbers).every((held) => held.length === 1)).toBe(true);
          expect(Object.values(claimsBy(cluster, 'pods')).map((held) => held.length)).toEqual(Array(nodes).fill(1));
          const { writes } = cluster;
          restart(0);
          await finish();
          expect(cluster.writes).toBe(writes);
        }),
        modelRuns(length > 100 ? 25 : 60),
      );
    },
    modelTimeout(120_000),
  );
});

describe('allocation', () => {
  test('gives addresses of each family, and keeps them over everything', async () => {
    const { cluster, finish, published, restart } = world();
    cluster.create(peersPath, client('alice'));
    await finish();
    const before = published();
    expect([...before.values()]).toEqual([
      [expect.stringMatching(/^10\.8\.0\.\d+$/), expect.stringMatching(/^fd00:8::/)],
    ]);
    restart(0);
    restart(1);
    for (const name of ['bob', 'carol']) cluster.create(peersPath, client(name));
    cluster.delete(`${peersPath}/alice`);
    cluster.create(peersPath, client('alice'));
    await finish();
    expect(published().get(`${peersPath}/alice`)).toEqual(before.get(`${peersPath}/alice`));
  });

  test('gives out nothing that a spec names, claimed or not', async () => {
    const { cluster, finish, published } = world();
    cluster.edit(networkPath, {
      ...networkManifest('offices', { ...spec, pki }).spec,
      nodes: [{ name: 'n1', addresses: ['10.8.0.1', 'fd00:8::2'], podBlocks: ['10.9.0.0/26'] }],
    });
    cluster.create(peersPath, client('fixed', ['10.8.0.4']));
    for (const name of ['a', 'b']) cluster.create(peersPath, client(name));
    await finish();
    const given = [...published().values()].map(([first]) => first);
    expect(given).toContain('10.8.0.4');
    expect(given).not.toContain('10.8.0.1');
    expect(given).not.toContain('10.8.0.2');
    expect(claimsBy(cluster, 'pods')).toEqual({ n2: ['offices.pods.1'] });
  });

  test('tells a peer whose address somebody holds, and one for which there is none left', async () => {
    const { cluster, finish, published } = world();
    cluster.create(peersPath, client('first', ['10.8.0.9']));
    await finish();
    cluster.create(peersPath, client('second', ['10.8.0.9']));
    // A /27 has 30 numbers; two are the nodes' and one is taken.
    for (let n = 0; n < 28; n++) cluster.create(peersPath, client(`c${n}`));
    await finish();
    const reasons = cluster.list(peersPath).map(({ path, object }) => {
      const [condition] = asRecord(object['status'])?.['conditions'] as Record<string, string>[];
      return [path.split('/').at(-1), condition?.['reason'], condition?.['message']] as const;
    });
    expect(reasons.filter(([, reason]) => reason === 'PoolFull')).toHaveLength(1);
    const second = reasons.find(([name]) => name === 'second');
    expect(second).toEqual([
      'second',
      'Conflict',
      expect.stringContaining('10.8.0.9 and fd00:8::9 is held by VpnPeer team-a/first'),
    ]);
    expect(published().size).toBe(28);
    cluster.delete(`${peersPath}/first`);
    await finish();
    // The one that waits for its address gets it, though another one waits for any.
    expect(published().get(`${peersPath}/second`)).toEqual(['10.8.0.9']);
  });

  test('gives nothing to whom the network does not admit', async () => {
    const { cluster, finish } = world();
    cluster.create(apiPath('VpnPeer', { namespace: 'team-b' }), {
      ...client('eve'),
      metadata: { namespace: 'team-b', name: 'eve' },
    });
    await finish();
    expect(claimsBy(cluster, 'number')['eve']).toBeUndefined();
  });

  test('keeps a number out of use for a while after its peer is gone, and then forgets it', async () => {
    const { cluster, clock, replicas, settle, finish } = world();
    cluster.create(peersPath, client('alice'));
    await finish();
    const [name] = claimsBy(cluster, 'number')['alice']!;
    cluster.delete(`${peersPath}/alice`);
    const replica = replicas()[0]!;
    for (let step = 0; step < 20; step++) {
      while (replica.changes.length > 0) replica.hear();
      replica.begin(0, clock.now());
      replica.requests.shift()?.carryOut(false);
      await settle();
    }
    expect(asRecord(cluster.get(`${claimsPath}/${name!}`)?.['status'])).toHaveProperty('releasedAt');
    await finish();
    expect(cluster.get(`${claimsPath}/${name!}`)).toBeUndefined();
  });

  test('forgets everything of a network that is gone', async () => {
    const { cluster, finish } = world();
    cluster.create(peersPath, client('alice'));
    await finish();
    expect(cluster.list(claimsPath)).not.toEqual([]);
    cluster.delete(networkPath);
    await finish();
    expect(cluster.list(claimsPath)).toEqual([]);
  });
});
