import type { RequestWriter } from '../netlink/message.ts';

/**
 * Expressions of nftables rules as the kernel has them (include/uapi/linux/netfilter/nf_tables.h): each is a name and
 * attributes, all numbers big-endian. A rule evaluates them in order and stops at the first that does not hold.
 * `nft --debug=netlink` prints the same.
 */

/** Writes the attributes of one expression. */
export interface Expression {
  readonly name: string;
  readonly write: (writer: RequestWriter) => void;
}

/** The one register that our expressions pass values by (NFT_REG_1). */
const register = 1;

/** A number as nftables writes it. */
export function be32(writer: RequestWriter, type: number, value: number): void {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value | 0);
  writer.bytes(type, bytes);
}

function value(writer: RequestWriter, type: number, bytes: Uint8Array): void {
  const NFTA_DATA_VALUE = 1;
  writer.nest(type, () => writer.bytes(NFTA_DATA_VALUE, bytes));
}

function meta(key: number): Expression {
  return {
    name: 'meta',
    write: (writer) => {
      be32(writer, 1, register); // NFTA_META_DREG
      be32(writer, 2, key); // NFTA_META_KEY
    },
  };
}

/** Loads the name of the interface that the packet came in by (NFT_META_IIFNAME). */
export const inputName = meta(6);
/** Loads the name of the interface that the packet leaves by (NFT_META_OIFNAME). */
export const outputName = meta(7);
/** Loads the family of the packet, a byte: NFPROTO_IPV4, NFPROTO_IPV6 (NFT_META_NFPROTO). */
export const packetFamily = meta(15);
/** Loads the number of the transport protocol, behind extension headers, too (NFT_META_L4PROTO). */
export const transportProtocol = meta(16);

/** How values are compared (enum nft_cmp_ops): byte by byte, which for numbers of the network is their order. */
const comparisons = { equal: 0, different: 1, atMost: 3, atLeast: 5 } as const;

function compare(how: keyof typeof comparisons, bytes: Uint8Array): Expression {
  return {
    name: 'cmp',
    write: (writer) => {
      be32(writer, 1, register); // NFTA_CMP_SREG
      be32(writer, 2, comparisons[how]); // NFTA_CMP_OP
      value(writer, 3, bytes); // NFTA_CMP_DATA
    },
  };
}

/** Goes on only if the loaded value begins with these bytes: a name's beginning, or a whole number. */
export function equals(bytes: Uint8Array): Expression {
  return compare('equal', bytes);
}

/** Goes on only if the loaded value is another one. */
export function differs(bytes: Uint8Array): Expression {
  return compare('different', bytes);
}

/** Goes on only if the loaded value is this or more. */
export function atLeast(bytes: Uint8Array): Expression {
  return compare('atLeast', bytes);
}

/** Goes on only if the loaded value is this or less. */
export function atMost(bytes: Uint8Array): Expression {
  return compare('atMost', bytes);
}

/** Goes on only if the loaded value is an element of the set. */
export function isIn(set: string): Expression {
  return {
    name: 'lookup',
    write: (writer) => {
      writer.string(1, set); // NFTA_LOOKUP_SET
      be32(writer, 2, register); // NFTA_LOOKUP_SREG
    },
  };
}

/** States of connections, as bits (include/uapi/linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_BIT). */
const connectionStates = { invalid: 1, established: 2, related: 4 } as const;

/** Goes on only if the packet's connection is in one of the states. */
export function connectionIs(...states: (keyof typeof connectionStates)[]): Expression[] {
  // The one number that the kernel keeps in its own byte order; ours are little-endian machines.
  const bits = Buffer.alloc(4);
  bits.writeUInt32LE(states.reduce((sum, state) => sum | connectionStates[state], 0));
  const NFT_CT_STATE = 0;
  const load: Expression = {
    name: 'ct',
    write: (writer) => {
      be32(writer, 1, register); // NFTA_CT_DREG
      be32(writer, 2, NFT_CT_STATE); // NFTA_CT_KEY
    },
  };
  return [load, masked(bits), differs(Buffer.alloc(4))];
}

/**
 * Loads the index of the interface that packets to the source address leave by, if that is the one that this packet
 * came in by; else 0 (net/ipv4/netfilter/nft_fib_ipv4.c, net/ipv6/netfilter/nft_fib_ipv6.c).
 */
export const wayBack: Expression = {
  name: 'fib',
  write: (writer) => {
    const [NFT_FIB_RESULT_OIF, NFTA_FIB_F_SADDR, NFTA_FIB_F_IIF] = [1, 1, 8];
    be32(writer, 1, register); // NFTA_FIB_DREG
    be32(writer, 2, NFT_FIB_RESULT_OIF); // NFTA_FIB_RESULT
    be32(writer, 3, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF); // NFTA_FIB_FLAGS
  },
};

