import { formatRef, type ObjectRef } from '../api/types.ts';
import { OvpnError } from '../errors.ts';
import type { NetlinkError } from '../kernel/netlink/error.ts';
import type { Request } from '../kernel/netlink/socket.ts';
import type { Log } from '../telemetry/log.ts';
import type { DesiredKey, DesiredPeer } from './desired.ts';
import { emptySlots, type KeyStep, planSlots, type SlotPlan } from './key-slots.ts';
import type { Installation, Ledger, LedgerEntry } from './ledger.ts';
import type { NetworkKernel } from './network-kernel.ts';
import type { ObservedNetwork } from './observed.ts';

/** How a peer's key fared. */
export interface KeyResult {
  readonly problem: OvpnError | undefined;
}

export interface KeyRound {
  readonly results: ReadonlyMap<number, KeyResult>;
  /** Peers whose slots were changed. */
  readonly touched: readonly number[];
}

interface PendingStep {
  readonly peer: DesiredPeer;
  readonly key: DesiredKey;
  readonly step: KeyStep;
  readonly request: Request;
  /** Fingerprint of the key that a swap makes the transmitting one. */
  readonly switches: string | undefined;
}

/** The ledger's entries of the keys in a peer's slots. */
interface PresentKeys {
  readonly primary: LedgerEntry | undefined;
  readonly secondary: LedgerEntry | undefined;
}

/** What a round writes into the ledger when the kernel has answered. */
interface Afterwards {
  readonly installed: Installation[];
  readonly switched: string[];
  readonly refused: string[];
}

/** What of the kernel this needs. */
export type KeyKernel = Pick<NetworkKernel, 'requests' | 'changeOvpn'>;

/**
 * Puts data keys into the kernel's slots, each at most once in its life: what planSlots decides, carried out
 * with the ledger written before the kernel is told.
 */
export class KeyRotation {
  readonly #network: string;
  readonly #ledger: Ledger;
  readonly #clock: () => number;
  readonly #log: Log;
  /** When a peer in the middle of a rotation wants its next step. */
  readonly #due = new Map<number, number>();

  constructor(network: string, ledger: Ledger, clock: () => number, log: Log) {
    this.#network = network;
    this.#ledger = ledger;
    this.#clock = clock;
    this.#log = log;
  }

  get dueAt(): number | undefined {
    return this.#due.size === 0 ? undefined : Math.min(...this.#due.values());
  }

