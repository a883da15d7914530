import type { Peer, Traffic } from '../../kernel/ovpn/codec.ts';
import type { DataCipher } from '../../openvpn/static-key.ts';
import type { RekeyLimits } from './desired-session.ts';

/**
 * What one data key has protected, by the kernel's counters: the driver itself only stops at 2^32 packets, without a
 * warning before (drivers/net/ovpn/pktid.c).
 */

/** Half of what the packet id has room for. */
const packetLimit = 2n ** 31n;
/**
 * Blocks and packets under one key of AES-GCM, half of OpenVPN's own limit of 2^36 - 1; by it the advantage of an
 * attacker stays below 2^-57 (draft-irtf-cfrg-aead-limits, section 5.1.1).
 */
const gcmLimit = 2n ** 35n;
const blockBytes = 16n;

export class KeyUsage {
  readonly #cipher: DataCipher;
  #base: Traffic | undefined;

  constructor(cipher: DataCipher) {
    this.#cipher = cipher;
    this.#base = { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n };
  }

  /** Another key begins. What the old one still carries until the swap counts for the new one. */
  renew(): void {
    this.#base = undefined;
  }

  /** Whether the key has reached the limit of its cipher (sent) or that of the settings (sent and received). */
  isSpent({ link }: Pick<Peer, 'link'>, limits: Pick<RekeyLimits, 'bytes' | 'packets'>): boolean {
    this.#base ??= link;
    const sentPackets = link.txPackets - this.#base.txPackets;
    const sentBytes = link.txBytes - this.#base.txBytes;
    const packets = sentPackets + link.rxPackets - this.#base.rxPackets;
    const bytes = sentBytes + link.rxBytes - this.#base.rxBytes;
    return (
      sentPackets >= packetLimit ||
      (this.#cipher !== 'CHACHA20-POLY1305' && sentBytes / blockBytes + 2n * sentPackets >= gcmLimit) ||
      (limits.bytes > 0 && bytes >= BigInt(limits.bytes)) ||
      (limits.packets > 0 && packets >= BigInt(limits.packets))
    );
  }
}
