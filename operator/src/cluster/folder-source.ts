import { EventEmitter } from 'node:events';
import { watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { lstat, readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { PodFacts } from '../api/attach-rules.ts';
import { checkTransition } from '../api/parse.ts';
import { refOf } from '../api/types.ts';
import type { ObjectRef, Resource, ResourceKind, ResourceOf } from '../api/types.ts';
import { OvpnError, describe } from '../errors.ts';
import { type Meter, noMeter } from '../telemetry/metrics.ts';
import type { Log } from '../telemetry/log.ts';
import type { Random } from './backoff.ts';
import { sleep, systemClock } from './clock.ts';
import type { Clock } from './clock.ts';
import type { Health } from './list-watch.ts';
import { absentFile, claimedName, fileStamp, readManifestFile, unreadableFile } from './manifest-file.ts';
import type { FileView } from './manifest-file.ts';
import { podFromManifests, type PodName } from './pods.ts';
import type { Rejection, ResourceSource, SourceEvents } from './source.ts';
import { StatusFiles, fileName } from './status-files.ts';
import { ObjectStore } from './store.ts';
import type { Claim, StoreUpdate } from './store.ts';

export interface FolderSourceOptions {
  /** The folder of manifests. */
  readonly folder: string;
  /** Where status files go: `<stateDir>/status`. */
  readonly stateDir: string;
  readonly nodeLabels?: Readonly<Record<string, string>>;
  readonly log: Log;
  readonly meter?: Meter;
  readonly clock?: Clock;
  readonly random?: Random;
  /** The namespace of objects that name none. Default `default`. */
  readonly defaultNamespace?: string;
  readonly timing?: Partial<FolderTiming>;
}

export interface FolderTiming {
  /** How long the folder must be quiet after an event before it is read. */
  readonly debounceMs: number;
  /** How long a file must look the same before a loss is believed: an editor may be in the middle of a save. */
  readonly settleMs: number;
  /** How often the folder is looked at without any event: which files there are, and where links lead. */
  readonly pollMs: number;
  /** How often every file is looked at: of ten thousand, that takes a second of a processor. */
  readonly wholeMs: number;
}

const defaultTiming: FolderTiming = { debounceMs: 50, settleMs: 300, pollMs: 10_000, wholeMs: 60_000 };
/** A folder that never comes to rest is read all the same, this long after the first event. */
const MAX_DEBOUNCE_MS = 1_000;
/** The file system's clock is coarse: a file this young can change again without a new time. */
const YOUNG_MS = 1_000;
/** At start, how many settle times are granted to files that keep changing. */
const MAX_START_ROUNDS = 10;

interface FileState {
  /** The look whose claims the store holds; it has none itself any more. */
  inForce: FileView | undefined;
  /** The last look, which may not be believed yet. */
  seen: FileView | undefined;
  /** Since when the last look gave the same. */
  since: number;
  /** The look must not trust the file's times. */
  dirty: boolean;
  /** The permissions that were warned about. */
  warnedMode: number | undefined;
}

/** The feed of the folder's own error. No file has an empty name. */
const FOLDER_FEED = '';

/**
 * Resources from the manifests of a folder: standalone mode.
 *
 * Whole files are read, also through symlinks (Kubernetes swaps one to update a mounted ConfigMap). inotify
 * tells when; what it cannot tell or missed, looks at the times of folder, links and files find out. A file is believed at once
 * when it only adds or changes objects; when it would remove one, or is in error, it must stay so for the
 * settle time.
 */
export class FolderSource extends EventEmitter<SourceEvents> implements ResourceSource {
  readonly shared = false;
  readonly nodeLabels: Readonly<Record<string, string>>;
  readonly nodeAddresses: readonly string[] = [];
  readonly nodeIsLeaving = false;
  readonly leases = undefined;
  readonly #folder: string;
  readonly #namespace: string;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #timing: FolderTiming;
  readonly #store: ObjectStore;
  readonly #statuses: StatusFiles;
  readonly #files = new Map<string, FileState>();
  readonly #stop = new AbortController();
  #watcher: FSWatcher | undefined;
  #watchedInode: bigint | undefined;
  #folderProblem: string | undefined;
  #started = false;
  #swept = false;
  #scanning: Promise<void> | undefined;
  #scanAgain = false;
  /** What the next look must see: files that inotify named, or all of them. */
  #lookAt = new Set<string>();
  #lookAtAll = true;
  /** The folder as it was when it was read last, and when that was. */
  #folderStamp = '';
  #wholeAt = Number.NEGATIVE_INFINITY;
  /** Manifests that are symlinks: inotify does not tell of their targets. */
  readonly #linked = new Set<string>();
  #cancelScan: (() => void) | undefined;
  #cancelPoll: (() => void) | undefined;
  #eventsSince: number | undefined;

  constructor(options: FolderSourceOptions) {
    super();
    this.nodeLabels = options.nodeLabels ?? {};
    this.#folder = options.folder;
    this.#namespace = options.defaultNamespace ?? 'default';
    this.#log = options.log;
    this.#clock = options.clock ?? systemClock;
    this.#timing = { ...defaultTiming, ...options.timing };
    this.#store = new ObjectStore({
      onChange: (refs) => this.#tellChange(refs),
      onRejections: (rejections) => void this.emit('rejections', rejections),
      checkTransition,
      stamp: countGeneration,
    });
    this.#statuses = new StatusFiles({
      folder: join(options.stateDir, 'status'),
      clock: this.#clock,
      random: options.random ?? Math.random,
      log: options.log,
      meter: options.meter ?? noMeter,
    });
  }

  async start(): Promise<void> {
    const stats = await stat(this.#folder).catch((error: unknown) => {
      throw new OvpnError('ConfigInvalid', `the folder of manifests cannot be read: ${describe(error)}`);
    });
    if (!stats.isDirectory()) throw new OvpnError('ConfigInvalid', `${this.#folder} is not a folder`);
    for (let round = 0; round <= MAX_START_ROUNDS && !this.#stop.signal.aborted; round += 1) {
      const unsettled = await this.#scan(round === MAX_START_ROUNDS ? 'believe' : 'start');
      if (unsettled === undefined) break;
      await sleep(this.#clock, unsettled, this.#stop.signal);
    }
    this.#started = true;
    await this.#sweepStatuses();
    // For events that came while nobody listened to them.
    this.#lookAtAll = true;
    this.#requestScan();
    this.#armPoll();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#cancelScan?.();
    this.#cancelPoll?.();
    this.#watcher?.close();
    await this.#scanning;
    await this.#statuses.stop();
  }

  get complete(): boolean {
    return this.#started && this.#store.whole;
  }

  get rejections(): readonly Rejection[] {
    return this.#store.rejections;
  }

  /** Whether the folder can be read. */
  health(): Health {
    return { ok: this.#folderProblem === undefined, message: this.#folderProblem ?? '' };
  }

  get<K extends ResourceKind>(kind: K, namespace: string | undefined, name: string): ResourceOf<K> | undefined {
    return this.#store.get(kind, namespace, name);
  }

  list<K extends ResourceKind>(kind: K): Iterable<ResourceOf<K>> {
    return this.#store.list(kind);
  }

  findPod(pod: PodName): Promise<PodFacts> {
    return Promise.resolve(podFromManifests(this, pod));
  }

  /** Nobody else could hear of it: what holds a peer is said by its placement here. */
  claim(): Promise<'taken'> {
    return Promise.resolve('taken');
  }

  holderNow(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  publishStatus(resource: Resource, status: unknown): void {
    this.#statuses.publish(resource, status);
  }

  #tellChange(refs: readonly ObjectRef[]): void {
    for (const ref of refs) {
      if (this.#store.get(ref.kind, ref.namespace, ref.name) === undefined) this.#statuses.forget(ref);
    }
    this.emit('change', refs);
  }

  /** Removes status files of objects that are gone, once it is sure which ones exist. */
  async #sweepStatuses(): Promise<void> {
    if (this.#swept || !this.complete) return;
    this.#swept = true;
    const present = new Set<string>();
    for (const kind of ['VpnNetwork', 'VpnPeer', 'VpnKey'] as const) {
      for (const resource of this.#store.list(kind)) present.add(fileName(refOf(resource)));
    }
    await this.#statuses.sweep((file) => present.has(file));
  }

  #armPoll(): void {
    if (this.#stop.signal.aborted) return;
    this.#cancelPoll = this.#clock.after(this.#timing.pollMs, () => {
      void this.#poll().finally(() => this.#armPoll());
    });
  }

  /** Looks at what inotify may not have told. */
  async #poll(): Promise<void> {
    const isWatched = this.#watcher !== undefined && this.#clock.monotonic() - this.#wholeAt < this.#timing.wholeMs;
    if (!isWatched || (await this.#stampOfFolder()) !== this.#folderStamp) this.#lookAtAll = true;
    else if (this.#linked.size === 0) return;
    for (const name of this.#linked) this.#lookAt.add(name);
    this.#requestScan();
  }

  /** What changes when files come, go or are swapped, and when another folder takes the place of this one. */
  async #stampOfFolder(): Promise<string> {
    const stats = await stat(this.#folder, { bigint: true }).catch(() => undefined);
    return stats === undefined ? 'away' : `${stats.dev} ${stats.ino} ${stats.mtimeNs}`;
  }

  #onEvent(file: string | null): void {
    // Editors' swap files come and go; `..data` is the symlink that Kubernetes swaps.
    if (file !== null && /^\.(?!\.)/.test(file)) return;
    const state = file === null ? undefined : this.#files.get(file);
    if (state !== undefined) state.dirty = true;
    else if (file === null || file.startsWith('..')) for (const other of this.#files.values()) other.dirty = true;
    if (file === null || file.startsWith('..')) this.#lookAtAll = true;
    else if (isManifestName(file)) this.#lookAt.add(file);
    else return;
    const now = this.#clock.now();
    this.#eventsSince ??= now;
    this.#scanIn(Math.max(0, Math.min(this.#timing.debounceMs, this.#eventsSince + MAX_DEBOUNCE_MS - now)));
  }

  #scanIn(ms: number): void {
    this.#cancelScan?.();
    this.#cancelScan = this.#clock.after(ms, () => {
      this.#cancelScan = undefined;
      this.#eventsSince = undefined;
      this.#requestScan();
    });
  }

  /** Looks at the folder now, or once more when a look is under way. */
  #requestScan(): void {
    if (this.#stop.signal.aborted || !this.#started) return;
    if (this.#scanning !== undefined) {
      this.#scanAgain = true;
      return;
    }
    this.#scanning = this.#scan('run')
      .then(async (unsettled) => {
        if (unsettled !== undefined && this.#cancelScan === undefined) this.#scanIn(unsettled);
        await this.#sweepStatuses();
      })
      .catch((error: unknown) => {
        this.#log.error({ event: 'folder.failed', error }, 'the folder could not be looked at; the next look comes');
      })
      .finally(() => {
        this.#scanning = undefined;
        if (!this.#scanAgain) return;
        this.#scanAgain = false;
        this.#requestScan();
      });
  }

  /**
   * Looks at the files that changed, or at every file, and believes what can be believed. Gives in how many ms
   * to look again for the rest.
   */
  async #scan(phase: 'start' | 'run' | 'believe'): Promise<number | undefined> {
    // Taken before anything is waited for: what inotify tells from here on is for the next look.
    const lookAt = phase === 'run' && !this.#lookAtAll ? this.#lookAt : undefined;
    this.#lookAt = new Set();
    this.#lookAtAll = false;
    const named = lookAt === undefined ? undefined : await this.#present(lookAt);
    const names = named ?? (await this.#listFiles());
    if (names === undefined) {
      this.#lookAtAll = true;
      return undefined;
    }
    const believed: [string, FileState, FileView][] = [];
    let unsettled: number | undefined;
    for (const name of named ?? new Set([...names, ...this.#files.keys()])) {
      const state = this.#files.get(name) ?? newState();
      this.#files.set(name, state);
      const view = names.has(name) ? await this.#look(name, state) : absentFile;
      const now = this.#clock.now();
      if (state.seen?.fingerprint !== view.fingerprint) state.since = now;
      state.seen = view;
      if (state.inForce?.fingerprint === view.fingerprint) {
        state.seen = inForceView(view);
        this.#checkPermissions(name, state, view);
        continue;
      }
      const young = phase === 'start' && now - view.mtimeMs < this.#timing.settleMs && view.mtimeMs <= now;
      const waitMs = state.since + this.#timing.settleMs - now;
      if (phase !== 'believe' && waitMs > 0 && (young || this.#loses(name, state.inForce, view))) {
        unsettled = Math.min(unsettled ?? waitMs, waitMs);
        this.#lookAt.add(name);
      } else believed.push([name, state, view]);
    }
    this.#store.update((update) => {
      update.drop(FOLDER_FEED, FOLDER_FEED);
      for (const [name, state, view] of believed) this.#believe(update, name, state, view);
    });
    return unsettled;
  }

  /** The files if all are there, else undefined: only the whole folder tells a file that is gone from a folder that is. */
  async #present(names: ReadonlySet<string>): Promise<ReadonlySet<string> | undefined> {
    try {
      for (const name of names) {
        const stats = await lstat(join(this.#folder, name));
        if (stats.isSymbolicLink()) this.#linked.add(name);
        else this.#linked.delete(name);
      }
      return names;
    } catch {
      return undefined;
    }
  }

  /** The names of the manifests, or undefined when the folder cannot be read: then all stays as it is. */
  async #listFiles(): Promise<Set<string> | undefined> {
    try {
      await this.#armWatch();
      // Before it is read: what changes meanwhile is for the next look.
      this.#folderStamp = await this.#stampOfFolder();
      this.#wholeAt = this.#clock.monotonic();
      const entries = await readdir(this.#folder, { withFileTypes: true });
      this.#linked.clear();
      for (const entry of entries)
        if (entry.isSymbolicLink() && isManifestName(entry.name)) this.#linked.add(entry.name);
      this.#folderProblem = undefined;
      return new Set(
        entries
          .map(({ name }) => name)
          .filter(isManifestName)
          .sort(),
      );
    } catch (error) {
      this.#folderProblem = `${this.#folder} cannot be read: ${describe(error)}`;
      this.#watcher?.close();
      this.#watcher = undefined;
      const problem = new OvpnError('ManifestUnreadable', this.#folderProblem, {}, { remedy: 'bring the folder back' });
      const claim: Claim = { id: FOLDER_FEED, origin: this.#folder, outcome: { ok: false, errors: [problem] } };
      this.#store.update((update) => update.put(FOLDER_FEED, claim));
      return undefined;
    }
  }

  /** Follows the folder by inotify; anew when it was replaced by another folder of the same name. */
  async #armWatch(): Promise<void> {
    const { ino } = await stat(this.#folder, { bigint: true });
    if (this.#stop.signal.aborted || (this.#watcher !== undefined && ino === this.#watchedInode)) return;
    this.#watcher?.close();
    this.#watcher = undefined;
    try {
      const watcher = watch(this.#folder, { persistent: false }, (_type, file) => this.#onEvent(file));
      watcher.on('error', (error) => {
        this.#log.warn({ event: 'folder.unwatched', error: describe(error) }, 'the folder is polled for now');
        watcher.close();
        if (this.#watcher === watcher) this.#watcher = undefined;
      });
      this.#watcher = watcher;
      this.#watchedInode = ino;
    } catch (error) {
      // Out of inotify watches, for example. Polling does without.
      this.#log.warn({ event: 'folder.unwatched', error: describe(error) }, 'the folder is polled for now');
    }
  }

  /** The file as it is now; read only when it may differ from the last look. */
  async #look(name: string, state: FileState): Promise<FileView> {
    const path = join(this.#folder, name);
    try {
      const stats = await stat(path, { bigint: true });
      if (stats.isDirectory()) return absentFile;
      // Opening a FIFO would wait for a writer.
      if (!stats.isFile()) return unreadableFile(name, 'it is not a regular file', stats);
      const trusted = !state.dirty && state.seen?.stamp === fileStamp(stats);
      if (trusted && state.seen !== undefined && this.#clock.now() - state.seen.mtimeMs > YOUNG_MS) return state.seen;
    } catch (error) {
      // A name without a file: a symlink to nothing, or a file that went since the folder was read.
      return unreadableFile(name, `it cannot be read: ${describe(error)}`);
    }
    state.dirty = false;
    const view = await readManifestFile(path, name, this.#namespace);
    // Keep the older view of equal content, but with the new times: its objects are the ones in force.
    return view.fingerprint === state.seen?.fingerprint
      ? { ...state.seen, stamp: view.stamp, mtimeMs: view.mtimeMs, mode: view.mode }
      : view;
  }

  /** Whether believing this look could be wrong if it shows a file in the middle of being written. */
  #loses(name: string, inForce: FileView | undefined, view: FileView): boolean {
    if (view.claims === undefined || view.claims.some(({ outcome }) => !outcome.ok)) return true;
    if (inForce?.claims === undefined) return false;
    const present = new Set(view.claims.map(claimedName));
    return view.size < inForce.size || this.#store.claims(name).some((claim) => !present.has(claimedName(claim)));
  }

  #believe(update: StoreUpdate, name: string, state: FileState, view: FileView): void {
    state.inForce = inForceView(view);
    state.seen = state.inForce;
    if (view.error !== undefined) {
      // Beside what the file gave last, which stays.
      const outcome = { ok: false, errors: [view.error] } as const;
      update.put(name, { id: `${name}\0!`, origin: name, outcome });
      this.#log.warn({ event: 'file.unreadable', file: name, error: view.error.problem }, view.error.message);
      return;
    }
    const claims = view.claims ?? [];
    update.replace(name, [...claims, ...this.#kept(name, claims)]);
    if (view === absentFile) this.#files.delete(name);
    else this.#checkPermissions(name, state, view);
  }

  /** The objects that the file gave last and may still mean: some of its documents cannot be read. */
  #kept(name: string, claims: readonly Claim[]): Claim[] {
    const names = new Set(claims.map(claimedName));
    if (!names.has(undefined)) return [];
    return this.#store.claims(name).flatMap((claim) => {
      const claimed = claimedName(claim);
      return claimed === undefined || names.has(claimed) ? [] : [{ ...claim, id: `${name}\0~${claimed}` }];
    });
  }

  #checkPermissions(name: string, state: FileState, { mode, holdsSecret }: FileView): void {
    if ((mode & 0o044) === 0 || state.warnedMode === mode || !holdsSecret) return;
    state.warnedMode = mode;
    const octal = (mode & 0o777).toString(8).padStart(4, '0');
    this.#log.warn(
      { event: 'file.permissions', file: join(basename(this.#folder), name), mode: octal },
      `${name} holds a Secret and others than its owner can read it (mode ${octal}): chmod 600 it`,
    );
  }
}

function isManifestName(name: string): boolean {
  return /^[^.].*\.(ya?ml|json)$/.test(name);
}

/** A view without what the store holds of it by now. */
function inForceView(view: FileView): FileView {
  return view.claims === undefined || view.claims.length === 0 ? view : { ...view, claims: [] };
}

function newState(): FileState {
  return { inForce: undefined, seen: undefined, since: 0, dirty: true, warnedMode: undefined };
}

/** metadata.generation as an API server counts it: 1, then one more with every change of what is wanted. */
function countGeneration(before: Resource | undefined, after: Resource): Resource {
  const last = before?.metadata.generation ?? 0;
  const same = before !== undefined && isDeepStrictEqual(intent(before), intent(after));
  return { ...after, metadata: { ...after.metadata, generation: same ? last : last + 1 } } as Resource;
}

function intent(resource: Resource): unknown {
  if (resource.kind === 'Secret') return [resource.type, resource.data];
  return 'spec' in resource ? resource.spec : [];
}