  /** Ids of the peers that want their next step now. */
  due(now: number): number[] {
    return [...this.#due].filter(([, at]) => at <= now).map(([id]) => id);
  }

  /** Forgets when steps are due: a whole round finds it out again. */
  forgetDue(): void {
    this.#due.clear();
  }

  /**
   * Says that peers are about to be made in the kernel. Keys that a crash left reserved for one may have been
   * in the peer that was there before, whatever key is wanted now: from here on they count as installed.
   */
  peersAreNew(ids: readonly number[]): void {
    this.#ledger.confirm(ids.flatMap((id) => this.#ledger.reservedFor(this.#network, id)));
  }

  /** Forgets a peer that is gone. */
  forget(id: number): void {
    this.#due.delete(id);
  }

  /** Does what is due now for these peers: one flush of the ledger and few system calls for all of them. */
  async apply(
    peers: readonly DesiredPeer[],
    deviceIndex: number,
    observed: ObservedNetwork,
    kernel: KeyKernel,
  ): Promise<KeyRound> {
    const results = new Map<number, KeyResult>();
    const steps: PendingStep[] = [];
    const switched: string[] = [];
    const unused: string[] = [];
    const inUse: Installation[] = [];
    /** Keys that this round installs: the ledger does not know them yet, and a second peer must not get them too. */
    const claimed = new Map<string, DesiredPeer>();
    // A crash between ledger and kernel left keys reserved. One whose id is in a slot is in use. One surely was
    // not used if the peer is there, has no key and has never sent a packet. All are settled with one flush.
    for (const peer of peers) {
      const inKernel = observed.peers.get(peer.id);
      for (const entry of inKernel === undefined ? [] : this.#ledger.reservedFor(this.#network, peer.id)) {
        const { primary, secondary } = observed.keys.get(peer.id) ?? emptySlots;
        const inSlot = primary?.keyId === entry.keyId || secondary?.keyId === entry.keyId;
        if (inSlot && this.#ledger.isAloneAt(entry)) inUse.push(entry);
        else if (primary === undefined && secondary === undefined && inKernel?.link.txPackets === 0n) {
          unused.push(entry.fingerprint);
        }
      }
    }
    if (inUse.length > 0) this.#ledger.confirm(inUse.splice(0));
    if (unused.length > 0) this.#ledger.release(...unused);
    for (const peer of peers) {
      const { key } = peer;
      this.#due.delete(peer.id);
      if (key === undefined || !observed.peers.has(peer.id)) continue;
      const { fingerprint } = key.keys;
      const present = this.#presentKeys(peer, observed);
      const decision = this.#decide(peer, key, observed, present);
      if (decision instanceof OvpnError) {
        results.set(peer.id, { problem: decision });
        continue;
      }
      if (decision.steps.some(({ step }) => step === 'install')) {
        const other = claimed.get(fingerprint);
        if (other !== undefined) {
          results.set(peer.id, { problem: spent(key, `it is being installed for ${formatRef(other.ref)}`) });
          continue;
        }
        claimed.set(fingerprint, peer);
      }
      if (decision.noteSwitch && present.primary !== undefined) switched.push(present.primary.fingerprint);
      if (decision.adopt) inUse.push(this.#installation(peer, key));
      if (decision.dueAt !== undefined) this.#due.set(peer.id, decision.dueAt);
      for (const step of decision.steps) {
        const request = this.#request(kernel, deviceIndex, peer, key, step);
        steps.push({ peer, key, step, request, switches: present.secondary?.fingerprint });
      }
    }
    if (inUse.length > 0) this.#ledger.confirm(inUse);
    if (steps.length === 0) {
      this.#ledger.switched(...switched);
      return { results, touched: [] };
    }
    const installs = steps.filter(({ step }) => step.step === 'install');
    this.#ledger.reserve(installs.map(({ peer, key }) => this.#installation(peer, key)));
    const outcomes = await kernel.changeOvpn(steps.map(({ request }) => request));
    const after: Afterwards = { installed: [], switched, refused: [] };
    steps.forEach((pending, i) => {
      const outcome = outcomes[i];
      if (outcome?.ok === false) results.set(pending.peer.id, { problem: refused(pending, outcome.error, after) });
      else this.#done(pending, after);
    });
    this.#ledger.confirm(after.installed);
    this.#ledger.switched(...after.switched);
    this.#ledger.release(...after.refused);
    return { results, touched: [...new Set(steps.map(({ peer }) => peer.id))] };
  }

  /** What the ledger knows of the keys in a peer's slots. */
  #presentKeys(peer: DesiredPeer, observed: ObservedNetwork): PresentKeys {
    const { primary, secondary } = observed.keys.get(peer.id) ?? emptySlots;
    const last = (slot: typeof primary) =>
      slot === undefined ? undefined : this.#ledger.lastAt(this.#network, peer.id, slot.keyId);
    return { primary: last(primary), secondary: last(secondary) };
  }

  #decide(peer: DesiredPeer, key: DesiredKey, observed: ObservedNetwork, present: PresentKeys): SlotPlan | OvpnError {
    const { fingerprint } = key.keys;
    const entry = this.#ledger.entry(fingerprint);
    if (entry !== undefined && !this.#isHere(entry, peer)) {
      return spent(key, `it was installed for peer id ${entry.peerId} of VpnNetwork ${entry.network}`);
    }
    const last = this.#ledger.lastAt(this.#network, peer.id, key.keyId);
    const plan = planSlots({
      wanted: { keyId: key.keyId, cipher: key.cipher, transitionMs: key.transitionMs },
      slots: observed.keys.get(peer.id) ?? emptySlots,
      record: entry,
      otherKeyHadId: last !== undefined && last.fingerprint !== fingerprint,
      present,
      now: this.#clock(),
    });
    if (plan.spent) return spent(key, 'it was installed for this peer before and the kernel does not hold it any more');
    if (plan.clash) return clash(key);
    if (
      entry === undefined &&
      plan.steps.some(({ step }) => step === 'install') &&
      key.generation <= key.publishedGeneration
    ) {
      return spent(key, 'its status says that a node installed it before, though the ledger here does not know of it');
    }
    return plan;
  }

  #request(kernel: KeyKernel, deviceIndex: number, peer: DesiredPeer, key: DesiredKey, step: KeyStep): Request {
    switch (step.step) {
      case 'install':
        return kernel.requests.keyNew(deviceIndex, {
          peerId: peer.id,
          slot: step.slot,
          keyId: key.keyId,
          cipher: key.cipher,
          encrypt: key.keys.encrypt,
          decrypt: key.keys.decrypt,
        });
      case 'swap':
        return kernel.requests.keySwap(deviceIndex, peer.id);
      case 'delete':
        return kernel.requests.keyDel(deviceIndex, peer.id, step.slot);
    }
  }

