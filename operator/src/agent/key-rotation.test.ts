import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { mkdtempSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { NetlinkError } from '../kernel/netlink/error.ts';
import type { Outcome, Request } from '../kernel/netlink/socket.ts';
import type { NewKey, Peer, Traffic } from '../kernel/ovpn/codec.ts';
import { OvpnRequests } from '../kernel/ovpn/family.ts';
import type { KeySlot } from '../kernel/ovpn/uapi.ts';
import { silentLog } from '../telemetry/log.ts';
import type { DesiredPeer } from './desired.ts';
import { type KeyKernel, KeyRotation, type KeyRound } from './key-rotation.ts';
import type { KeySlots, SlotKey } from './key-slots.ts';
import { Ledger } from './ledger.ts';
import type { ObservedNetwork } from './observed.ts';

const T = 60_000;
const cleanups: (() => void)[] = [];
afterEach(() => {
  jest.restoreAllMocks();
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

type Op =
  | { readonly op: 'new'; readonly key: NewKey }
  | { readonly op: 'swap' | 'del'; readonly id: number; readonly slot: KeySlot };

/** Requests that remember what they ask for. */
class OpenRequests extends OvpnRequests {
  readonly ops = new Map<Request, Op>();
  override keyNew(ifindex: number, key: NewKey): Request {
    return this.#note(super.keyNew(ifindex, key), { op: 'new', key });
  }
  override keySwap(ifindex: number, id: number): Request {
    return this.#note(super.keySwap(ifindex, id), { op: 'swap', id, slot: 'primary' });
  }
  override keyDel(ifindex: number, id: number, slot: KeySlot): Request {
    return this.#note(super.keyDel(ifindex, id, slot), { op: 'del', id, slot });
  }
  #note(request: Request, op: Op): Request {
    this.ops.set(request, op);
    return request;
  }
}

interface Slots {
  primary: (SlotKey & { readonly text: string }) | undefined;
  secondary: (SlotKey & { readonly text: string }) | undefined;
}

/** The driver's key slots. It counts how often each key was put in. */
class FakeKernel implements KeyKernel {
  readonly requests = new OpenRequests({ id: 30, groups: new Map() });
  readonly slots = new Map<number, Slots>();
  readonly sent = new Map<number, bigint>();
  readonly installations: string[] = [];
  /** Peers whose new keys are refused. */
  readonly refuse = new Set<number>();
  /** Dies before this many requests are done. */
  crashAfter = Infinity;
  onChange: () => void = () => undefined;

  changeOvpn(requests: readonly Request[]): Promise<Outcome[]> {
    this.onChange();
    const outcomes: Outcome[] = [];
    for (const request of requests) {
      if (outcomes.length >= this.crashAfter) return Promise.reject(new Error('crash'));
      outcomes.push(this.#do(this.requests.ops.get(request)!));
    }
    return outcomes.length >= this.crashAfter ? Promise.reject(new Error('crash')) : Promise.resolve(outcomes);
  }

  #do(op: Op): Outcome {
    const id = op.op === 'new' ? op.key.peerId : op.id;
    const slots = this.slots.get(id);
    if (slots === undefined || (op.op === 'new' && this.refuse.has(id))) {
      return { ok: false, error: new NetlinkError('KEY_NEW', constants.errno.EINVAL, { text: 'no such thing' }) };
    }
    if (op.op === 'new') {
      const text = Buffer.from(op.key.encrypt.cipherKey).toString();
      this.installations.push(text);
      slots[op.key.slot] = { keyId: op.key.keyId, cipher: op.key.cipher, text };
    } else if (op.op === 'del') slots[op.slot] = undefined;
    else [slots.primary, slots.secondary] = [slots.secondary, slots.primary];
    return { ok: true, replies: [] };
  }

  addPeer(id: number): void {
    this.slots.set(id, { primary: undefined, secondary: undefined });
    this.sent.set(id, 0n);
  }

  observe(): ObservedNetwork {
    const traffic = (txPackets: bigint): Traffic => ({ rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets });
    const peers = [...this.slots.keys()].map((id): [number, Peer] => [
      id,
      {
        id,
        txId: id,
        remote: undefined,
        local: undefined,
        localPort: 1194,
        socketNetnsid: 0,
        vpnIpv4: undefined,
        vpnIpv6: undefined,
        keepalive: { interval: 0, timeout: 0 },
        vpn: traffic(0n),
        link: traffic(this.sent.get(id) ?? 0n),
      },
    ]);
    const plain = (slot: SlotKey | undefined) =>
      slot === undefined ? undefined : { keyId: slot.keyId, cipher: slot.cipher };
    const keys = [...this.slots].map(([id, { primary, secondary }]): [number, KeySlots] => [
      id,
      { primary: plain(primary), secondary: plain(secondary) },
    ]);
    return {
      device: undefined,
      addresses: new Set(),
      routes: new Map(),
      peers: new Map(peers),
      keys: new Map(keys),
      sysctls: new Map(),
      loopbackUp: true,
    };
  }
}

function peer(id: number, generation: number | undefined, material = `key of ${id}`): DesiredPeer {
  const text = `${material}, generation ${generation ?? 0}`;
  const direction = { cipherKey: Buffer.from(text), nonceTail: Buffer.alloc(8) };
  return {
    ref: { kind: 'VpnPeer', namespace: 'team-a', name: `peer-${id}` },
    id,
    txId: id,
    vpnIpv4: `10.80.0.${id}`,
    vpnIpv6: undefined,
    remote: { address: '198.51.100.7', port: 1194 },
    keepalive: { interval: 0, timeout: 0 },
    listener: 'udp',
    routes: [],
    key:
      generation === undefined
        ? undefined
        : {
            ref: { kind: 'VpnKey', namespace: 'team-a', name: `key-${id}` },
            generation,
            keyId: generation % 8,
            cipher: 'AES-GCM',
            keys: { encrypt: direction, decrypt: direction, fingerprint: `fp ${text}` },
            publishedGeneration: 0,
            transitionMs: T,
          },
  };
}

/** An agent that can be restarted: what it remembers is the ledger's file and the kernel. */
class Scene {
  now = 1_000_000;
  readonly kernel = new FakeKernel();
  readonly path: string;
  ledger: Ledger;
  rotation: KeyRotation;

  constructor(...ids: readonly number[]) {
    const folder = mkdtempSync(join(tmpdir(), 'rotation-'));
    cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
    this.path = join(folder, 'ledger');
    for (const id of ids) this.kernel.addPeer(id);
    this.ledger = Ledger.open(this.path, () => this.now);
    this.rotation = new KeyRotation('corp', this.ledger, () => this.now, silentLog);
    cleanups.push(() => this.ledger.close());
  }

  restart(network = 'corp'): void {
    this.ledger.close();
    this.ledger = Ledger.open(this.path, () => this.now);
    this.rotation = new KeyRotation(network, this.ledger, () => this.now, silentLog);
    this.kernel.crashAfter = Infinity;
  }

  round(...peers: readonly DesiredPeer[]): Promise<KeyRound> {
    return this.rotation.apply(peers, 42, this.kernel.observe(), this.kernel);
  }

  async crash(after: number, ...peers: readonly DesiredPeer[]): Promise<void> {
    this.kernel.crashAfter = after;
    await expect(this.round(...peers)).rejects.toThrow('crash');
    this.restart();
  }

  primary(id: number): string | undefined {
    return this.kernel.slots.get(id)?.primary?.text;
  }

  secondary(id: number): string | undefined {
    return this.kernel.slots.get(id)?.secondary?.text;
  }
}

const problemOf = (round: KeyRound, id: number): string | undefined => round.results.get(id)?.problem?.name;

describe('key rotation', () => {
  test('installs, waits, swaps, waits, deletes, and is silent then', async () => {
    const scene = new Scene(7);
    expect((await scene.round(peer(7, 1))).touched).toEqual([7]);
    expect(scene.primary(7)).toBe('key of 7, generation 1');
    expect(scene.rotation.dueAt).toBeUndefined();

    await scene.round(peer(7, 2));
    expect([scene.primary(7), scene.secondary(7)]).toEqual(['key of 7, generation 1', 'key of 7, generation 2']);
    expect(scene.rotation.dueAt).toBe(scene.now + T);
    scene.now += T - 1;
    expect((await scene.round(peer(7, 2))).touched).toEqual([]);
    expect(scene.rotation.due(scene.now)).toEqual([]);
    scene.now += 1;
    expect(scene.rotation.due(scene.now)).toEqual([7]);
    await scene.round(peer(7, 2));
    expect([scene.primary(7), scene.secondary(7)]).toEqual(['key of 7, generation 2', 'key of 7, generation 1']);
    expect(scene.ledger.entry('fp key of 7, generation 2')?.switchedAt).toBe(scene.now);
    scene.now += T - 1;
    expect((await scene.round(peer(7, 2))).touched).toEqual([]);
    scene.now += 1;
    await scene.round(peer(7, 2));
    expect([scene.primary(7), scene.secondary(7)]).toEqual(['key of 7, generation 2', undefined]);
    expect(scene.rotation.dueAt).toBeUndefined();
    const flushes = jest.spyOn(scene.ledger, 'reserve');
    expect(await scene.round(peer(7, 2))).toEqual({ results: new Map(), touched: [] });
    expect(flushes).not.toHaveBeenCalled();
    expect(scene.kernel.installations).toEqual(['key of 7, generation 1', 'key of 7, generation 2']);
  });

  test('goes on where it was after a restart at any moment', async () => {
    const scene = new Scene(7);
    await scene.round(peer(7, 1));
    scene.restart();
    await scene.round(peer(7, 2));
    for (let i = 0; i < 8; i++) {
      scene.restart();
      scene.now += T / 2;
      await scene.round(peer(7, 2));
    }
    expect([scene.primary(7), scene.secondary(7)]).toEqual(['key of 7, generation 2', undefined]);
    expect(scene.kernel.installations).toHaveLength(2);
  });

  test('writes keys down before the kernel is told, with one flush for all peers', async () => {
    const ids = [1, 2, 3, 4, 5];
    const scene = new Scene(...ids);
    const append = jest.spyOn(scene.ledger, 'reserve');
    const confirm = jest.spyOn(scene.ledger, 'confirm');
    const switched = jest.spyOn(scene.ledger, 'switched');
    scene.kernel.onChange = () => {
      for (const id of ids) expect(scene.ledger.entry(`fp key of ${id}, generation 1`)?.state).toBe('reserved');
    };
    await scene.round(...ids.map((id) => peer(id, 1)));
    expect([append.mock.calls.length, confirm.mock.calls.length]).toEqual([1, 1]);
    expect(scene.ledger.entry('fp key of 5, generation 1')?.state).toBe('installed');
    scene.kernel.onChange = () => undefined;
    await scene.round(...ids.map((id) => peer(id, 2)));
    scene.now += T;
    switched.mockClear();
    await scene.round(...ids.map((id) => peer(id, 2)));
    expect(
      (switched.mock.calls as unknown as string[][]).filter((fingerprints) => fingerprints.length > 0),
    ).toHaveLength(1);
    expect(scene.primary(3)).toBe('key of 3, generation 2');
  });

  test('tells the kernel nothing when the ledger cannot be written', async () => {
    const scene = new Scene(7);
    jest.spyOn(scene.ledger, 'reserve').mockImplementation(() => {
      throw new Error('disk full');
    });
    await expect(scene.round(peer(7, 1))).rejects.toThrow('disk full');
    expect(scene.kernel.installations).toEqual([]);
  });

  test('gives one key to one peer, also when two ask for it in the same round', async () => {
    const scene = new Scene(7, 8);
    const round = await scene.round(peer(7, 1, 'shared'), peer(8, 1, 'shared'));
    expect(scene.kernel.installations).toEqual(['shared, generation 1']);
    expect([problemOf(round, 7), problemOf(round, 8)]).toEqual([undefined, 'KeySpent']);
    expect(round.results.get(8)?.problem?.message).toContain('VpnPeer team-a/peer-7');
    const next = await scene.round(peer(7, 1, 'shared'), peer(8, 1, 'shared'));
    expect([problemOf(next, 7), problemOf(next, 8)]).toEqual([undefined, 'KeySpent']);
    expect(next.results.get(8)?.problem?.message).toContain('peer id 7 of VpnNetwork corp');
  });

  test.each<[string, number, string]>([
    ['another peer', 8, 'corp'],
    ['another network', 7, 'lab'],
  ])('refuses a key of %s', async (_name, id, network) => {
    const scene = new Scene(7, 8);
    await scene.round(peer(7, 1, 'shared'));
    scene.kernel.slots.set(7, { primary: undefined, secondary: undefined });
    scene.restart(network);
    expect(problemOf(await scene.round(peer(id, 1, 'shared')), id)).toBe('KeySpent');
    expect(scene.kernel.installations).toHaveLength(1);
  });

  test('refuses a key again after the peer was lost, until its generation is raised', async () => {
    const scene = new Scene(7);
    await scene.round(peer(7, 1));
    scene.kernel.addPeer(7);
    scene.restart();
    scene.rotation.peersAreNew([7]);
    const round = await scene.round(peer(7, 1));
    expect(problemOf(round, 7)).toBe('KeySpent');
    expect(round.results.get(7)?.problem?.message).toContain('VpnKey team-a/key-7: spec.static.generation');
    expect(problemOf(await scene.round(peer(7, 2)), 7)).toBeUndefined();
    expect(scene.primary(7)).toBe('key of 7, generation 2');
  });

  test('releases a key that the kernel refused, and tries again', async () => {
    const scene = new Scene(7, 8);
    scene.kernel.refuse.add(7);
    const round = await scene.round(peer(7, 1), peer(8, 1));
    expect([problemOf(round, 7), problemOf(round, 8)]).toEqual(['KernelRefused', undefined]);
    expect(round.results.get(7)?.problem?.message).toContain('kernel: no such thing');
    expect(scene.ledger.entry('fp key of 7, generation 1')).toBeUndefined();
    expect(scene.primary(8)).toBe('key of 8, generation 1');
    scene.kernel.refuse.clear();
    expect(problemOf(await scene.round(peer(7, 1), peer(8, 1)), 7)).toBeUndefined();
    expect(scene.primary(7)).toBe('key of 7, generation 1');
  });

  test('a refused key of a rotation leaves the key in use alone', async () => {
    const scene = new Scene(7);
    await scene.round(peer(7, 1));
    scene.kernel.refuse.add(7);
    expect(problemOf(await scene.round(peer(7, 2)), 7)).toBe('KernelRefused');
    expect([scene.primary(7), scene.secondary(7)]).toEqual(['key of 7, generation 1', undefined]);
  });

  describe('after a crash between the ledger and the kernel', () => {
    test('uses the key when the peer is there, without keys, and never sent', async () => {
      const scene = new Scene(7);
      await scene.crash(0, peer(7, 1));
      expect(scene.ledger.entry('fp key of 7, generation 1')?.state).toBe('reserved');
      expect(problemOf(await scene.round(peer(7, 1)), 7)).toBeUndefined();
      expect(scene.kernel.installations).toEqual(['key of 7, generation 1']);
    });

    test('does not use it when the peer has sent', async () => {
      const scene = new Scene(7);
      await scene.crash(0, peer(7, 1));
      scene.kernel.sent.set(7, 1n);
      expect(problemOf(await scene.round(peer(7, 1)), 7)).toBe('KeySpent');
      expect(scene.kernel.installations).toEqual([]);
    });

    test('does not use it when the peer was made anew since', async () => {
      const scene = new Scene(7);
      await scene.crash(0, peer(7, 1));
      scene.rotation.peersAreNew([7]);
      scene.kernel.addPeer(7);
      expect(problemOf(await scene.round(peer(7, 1)), 7)).toBe('KeySpent');
      expect(scene.kernel.installations).toEqual([]);
    });

    test('does not use it when the peer was made anew while its key was not to be had', async () => {
      const scene = new Scene(7);
      await scene.crash(1, peer(7, 1));
      expect(scene.ledger.entry('fp key of 7, generation 1')?.state).toBe('reserved');
      scene.rotation.peersAreNew([7]);
      scene.kernel.addPeer(7);
      await scene.round(peer(7, undefined));
      expect(problemOf(await scene.round(peer(7, 1)), 7)).toBe('KeySpent');
      expect(scene.kernel.installations).toEqual(['key of 7, generation 1']);
    });

    test('counts it as installed as soon as it is seen in a slot', async () => {
      const scene = new Scene(7);
      await scene.crash(1, peer(7, 1));
      await scene.round(peer(7, undefined));
      expect(scene.ledger.entry('fp key of 7, generation 1')?.state).toBe('installed');
    });

    test('does not use it when the peer has any key', async () => {
      const scene = new Scene(7);
      await scene.round(peer(7, 1));
      await scene.crash(0, peer(7, 2));
      expect(problemOf(await scene.round(peer(7, 2)), 7)).toBe('KeySpent');
      expect(scene.primary(7)).toBe('key of 7, generation 1');
      expect(scene.kernel.installations).toEqual(['key of 7, generation 1']);
    });

    test('knows a key that the kernel got but that was not confirmed', async () => {
      const scene = new Scene(7);
      await scene.crash(1, peer(7, 1));
      expect(scene.ledger.entry('fp key of 7, generation 1')?.state).toBe('reserved');
      expect(await scene.round(peer(7, 1))).toEqual({ results: new Map(), touched: [] });
      expect(scene.kernel.installations).toHaveLength(1);
    });

    test('keeps the old key for the whole transition when the swap was not written down', async () => {
      const scene = new Scene(7);
      await scene.round(peer(7, 1));
      await scene.round(peer(7, 2));
      scene.now += 2 * T;
      await scene.crash(1, peer(7, 2));
      expect(scene.primary(7)).toBe('key of 7, generation 2');
      scene.now += 1_000;
      await scene.round(peer(7, 2));
      expect(scene.secondary(7)).toBe('key of 7, generation 1');
      expect(scene.rotation.dueAt).toBe(scene.now + T);
      scene.now += T;
      await scene.round(peer(7, 2));
      expect(scene.secondary(7)).toBeUndefined();
    });
  });

  test('adopts what the kernel holds when the ledger was lost', async () => {
    const scene = new Scene(7);
    await scene.round(peer(7, 1));
    rmSync(scene.path);
    scene.restart();
    expect((await scene.round(peer(7, 1))).touched).toEqual([]);
    expect(scene.ledger.entry('fp key of 7, generation 1')?.state).toBe('installed');
    expect(scene.kernel.installations).toHaveLength(1);
    scene.kernel.addPeer(7);
    expect(problemOf(await scene.round(peer(7, 1)), 7)).toBe('KeySpent');
  });

  test('says which generations are free when the id of the key in use comes round again', async () => {
    const scene = new Scene(7);
    await scene.round(peer(7, 1));
    const round = await scene.round(peer(7, 9));
    expect(problemOf(round, 7)).toBe('KeySpent');
    expect(round.results.get(7)?.problem?.remedy).toContain('1 to 7 above');
    expect(scene.primary(7)).toBe('key of 7, generation 1');
  });

  test('a generation that is raised twice at once takes one rotation after the other', async () => {
    const scene = new Scene(7);
    await scene.round(peer(7, 1));
    await scene.round(peer(7, 2));
    const seen: string[] = [];
    for (let i = 0; i < 12; i++) {
      scene.now += T / 2;
      await scene.round(peer(7, 3));
      const pair = `${scene.primary(7)?.slice(-1) ?? '-'}${scene.secondary(7)?.slice(-1) ?? '-'}`;
      if (seen.at(-1) !== pair) seen.push(pair);
    }
    expect(seen).toEqual(['12', '21', '23', '32', '3-']);
    expect(scene.ledger.entry('fp key of 7, generation 2')?.switchedAt).toBeDefined();
  });

  test.each([
    [1, 'spent'],
    [2, 'spent'],
    [3, 'installed'],
  ])('with ledger and kernel state lost, generation %i beside a published 2 is %s', async (generation, outcome) => {
    const scene = new Scene(7);
    const wanted = peer(7, generation);
    const { results } = await scene.round({ ...wanted, key: { ...wanted.key!, publishedGeneration: 2 } });
    expect(results.get(7)?.problem?.name).toBe(outcome === 'spent' ? 'KeySpent' : undefined);
    expect(scene.kernel.installations).toHaveLength(outcome === 'spent' ? 0 : 1);
  });

  test('leaves peers alone that are not in the kernel or have no usable key', async () => {
    const scene = new Scene(7);
    expect(await scene.round(peer(7, undefined), peer(8, 1))).toEqual({ results: new Map(), touched: [] });
    expect(scene.ledger.entry('fp key of 8, generation 1')).toBeUndefined();
  });

  test('keeps dates only of peers that wait', async () => {
    const scene = new Scene(7, 8);
    await scene.round(peer(7, 1), peer(8, 1));
    await scene.round(peer(7, 2));
    scene.now += 10;
    await scene.round(peer(8, 2));
    expect(scene.rotation.dueAt).toBe(scene.now - 10 + T);
    expect(scene.rotation.due(scene.now + T).sort()).toEqual([7, 8]);
    scene.rotation.forgetDue();
    expect(scene.rotation.dueAt).toBeUndefined();
    await scene.round(peer(7, undefined));
    expect(scene.rotation.dueAt).toBeUndefined();
  });
});
