import type { CipherAlgorithm, KeySlot } from '../kernel/ovpn/uapi.ts';

/**
 * What to do with a peer's two key slots: the pure heart of key rotation, make before break. The new key is
 * installed as secondary, where it only receives; after the transition time, in which the other end does the
 * same, the slots are swapped; after the same time again the old key is deleted.
 */

export interface SlotKey {
  readonly keyId: number;
  readonly cipher: CipherAlgorithm;
}

/** The slots as the kernel has them. */
export interface KeySlots {
  readonly primary: SlotKey | undefined;
  readonly secondary: SlotKey | undefined;
}

export const emptySlots: KeySlots = { primary: undefined, secondary: undefined };

/** What the ledger knows of the wanted key at this peer. */
export interface InstallationRecord {
  readonly keyId: number;
  readonly installedAt: number;
  readonly switchedAt: number | undefined;
}

export type KeyStep =
  | { readonly step: 'install'; readonly slot: KeySlot }
  | { readonly step: 'swap' }
  | { readonly step: 'delete'; readonly slot: KeySlot };

export interface SlotPlan {
  readonly steps: readonly KeyStep[];
  /** When to look again, in milliseconds of the clock that `now` came from. */
  readonly dueAt: number | undefined;
  /** The wanted key is in a slot. */
  readonly installed: boolean;
  /** The wanted key was installed here before and is not there any more: it may not be installed again. */
  readonly spent: boolean;
  /**
   * A slot holds a key with the wanted id that the ledger knows nothing of. It may be the wanted key (the
   * ledger was lost), so it must not be installed again: it is recorded as installed.
   */
  readonly adopt: boolean;
  /** Another key with the wanted id is in use: the receiver could not tell them apart. */
  readonly clash: boolean;
  /**
   * When the key in the primary slot began to transmit is not known (a crash after the swap): it is written
   * down as now, so that the other key is still received for the whole transition time.
   */
  readonly noteSwitch: boolean;
}

export interface SlotQuestion {
  readonly wanted: SlotKey & { readonly transitionMs: number };
  readonly slots: KeySlots;
  /** The record of this very key (by fingerprint) at this very peer; undefined when it never was installed here. */
  readonly record: InstallationRecord | undefined;
  /** The ledger's last record of another key with the wanted id at this peer exists. */
  readonly otherKeyHadId: boolean;
  /** The ledger's last records of the ids that are in the slots, whatever key is wanted. */
  readonly present: {
    readonly primary: InstallationRecord | undefined;
    readonly secondary: InstallationRecord | undefined;
  };
  readonly now: number;
}

/** Decides the next steps for one peer. */
export function planSlots(question: SlotQuestion): SlotPlan {
  const { wanted, slots, record, otherKeyHadId, now } = question;
  const { primary, secondary } = slots;
  // A later key took its id over: what a slot holds under that id is not the wanted key.
  if (record !== undefined && (otherKeyHadId || record.keyId !== wanted.keyId))
    return { ...settled(false), spent: true };
  if (record !== undefined && holds(primary, wanted)) {
    if (secondary === undefined) return settled(true);
    if (record.switchedAt === undefined) return { ...wait(now + wanted.transitionMs), noteSwitch: true };
    const until = record.switchedAt + wanted.transitionMs;
    return now >= until ? act({ step: 'delete', slot: 'secondary' }) : wait(until);
  }
  if (record !== undefined && holds(secondary, wanted)) {
    // Without a primary key nothing is sent, so there is nothing to wait for.
    const until = primary === undefined ? now : record.installedAt + wanted.transitionMs;
    return now >= until ? { ...act({ step: 'swap' }), dueAt: now + wanted.transitionMs } : wait(until);
  }
  if (record !== undefined) return { ...settled(false), spent: true };
  if (!otherKeyHadId && (holds(primary, wanted) || holds(secondary, wanted)))
    return { ...settled(true), adopt: true, dueAt: now };
  if (primary?.keyId === wanted.keyId) return { ...settled(false), clash: true };
  if (secondary === undefined) {
    return primary === undefined
      ? act({ step: 'install', slot: 'primary' })
      : { ...act({ step: 'install', slot: 'secondary' }), dueAt: now + wanted.transitionMs };
  }
  const unfinished = primary === undefined ? undefined : finishRotation(question);
  if (unfinished !== undefined) return unfinished;
  const makeRoom: KeyStep = { step: 'delete', slot: 'secondary' };
  if (secondary.keyId === wanted.keyId) {
    // Alone: a crash between both would leave the old key looking like the new one that the ledger has reserved.
    return { ...act(makeRoom), dueAt: now, installed: false };
  }
  return primary === undefined
    ? act(makeRoom, { step: 'install', slot: 'primary' })
    : { ...act(makeRoom, { step: 'install', slot: 'secondary' }), dueAt: now + wanted.transitionMs };
}

/**
 * A third key waits for the rotation before it: a key that the other end may be sending with, or that it has
 * just stopped sending with, must not be thrown away.
 *
 * @returns undefined when the secondary slot may be emptied
 */
function finishRotation({ wanted, present, now }: SlotQuestion): SlotPlan | undefined {
  const { primary: sending, secondary: other } = present;
  if (other === undefined) return undefined;
  const pending =
    other.switchedAt === undefined && (sending?.switchedAt ?? sending?.installedAt ?? 0) <= other.installedAt;
  if (pending) {
    const until = other.installedAt + wanted.transitionMs;
    const plan = now >= until ? { ...act({ step: 'swap' }), dueAt: now + wanted.transitionMs } : wait(until);
    return { ...plan, installed: false };
  }
  if (sending === undefined) return undefined;
  if (sending.switchedAt === undefined)
    return { ...wait(now + wanted.transitionMs), installed: false, noteSwitch: true };
  const until = sending.switchedAt + wanted.transitionMs;
  return now >= until ? undefined : { ...wait(until), installed: false };
}

function holds(slot: SlotKey | undefined, wanted: SlotKey): boolean {
  return slot !== undefined && slot.keyId === wanted.keyId && slot.cipher === wanted.cipher;
}

const flags = { spent: false, adopt: false, clash: false, noteSwitch: false };
const settled = (installed: boolean): SlotPlan => ({ steps: [], dueAt: undefined, installed, ...flags });
const wait = (dueAt: number): SlotPlan => ({ steps: [], dueAt, installed: true, ...flags });
const act = (...steps: KeyStep[]): SlotPlan => ({ steps, dueAt: undefined, installed: true, ...flags });
