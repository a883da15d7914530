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
}

export interface SlotQuestion {
  readonly wanted: SlotKey & { readonly transitionMs: number };
  readonly slots: KeySlots;
  /** The record of this very key (by fingerprint) at this very peer; undefined when it never was installed here. */
  readonly record: InstallationRecord | undefined;
  /** The ledger's last record of another key with the wanted id at this peer exists. */
  readonly otherKeyHadId: boolean;
  readonly now: number;
}

/** Decides the next steps for one peer. */
export function planSlots({ wanted, slots, record, otherKeyHadId, now }: SlotQuestion): SlotPlan {
  const { primary, secondary } = slots;
  if (record !== undefined && holds(primary, wanted)) {
    if (secondary === undefined) return settled(true);
    const until = (record.switchedAt ?? record.installedAt) + wanted.transitionMs;
    return now >= until ? act({ step: 'delete', slot: 'secondary' }) : wait(until);
  }
  if (record !== undefined && holds(secondary, wanted)) {
    // Without a primary key nothing is sent, so there is nothing to wait for.
    const until = primary === undefined ? now : record.installedAt + wanted.transitionMs;
    return now >= until ? { ...act({ step: 'swap' }), dueAt: now + wanted.transitionMs } : wait(until);
  }
  if (record !== undefined) return { ...settled(false), spent: true };
  if (holds(primary, wanted) || holds(secondary, wanted)) {
    return otherKeyHadId ? { ...settled(false), clash: true } : { ...settled(true), adopt: true, dueAt: now };
  }
  if (primary === undefined) {
    // Whatever the secondary slot holds was never ours to send with.
    return secondary === undefined
      ? act({ step: 'install', slot: 'primary' })
      : act({ step: 'delete', slot: 'secondary' }, { step: 'install', slot: 'primary' });
  }
  const makeRoom: KeyStep[] = secondary === undefined ? [] : [{ step: 'delete', slot: 'secondary' }];
  return {
    ...act(...makeRoom, { step: 'install', slot: 'secondary' }),
    dueAt: now + wanted.transitionMs,
  };
}

function holds(slot: SlotKey | undefined, wanted: SlotKey): boolean {
  return slot !== undefined && slot.keyId === wanted.keyId && slot.cipher === wanted.cipher;
}

const flags = { spent: false, adopt: false, clash: false };
const settled = (installed: boolean): SlotPlan => ({ steps: [], dueAt: undefined, installed, ...flags });
const wait = (dueAt: number): SlotPlan => ({ steps: [], dueAt, installed: true, ...flags });
const act = (...steps: KeyStep[]): SlotPlan => ({ steps, dueAt: undefined, installed: true, ...flags });