  #done({ peer, key, step, switches }: PendingStep, after: Afterwards): void {
    const fields = { peer: formatRef(peer.ref), peerId: peer.id, keyId: key.keyId, generation: key.generation };
    switch (step.step) {
      case 'install':
        after.installed.push(this.#installation(peer, key));
        this.#log.info({ event: 'key.installed', ...fields, slot: step.slot }, 'installed the data key');
        return;
      case 'swap':
        if (switches !== undefined) after.switched.push(switches);
        // Perhaps the key of a rotation that the wanted one waits for.
        if (switches === key.keys.fingerprint)
          this.#log.info({ event: 'key.switched', ...fields }, 'sending with the new data key');
        else
          this.#log.info(
            { event: 'key.switched', peer: fields.peer, peerId: peer.id },
            'sending with the next data key',
          );
        return;
      case 'delete':
        this.#log.info(
          { event: 'key.retired', peer: fields.peer, peerId: peer.id, slot: step.slot },
          'deleted the old data key',
        );
    }
  }

  #isHere(entry: { readonly network: string; readonly peerId: number }, peer: DesiredPeer): boolean {
    return entry.network === this.#network && entry.peerId === peer.id;
  }

  #installation(peer: DesiredPeer, key: DesiredKey): Installation {
    return {
      fingerprint: key.keys.fingerprint,
      network: this.#network,
      peerId: peer.id,
      keyId: key.keyId,
      key: formatRef(key.ref),
      generation: key.generation,
    };
  }
}

function refused({ peer, key, step }: PendingStep, error: NetlinkError, after: Afterwards): OvpnError {
  // Refused means that the kernel never had it.
  if (step.step === 'install') after.refused.push(key.keys.fingerprint);
  return kernelRefused(peer.ref, error);
}

/** A refusal of the kernel, told about the object that it concerns. */
export function kernelRefused(ref: ObjectRef, error: NetlinkError): OvpnError {
  return new OvpnError('KernelRefused', error.message, { object: formatRef(ref) }, { cause: error });
}

function spent({ ref, generation }: DesiredKey, why: string): OvpnError {
  return new OvpnError('KeySpent', `generation ${generation} of the key is spent: ${why}`, {
    object: formatRef(ref),
    field: 'spec.static.generation',
  });
}

function clash({ ref, generation, keyId }: DesiredKey): OvpnError {
  return new OvpnError(
    'KeySpent',
    `generation ${generation} has key id ${keyId}, which the key in use has too`,
    { object: formatRef(ref), field: 'spec.static.generation' },
    { remedy: 'choose a generation that is 1 to 7 above the one in use' },
  );
}
