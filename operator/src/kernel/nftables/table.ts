import { NetlinkError } from '../netlink/error.ts';
import { forEachAttribute, type Message, NLM_F_CREATE, NLM_F_EXCL, readString } from '../netlink/message.ts';
import type { NetlinkSocket, Request } from '../netlink/socket.ts';
import { be32, type Expression } from './expressions.ts';

/** Tables of nftables over netlink, for which no `nft` need be installed. One table is replaced as a whole, at once. */

export const NETLINK_NETFILTER = 12;

/** Where the kernel asks a chain (enum nf_inet_hooks). */
export type Hook = 'prerouting' | 'forward';
const hookNumbers = { prerouting: 0, forward: 2 } as const;

export interface FilterRule {
  /** Shown by `nft list ruleset`; tells rules apart, so a rule that changes must change its comment. */
  readonly comment: string;
  readonly expressions: readonly Expression[];
}

export interface FilterChain {
  readonly name: string;
  readonly hook: Hook;
  /** Chains of a hook are asked in this order. */
  readonly priority: number;
  readonly rules: readonly FilterRule[];
}

/** A table for IPv4 and IPv6 (family `inet`). */
export interface FilterTable {
  readonly name: string;
  readonly chains: readonly FilterChain[];
}

const subsystem = 10; // NFNL_SUBSYS_NFTABLES
const message = (number: number): number => (subsystem << 8) | number;
const NEWTABLE = message(0);
const DELTABLE = message(2);
const NEWCHAIN = message(3);
const NEWRULE = message(6);
const GETRULE = message(7);
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;
const NLM_F_APPEND = 0x800;
const NFPROTO_INET = 1;
const header = Buffer.from([NFPROTO_INET, 0, 0, 0]);
/** struct nfgenmsg of the edges of a transaction: they name the subsystem. */
const edgeHeader = Buffer.from([0, 0, 0, subsystem]);

const NFTA_TABLE_NAME = 1;
const NFTA_RULE_TABLE = 1;
const NFTA_RULE_CHAIN = 2;
const NFTA_RULE_USERDATA = 7;

/** Whether all rules of the table stand, and no others. Reads only. */
export function tableStands(socket: NetlinkSocket, table: FilterTable): boolean {
  const wanted = table.chains.flatMap(({ name, rules }) => rules.map(({ comment }) => `${name}: ${comment}`));
  const present = dumpRules(socket, table.name);
  return present.length === wanted.length && wanted.every((rule) => present.includes(rule));
}

/**
 * Makes the table what it should be, in one transaction: packets meet the old rules or the new ones, and never none.
 *
 * @throws NetlinkError
 */
export function replaceTable(socket: NetlinkSocket, table: FilterTable): void {
  const named = (type: number, verb: string, flags = 0): Request => ({
    type,
    flags,
    describe: () => `${verb} table ${table.name}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(NFTA_TABLE_NAME, table.name);
    },
  });
  socket.transact([
    edge(BATCH_BEGIN),
    // There may be none yet, and deleting that would fail.
    named(NEWTABLE, 'make', NLM_F_CREATE),
    named(DELTABLE, 'delete'),
    named(NEWTABLE, 'make', NLM_F_CREATE | NLM_F_EXCL),
    ...table.chains.flatMap((chain) => [
      newChain(table.name, chain),
      ...chain.rules.map((rule) => newRule(table.name, chain.name, rule)),
    ]),
    edge(BATCH_END),
  ]);
}

function edge(type: number): Request {
  return { type, describe: () => 'change packet filter rules', write: (writer) => writer.raw(edgeHeader) };
}

function newChain(table: string, { name, hook, priority }: FilterChain): Request {
  return {
    type: NEWCHAIN,
    flags: NLM_F_CREATE,
    describe: () => `make chain ${name} of table ${table}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(1, table); // NFTA_CHAIN_TABLE
      writer.string(3, name); // NFTA_CHAIN_NAME
      writer.string(7, 'filter'); // NFTA_CHAIN_TYPE
      // NFTA_CHAIN_HOOK
      writer.nest(4, () => {
        be32(writer, 1, hookNumbers[hook]); // NFTA_HOOK_HOOKNUM
        be32(writer, 2, priority); // NFTA_HOOK_PRIORITY
      });
    },
  };
}

function newRule(table: string, chain: string, { comment, expressions }: FilterRule): Request {
  return {
    type: NEWRULE,
    flags: NLM_F_CREATE | NLM_F_APPEND,
    describe: () => `make rule "${comment}" of chain ${chain}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(NFTA_RULE_TABLE, table);
      writer.string(NFTA_RULE_CHAIN, chain);
      // NFTA_RULE_EXPRESSIONS of NFTA_LIST_ELEM of NFTA_EXPR_NAME, NFTA_EXPR_DATA
      writer.nest(4, () => {
        for (const { name, write } of expressions) {
          writer.nest(1, () => {
            writer.string(1, name);
            writer.nest(2, () => write(writer));
          });
        }
      });
      writer.bytes(NFTA_RULE_USERDATA, commentData(comment));
    },
  };
}

/** As nft(8) keeps comments: type 0, length, text with NUL (libnftnl, NFTNL_UDATA_RULE_COMMENT). */
function commentData(comment: string): Buffer {
  const text = Buffer.from(`${comment}\0`);
  return Buffer.concat([Buffer.from([0, text.length]), text]);
}

/** The rules of a table as `chain: comment`. */
function dumpRules(socket: NetlinkSocket, table: string): string[] {
  const request: Request = {
    type: GETRULE,
    describe: () => `list the rules of table ${table}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(NFTA_RULE_TABLE, table);
    },
  };
  try {
    return socket.dump(request, parseRule);
  } catch (error) {
    if (error instanceof NetlinkError && error.code === 'ENOENT') return [];
    throw error;
  }
}

function parseRule({ type, payload }: Message): string | undefined {
  if (type !== NEWRULE) return undefined;
  let [chain, comment] = ['', ''];
  forEachAttribute(payload.subarray(header.length), (attribute, data) => {
    if (attribute === NFTA_RULE_CHAIN) chain = readString(data);
    if (attribute === NFTA_RULE_USERDATA && data[0] === 0) comment = readString(data.subarray(2));
  });
  return `${chain}: ${comment}`;
}
