import { mkdirSync, statSync, watch, type FSWatcher } from 'node:fs';
import { Backoff, type Random } from '../cluster/backoff.ts';
import type { Clock } from '../cluster/clock.ts';
import { describe } from '../errors.ts';
import type { Log } from '../telemetry/log.ts';
import type { Outcome } from './installer.ts';

export interface FollowOptions {
  /** What is watched; made when missing. */
  readonly folders: readonly string[];
  /** Puts everything in place, and says what it did. */
  readonly pass: () => readonly Outcome[];
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** A program that writes a file in several steps is let finish. */
const settleMs = 50;
/** A folder that was replaced, or a notice that was lost, is found out so. */
const resyncMs = 60_000;
/** The least pause between two changes of ours, when another program undoes them again and again. */
const fight = { initialMs: 100, maxMs: 30_000 };

/** Keeps the plugin and its place in the list, whatever others do to the folders. */
export class Follower {
  readonly #options: FollowOptions;
  readonly #pause: Backoff;
  readonly #watched = new Map<string, { readonly identity: string; readonly watcher: FSWatcher }>();
  #cancel: () => void = () => {};
  /** When the next pass is due; later than that of a notice while another program undoes our work. */
  #notBefore = 0;
  #said = '';
  #stopped = false;

  constructor(options: FollowOptions) {
    this.#options = options;
    this.#pause = new Backoff({ ...fight, random: options.random });
  }

  /** Does the first pass; what fails is logged, and tried again. */
  start(): void {
    this.#pass();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel();
    for (const { watcher } of this.#watched.values()) watcher.close();
    this.#watched.clear();
  }

  #pass(): void {
    const { clock, log, pass } = this.#options;
    let changed = true;
    try {
      this.#watchFolders();
      const outcomes = pass();
      changed = outcomes.some(({ done }) => done !== 'unchanged' && done !== 'waiting');
      this.#say(outcomes);
    } catch (error) {
      this.#sayOnce(describe(error), () => log.error({ event: 'cni.install.failed' }, describe(error)));
    }
    if (changed) this.#notBefore = clock.now() + this.#pause.next();
    else if (clock.now() > this.#notBefore + resyncMs) this.#pause.reset();
    this.#schedule(changed ? fight.maxMs : resyncMs);
  }

  /** A file of the folders changed. */
  #noticed(): void {
    this.#schedule(Math.max(settleMs, this.#notBefore - this.#options.clock.now()));
  }

  #schedule(ms: number): void {
    this.#cancel();
    if (!this.#stopped) this.#cancel = this.#options.clock.after(ms, () => this.#pass());
  }

  /** inotify follows the folder, not its path. A new folder can have the inode of the one that was removed. */
  #watchFolders(): void {
    for (const folder of this.#options.folders) {
      mkdirSync(folder, { recursive: true });
      const { dev, ino, birthtimeNs } = statSync(folder, { bigint: true });
      const identity = `${dev} ${ino} ${birthtimeNs}`;
      const before = this.#watched.get(folder);
      if (before?.identity === identity) continue;
      before?.watcher.close();
      const watcher = watch(folder, () => this.#noticed());
      // The folder went: the next pass makes it, or follows the one that took its place.
      watcher.on('error', () => this.#noticed());
      this.#watched.set(folder, { identity, watcher });
    }
  }

  #say(outcomes: readonly Outcome[]): void {
    const { log } = this.#options;
    for (const { path, done } of outcomes) {
      if (done === 'unchanged') continue;
      const text = `${path}: ${done}`;
      if (done !== 'waiting') log.info({ event: `cni.${done}`, path }, text);
      else this.#sayOnce(text, () => log.info({ event: 'cni.waiting', path }, `${path}: no configuration list yet`));
    }
  }

  /** The same trouble with every pass is one line. */
  #sayOnce(text: string, say: () => void): void {
    if (this.#said !== text) say();
    this.#said = text;
  }
}
