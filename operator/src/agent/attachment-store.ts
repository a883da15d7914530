import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { describe, OvpnError } from '../errors.ts';
import type { AttachmentKey, CallKey, PodIdentity } from './attach-protocol.ts';
import type { DesiredAttachment } from './desired.ts';
import { removeDurably, writeDurably } from './durable-file.ts';

/** Room for `.json.tmp` is left below the 255 bytes of a file's name. */
const maxNameLength = 240;

/** An attachment as it is kept over restarts, and the call that made it. */
export interface AttachmentRecord extends DesiredAttachment, CallKey {
  readonly pod: PodIdentity | undefined;
}

/**
 * The pods attached on this node: a file each, on disk before anything is done for the pod, so that a crash
 * never leaves an address that is used and not written down.
 */
export class AttachmentStore {
  readonly #folder: string;
  readonly #records = new Map<string, AttachmentRecord>();
  readonly #byContainer = new Groups();
  readonly #byNetwork = new Groups();
  readonly #byNetns = new Groups();
  /** Addresses in use, by network: an address has one owner. */
  readonly #addresses = new Map<string, Map<string, string>>();
  /** Whether a record could not be read: then what nobody seems to have may be in use. */
  readonly damaged: boolean = false;

  /**
   * Reads what is there.
   *
   * @param onDamaged is told of files that cannot be read; they are left alone and their addresses are not known
   */
  constructor(folder: string, onDamaged: (file: string, reason: string) => void) {
    this.#folder = folder;
    this.#onDisk('read the attachments', () => mkdirSync(folder, { recursive: true, mode: 0o700 }));
    for (const file of readdirSync(folder)) {
      if (!file.endsWith('.json')) continue;
      try {
        this.#take(parseRecord(JSON.parse(readFileSync(join(folder, file), 'utf8'))));
      } catch (error) {
        this.damaged = true;
        onDamaged(join(folder, file), describe(error));
      }
    }
  }

  get(key: AttachmentKey): AttachmentRecord | undefined {
    return this.#records.get(keyText(key));
  }

  /** What one call has, in the order in which it was made. */
  ofCall(call: CallKey): AttachmentRecord[] {
    return this.ofContainer(call.containerId).filter((record) => sameCall(record, call));
  }

  ofContainer(containerId: string): AttachmentRecord[] {
    return this.#byContainer.get(containerId);
  }

  ofNetwork(network: string): AttachmentRecord[] {
    return this.#byNetwork.get(network);
  }

  /** What is attached in the sandbox at a path. */
  ofNetns(netns: string): AttachmentRecord[] {
    return this.#byNetns.get(netns);
  }

  all(): IterableIterator<AttachmentRecord> {
    return this.#records.values();
  }

  /** Whether an address of a network is in use. */
  isTaken(network: string, address: string): boolean {
    return this.ownerOf(network, address) !== undefined;
  }

  /** The attachment that has an address of a network. */
  ownerOf(network: string, address: string): AttachmentRecord | undefined {
    const owner = this.#addresses.get(network)?.get(address);
    return owner === undefined ? undefined : this.#records.get(owner);
  }

  /** @throws OvpnError StateUnusable when the disk refuses */
  put(record: AttachmentRecord): void {
    this.#onDisk('record the attachment', () => writeDurably(this.#path(record), `${JSON.stringify(record)}\n`));
    this.#take(record);
  }

  /** @throws OvpnError StateUnusable when the disk refuses */
  remove(key: AttachmentKey): void {
    const record = this.get(key);
    if (record === undefined) return;
    this.#onDisk('record the attachment', () => removeDurably(this.#path(key)));
    this.#forget(record);
  }

  #forget(record: AttachmentRecord): void {
    this.#records.delete(keyText(record));
    for (const [groups, name] of this.#groupsOf(record)) groups.remove(name, record);
    const taken = this.#addresses.get(record.network);
    for (const address of record.addresses) if (taken?.get(address) === keyText(record)) taken.delete(address);
  }

  #take(record: AttachmentRecord): void {
    const before = this.get(record);
    if (before !== undefined) this.#forget(before);
    this.#records.set(keyText(record), record);
    for (const [groups, name] of this.#groupsOf(record)) groups.add(name, record);
    let taken = this.#addresses.get(record.network);
    if (taken === undefined) this.#addresses.set(record.network, (taken = new Map<string, string>()));
    for (const address of record.addresses) taken.set(address, keyText(record));
  }

  #groupsOf({ containerId, network, netns }: AttachmentRecord): [Groups, string][] {
    return [
      [this.#byContainer, containerId],
      [this.#byNetwork, network],
      [this.#byNetns, netns],
    ];
  }

  #path({ containerId, ifname }: AttachmentKey): string {
    // Both come from outside: nothing in them may lead out of the folder.
    const name = `${encodeURIComponent(containerId)}@${encodeURIComponent(ifname)}`;
    // Nobody reads the name back; the file's content says whose it is.
    const short = name.length <= maxNameLength ? name : createHash('sha256').update(name).digest('hex');
    return join(this.#folder, `${short}.json`);
  }

  #onDisk(what: string, action: () => void): void {
    try {
      action();
    } catch (error) {
      throw new OvpnError(
        'StateUnusable',
        `cannot ${what}: ${describe(error)}`,
        { object: this.#folder },
        { cause: error },
      );
    }
  }
}

/** Records by something that several have in common, in the order in which they came. */
class Groups {
  readonly #groups = new Map<string, Set<AttachmentRecord>>();

  get(name: string): AttachmentRecord[] {
    return [...(this.#groups.get(name) ?? [])];
  }

  add(name: string, record: AttachmentRecord): void {
    let group = this.#groups.get(name);
    if (group === undefined) this.#groups.set(name, (group = new Set()));
    group.add(record);
  }

  remove(name: string, record: AttachmentRecord): void {
    const group = this.#groups.get(name);
    group?.delete(record);
    if (group?.size === 0) this.#groups.delete(name);
  }
}

export function keyText({ containerId, ifname }: AttachmentKey): string {
  return `${containerId}/${ifname}`;
}

export function sameCall(one: CallKey, other: CallKey): boolean {
  return one.config === other.config && one.containerId === other.containerId && one.cniIfname === other.cniIfname;
}

function parseRecord(value: unknown): AttachmentRecord {
  if (typeof value !== 'object' || value === null) throw new TypeError('not an attachment');
  const fields = value as Partial<Record<keyof AttachmentRecord, unknown>>;
  const text = (name: keyof AttachmentRecord): string => {
    const field = fields[name];
    if (typeof field !== 'string' || field === '') throw new TypeError(`attachment without ${name}`);
    return field;
  };
  const { addresses, pod } = fields;
  if (!Array.isArray(addresses) || addresses.length === 0) throw new TypeError('attachment without addresses');
  const wrong: unknown = addresses.find((address) => isIP(String(address)) === 0);
  if (wrong !== undefined) throw new TypeError(`attachment with address ${JSON.stringify(wrong)}`);
  return {
    config: text('config'),
    containerId: text('containerId'),
    cniIfname: text('cniIfname'),
    ifname: text('ifname'),
    network: text('network'),
    netns: text('netns'),
    sandbox: text('sandbox'),
    mac: text('mac'),
    addresses: addresses.map(String),
    pod: parsePod(pod),
  };
}

function parsePod(value: unknown): PodIdentity | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { namespace, name, uid } = value as Partial<Record<keyof PodIdentity, unknown>>;
  if (typeof namespace !== 'string' || typeof name !== 'string') return undefined;
  return typeof uid === 'string' ? { namespace, name, uid } : { namespace, name };
}
