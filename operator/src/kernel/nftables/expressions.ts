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
/** Loads the number of the transport protocol, behind extension headers, too (NFT_META_L4PROTO). */
export const transportProtocol = meta(16);

/** Goes on only if the loaded value begins with these bytes: a name's beginning, or a whole number. */
export function equals(bytes: Uint8Array): Expression {
  const NFT_CMP_EQ = 0;
  return {
    name: 'cmp',
    write: (writer) => {
      be32(writer, 1, register); // NFTA_CMP_SREG
      be32(writer, 2, NFT_CMP_EQ); // NFTA_CMP_OP
      value(writer, 3, bytes); // NFTA_CMP_DATA
    },
  };
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

/** Loads bytes of the transport header. */
export function transportBytes(offset: number, length: number): Expression {
  const NFT_PAYLOAD_TRANSPORT_HEADER = 2;
  return {
    name: 'payload',
    write: (writer) => {
      be32(writer, 1, register); // NFTA_PAYLOAD_DREG
      be32(writer, 2, NFT_PAYLOAD_TRANSPORT_HEADER); // NFTA_PAYLOAD_BASE
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

/** Ends the packet. */
export const drop: Expression = {
  name: 'immediate',
  write: (writer) => {
    const [NFT_REG_VERDICT, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, NF_DROP] = [0, 2, 1, 0];
    be32(writer, 1, NFT_REG_VERDICT); // NFTA_IMMEDIATE_DREG
    writer.nest(2, () => writer.nest(NFTA_DATA_VERDICT, () => be32(writer, NFTA_VERDICT_CODE, NF_DROP)));
  },
};
