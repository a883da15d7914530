import { afterAll, beforeAll, describe, test } from '@jest/globals';
import fc from 'fast-check';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { modelRuns, modelTimeout } from '../../cluster/testing/model-runs.ts';
import { type Certificate, testPki, type TestPki } from '../../openvpn/tls/pki.fixture.ts';
import { wrapClientKey } from '../../openvpn/wrap/client-key.ts';
import type { WrapConfig } from '../../openvpn/wrap/session-wrapper.ts';
import { SessionPair, type Side, sides } from './session-pair.fixture.ts';

/**
 * Both ends of a tunnel under every fault of the line and of their processes, in any order. What must hold at each
 * step is in the fixture; here is what may happen.
 */

let pki: TestPki;
let certificates: Record<Side, Certificate>;
let folder: string;

beforeAll(() => {
  pki = testPki();
  certificates = {
    server: pki.issue('server', { usage: 'serverAuth' }),
    client: pki.issue('client', { usage: 'clientAuth' }),
  };
  folder = mkdtempSync(join(tmpdir(), 'ovpn-pair-'));
});

afterAll(() => {
  pki.remove();
  rmSync(folder, { recursive: true });
});

/** What of a side a command has to know before it runs. */
type Model = Record<Side, 'runs' | 'killed'>;

abstract class Command implements fc.AsyncCommand<Model, SessionPair> {
  readonly side: Side;
  constructor(side: Side) {
    this.side = side;
  }
  /** Of a side whose process runs, unless it says otherwise. */
  check(model: Readonly<Model>): boolean {
    return model[this.side] === 'runs';
  }
  async run(model: Model, pair: SessionPair): Promise<void> {
    await this.act(pair);
    for (const side of sides) model[side] = pair.ends[side].session === undefined ? 'killed' : 'runs';
    pair.check();
  }
  abstract act(pair: SessionPair): Promise<void> | void;
  abstract toString(): string;
}

type Act = (pair: SessionPair) => Promise<void> | void;

function command(side: Side, words: string, act: Act, check?: (model: Readonly<Model>) => boolean): Command {
  return new (class extends Command {
    override check(model: Readonly<Model>): boolean {
      return check?.(model) ?? super.check(model);
    }
    act(pair: SessionPair): Promise<void> | void {
      return act(pair);
    }
    toString(): string {
      return words;
    }
  })(side);
}

const always = (): boolean => true;
const side = fc.constantFrom(...sides);
const few = fc.integer({ min: 1, max: 6 });

const commands = [
  fc.integer({ min: 1, max: 2_000 }).map((ms) => command('client', `pass ${ms} ms`, (pair) => pair.pass(ms), always)),
  fc
    .integer({ min: 2, max: 70 })
    .map((seconds) => command('client', `pass ${seconds} s`, (pair) => pair.pass(seconds * 1000), always)),
  fc.tuple(side, few).map(([it, n]) => command(it, `lose ${n} of the ${it}`, (pair) => pair.lose(it, n), always)),
  fc.tuple(side, few).map(([it, n]) => command(it, `double ${n} of the ${it}`, (pair) => pair.double(it, n), always)),
  fc
    .tuple(side, few, fc.integer({ min: 20, max: 20_000 }))
    .map(([it, n, ms]) => command(it, `delay ${n} of the ${it} by ${ms} ms`, (pair) => pair.delay(it, n, ms), always)),
  fc
    .integer({ min: 1, max: 30 })
    .map((seconds) => command('client', `cut for ${seconds} s`, (pair) => pair.cut(seconds * 1000), always)),
  fc
    .tuple(side, fc.nat(63))
    .map(([it, n]) => command(it, `replay ${n} of the ${it}`, (pair) => pair.replay(it, n), always)),
  fc
    .tuple(side, fc.constantFrom('bits', 'cut', 'key'), fc.nat(63), fc.nat(1300))
    .map(([it, kind, n, place]) =>
      command(it, `forge ${kind} ${n} at ${place} of the ${it}`, (pair) => pair.forge(it, kind, n, place), always),
    ),
  side.map((it) => command(it, `the ${it} renegotiates`, (pair) => void pair.rekey(it))),
  fc.constant(
    command(
      'client',
      'both renegotiate',
      (pair) => {
        for (const it of sides) pair.rekey(it);
      },
      (model) => model.client === 'runs' && model.server === 'runs',
    ),
  ),
  side.map((it) => command(it, `kill the ${it}`, (pair) => pair.kill(it))),
  fc.tuple(side, fc.integer({ min: 1, max: 70 })).map(([it, seconds]) =>
    command(it, `cut for ${seconds} s at the next key of the ${it}`, (pair) => {
      pair.ends[it].cutAtInstall = seconds * 1000;
    }),
  ),
  side.map((it) => command(it, `kill the ${it} at its next key`, (pair) => void (pair.ends[it].diesAtInstall = true))),
  side.map((it) =>
    command(
      it,
      `resume the ${it}`,
      (pair) => pair.resume(it),
      (model) => model[it] === 'killed',
    ),
  ),
];
const rare = [side.map((it) => command(it, `the ${it} leaves`, (pair) => pair.leave(it)))];

const key = Uint8Array.from({ length: 256 }, (_, i) => i);
const serverKey = Uint8Array.from({ length: 128 }, (_, i) => i);
const wraps: readonly (readonly [string, () => Record<Side, WrapConfig>])[] = [
  ['tls-crypt', () => ({ client: { kind: 'tls-crypt', key }, server: { kind: 'tls-crypt', key } })],
  [
    'tls-auth',
    () => ({
      client: { kind: 'tls-auth', key, digest: 'SHA256', direction: 1 },
      server: { kind: 'tls-auth', key, digest: 'SHA256', direction: 0 },
    }),
  ],
  [
    'tls-crypt-v2',
    () => ({
      client: { kind: 'tls-crypt-v2-client', key, wrapped: wrapClientKey(serverKey, key, undefined) },
      server: { kind: 'tls-crypt-v2-server', serverKey },
    }),
  ],
];

const periods = fc.constantFrom(0, 0, 61, 300);

describe('client and server, whatever the line and their processes do', () => {
  test.each(wraps)(
    'keep what they owe each other: %s',
    async (_, wrap) => {
      await fc.assert(
        fc.asyncProperty(
          fc.record({ client: periods, server: periods }),
          fc.integer({ min: 0, max: 60_000 }),
          fc.nat(1_000_000),
          fc.commands([...commands, ...commands, ...rare], { maxCommands: 60, size: 'max' }),
          async (renegotiateSeconds, transitionMs, seed, acts) => {
            const settings = { wrap: wrap(), renegotiateSeconds, transitionMs, pki, certificates, folder, seed };
            const real = new SessionPair(settings);
            const model: Model = { client: 'runs', server: 'runs' };
            await fc.asyncModelRun(() => ({ model, real }), acts);
            await real.finish();
          },
        ),
        modelRuns(20),
      );
    },
    modelTimeout(300_000),
  );
});