/** Loads bytes of the IP header (NFT_PAYLOAD_NETWORK_HEADER). */
export function networkBytes(offset: number, length: number): Expression {
  return payload(1, offset, length);
}

/** Loads bytes of the transport header (NFT_PAYLOAD_TRANSPORT_HEADER). */
export function transportBytes(offset: number, length: number): Expression {
  return payload(2, offset, length);
}

function payload(base: number, offset: number, length: number): Expression {
  return {
    name: 'payload',
    write: (writer) => {
      be32(writer, 1, register); // NFTA_PAYLOAD_DREG
      be32(writer, 2, base); // NFTA_PAYLOAD_BASE
      be32(writer, 3, offset); // NFTA_PAYLOAD_OFFSET
      be32(writer, 4, length); // NFTA_PAYLOAD_LEN
    },
  };
}

/** Keeps these bits of the loaded value. */
export function masked(mask: Uint8Array): Expression {
  return {
    name: 'bitwise',
    write: (writer) => {
      be32(writer, 1, register); // NFTA_BITWISE_SREG
      be32(writer, 2, register); // NFTA_BITWISE_DREG
      be32(writer, 3, mask.length); // NFTA_BITWISE_LEN
      value(writer, 4, mask); // NFTA_BITWISE_MASK
      value(writer, 5, Buffer.alloc(mask.length)); // NFTA_BITWISE_XOR
    },
  };
}

/** Loads the segment size that fits the way of the packet and that of its answers (net/netfilter/nft_rt.c, get_tcpmss). */
export const routeSegmentSize: readonly Expression[] = [
  {
    name: 'rt',
    write: (writer) => {
      const NFT_RT_TCPMSS = 3;
      be32(writer, 1, register); // NFTA_RT_DREG
      be32(writer, 2, NFT_RT_TCPMSS); // NFTA_RT_KEY
    },
  },
  {
    name: 'byteorder',
    write: (writer) => {
      const NFT_BYTEORDER_HTON = 1;
      be32(writer, 1, register); // NFTA_BYTEORDER_SREG
      be32(writer, 2, register); // NFTA_BYTEORDER_DREG
      be32(writer, 3, NFT_BYTEORDER_HTON); // NFTA_BYTEORDER_OP
      be32(writer, 4, 2); // NFTA_BYTEORDER_LEN
      be32(writer, 5, 2); // NFTA_BYTEORDER_SIZE
    },
  },
];

/** Writes the loaded value over the segment size that TCP announces; the kernel only lowers it (nft_exthdr.c). */
export const setAnnouncedSegmentSize: Expression = {
  name: 'exthdr',
  write: (writer) => {
    const [TCPOPT_MAXSEG, NFT_EXTHDR_OP_TCPOPT] = [2, 1];
    writer.u8(2, TCPOPT_MAXSEG); // NFTA_EXTHDR_TYPE
    be32(writer, 3, 2); // NFTA_EXTHDR_OFFSET
    be32(writer, 4, 2); // NFTA_EXTHDR_LEN
    be32(writer, 6, NFT_EXTHDR_OP_TCPOPT); // NFTA_EXTHDR_OP
    be32(writer, 7, register); // NFTA_EXTHDR_SREG
  },
};

/** What becomes of a packet (include/uapi/linux/netfilter.h; enum nft_verdicts). */
function verdict(code: number, chain?: string): Expression {
  return {
    name: 'immediate',
    write: (writer) => {
      const [NFT_REG_VERDICT, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN] = [0, 2, 1, 2];
      be32(writer, 1, NFT_REG_VERDICT); // NFTA_IMMEDIATE_DREG
      // NFTA_IMMEDIATE_DATA
      writer.nest(2, () =>
        writer.nest(NFTA_DATA_VERDICT, () => {
          be32(writer, NFTA_VERDICT_CODE, code);
          if (chain !== undefined) writer.string(NFTA_VERDICT_CHAIN, chain);
        }),
      );
    },
  };
}

/** Ends the packet (NF_DROP). */
export const drop = verdict(0);
/** Lets the packet pass this hook (NF_ACCEPT); chains of the hook in other tables are asked all the same. */
export const accept = verdict(1);

/** Goes on in another chain of the table, and does not come back (NFT_GOTO). */
export function goTo(chain: string): Expression {
  return verdict(-4, chain);
}

/** Gives the connection the address of the interface that it leaves by as its source (net/netfilter/nft_masq.c). */
export const masquerade: Expression = { name: 'masq', write: () => undefined };
