/**
 * The first byte of every packet: five bits opcode, three bits key id (OpenVPN RFC draft, "Packet format"). The two
 * hard resets of key method 1 (1 and 2) are gone from OpenVPN since 2.5 and count as unknown.
 */

export type Opcode =
  | 'soft-reset-v1'
  | 'control-v1'
  | 'ack-v1'
  | 'data-v1'
  | 'hard-reset-client-v2'
  | 'hard-reset-server-v2'
  | 'data-v2'
  | 'hard-reset-client-v3'
  | 'control-wkc-v1';

export type ControlOpcode = Exclude<Opcode, 'data-v1' | 'data-v2'>;

const numbers: Readonly<Record<Opcode, number>> = {
  'soft-reset-v1': 3,
  'control-v1': 4,
  'ack-v1': 5,
  'data-v1': 6,
  'hard-reset-client-v2': 7,
  'hard-reset-server-v2': 8,
  'data-v2': 9,
  'hard-reset-client-v3': 10,
  'control-wkc-v1': 11,
};

const names = new Map<number, Opcode>();
for (const [name, number] of Object.entries(numbers) as [Opcode, number][]) {
  names.set(number, name);
}

export type FirstByte =
  | { readonly kind: 'control'; readonly opcode: ControlOpcode; readonly keyId: number }
  | { readonly kind: 'data'; readonly opcode: 'data-v1' | 'data-v2'; readonly keyId: number }
  | { readonly kind: 'unknown' };

const unknown: FirstByte = { kind: 'unknown' };

/** What a packet is by its first byte; an empty packet is unknown. */
export function classify(firstByte: number | undefined): FirstByte {
  const opcode = firstByte === undefined ? undefined : names.get(firstByte >>> 3);
  if (firstByte === undefined || opcode === undefined) {
    return unknown;
  }
  const keyId = firstByte & 7;
  return opcode === 'data-v1' || opcode === 'data-v2'
    ? { kind: 'data', opcode, keyId }
    : { kind: 'control', opcode, keyId };
}

export function firstByte(opcode: Opcode, keyId: number): number {
  return (numbers[opcode] << 3) | (keyId & 7);
}
