import { addressBytes, addressText } from '../address.ts';
import { NetlinkError } from '../netlink/error.ts';
import { forEachAttribute, type Message, NLM_F_CREATE, NLM_F_EXCL, readString } from '../netlink/message.ts';
import type { NetlinkSocket, Request } from '../netlink/socket.ts';
import { be32, type Expression } from './expressions.ts';

/** Tables of nftables over netlink, for which no `nft` need be installed. One table is replaced as a whole, at once. */

export const NETLINK_NETFILTER = 12;

/** Where the kernel asks a chain (enum nf_inet_hooks). */
export type Hook = 'prerouting' | 'forward' | 'postrouting';
const hookNumbers = { prerouting: 0, forward: 2, postrouting: 4 } as const;

export interface FilterRule {
  /** Shown by `nft list ruleset`; tells rules apart, so a rule that changes must change its comment. */
  readonly comment: string;
  readonly expressions: readonly Expression[];
}

export interface FilterChain {
  readonly name: string;
  /** Where the kernel asks the chain. Without it only rules of other chains lead here. */
  readonly base?: {
    readonly hook: Hook;
    /** Chains of a hook are asked in this order. */
    readonly priority: number;
    /** `nat` chains are asked about the first packet of a connection only. */
    readonly type: 'filter' | 'nat';
  };
  readonly rules: readonly FilterRule[];
}

/** A set of addresses of one family, to look packets up in. */
export interface AddressSet {
  readonly name: string;
  readonly family: Family;
}

/** A table for IPv4 and IPv6 (family `inet`). */
export interface FilterTable {
  readonly name: string;
  readonly sets?: readonly AddressSet[];
  readonly chains: readonly FilterChain[];
}

/** The elements of sets, by their names. */
export type SetElements = ReadonlyMap<string, readonly string[]>;

/** Elements that come into a set and leave it. */
export interface SetChange {
  readonly set: string;
  readonly add: readonly string[];
  readonly remove: readonly string[];
}

const subsystem = 10; // NFNL_SUBSYS_NFTABLES
const message = (number: number): number => (subsystem << 8) | number;
const NEWTABLE = message(0);
const GETTABLE = message(1);
const DELTABLE = message(2);
const NEWCHAIN = message(3);
const NEWRULE = message(6);
const GETRULE = message(7);
const NEWSET = message(9);
const NEWSETELEM = message(12);
const GETSETELEM = message(13);
const DELSETELEM = message(14);
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
const NFTA_SET_ELEM_LIST_ELEMENTS = 3;
const NFTA_LIST_ELEM = 1;
const NFTA_SET_ELEM_KEY = 1;
const NFTA_DATA_VALUE = 1;

/** A nest has 16 bits for its length: so many elements of 28 bytes are well below. */
const elementsAtOnce = 1000;
/** The types of keys as nft(8) numbers them (include/datatype.h); the kernel only keeps them. */
const keyTypes = { 4: 7, 6: 8 } as const;

export type Family = 4 | 6;

/** Whether all rules of the table stand, and no others. Reads only. */
export function tableStands(socket: NetlinkSocket, table: FilterTable): boolean {
  const wanted = table.chains.flatMap(({ name, rules }) => rules.map(({ comment }) => `${name}: ${comment}`));
  const present = dumpRules(socket, table.name);
  return present.length === wanted.length && wanted.every((rule) => present.includes(rule));
}

/**
 * Makes the table what it should be, in one transaction: packets meet the old rules or the new ones, and never none.
 *
 * @param elements what its sets hold
 * @throws NetlinkError
 */
export function replaceTable(socket: NetlinkSocket, table: FilterTable, elements: SetElements = new Map()): void {
  socket.transact([
    edge(BATCH_BEGIN),
    // There may be none yet, and deleting that would fail.
    named(NEWTABLE, 'make', table.name, NLM_F_CREATE),
    named(DELTABLE, 'delete', table.name),
    named(NEWTABLE, 'make', table.name, NLM_F_CREATE | NLM_F_EXCL),
    ...(table.sets ?? []).flatMap((set, index) => [
      newSet(table.name, set, index + 1),
      ...changeElements(NEWSETELEM, 'add', table.name, set.name, elements.get(set.name) ?? []),
    ]),
    ...table.chains.map((chain) => newChain(table.name, chain)),
    ...table.chains.flatMap((chain) => chain.rules.map((rule) => newRule(table.name, chain.name, rule))),
    edge(BATCH_END),
  ]);
}

/** Whether there is a table of this name. Reads only. @throws NetlinkError */
export function tableExists(socket: NetlinkSocket, name: string): boolean {
  const [found] = socket.getAll([named(GETTABLE, 'look up', name)], () => true);
  return found === true;
}

/** Takes a table away with all that is in it. @throws NetlinkError ENOENT when there is none */
export function deleteTable(socket: NetlinkSocket, name: string): void {
  socket.transact([edge(BATCH_BEGIN), named(DELTABLE, 'delete', name), edge(BATCH_END)]);
}

/** The addresses in a set. @throws NetlinkError ENOENT when there is no such set */
export function dumpElements(socket: NetlinkSocket, table: string, set: string): string[] {
  const request: Request = {
    type: GETSETELEM,
    describe: () => `list set ${set} of table ${table}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(1, table); // NFTA_SET_ELEM_LIST_TABLE
      writer.string(2, set); // NFTA_SET_ELEM_LIST_SET
    },
  };
  return socket.dump(request, parseElements).flat();
}

/** Changes what is in sets of a table, at once. @throws NetlinkError */
export function changeSets(socket: NetlinkSocket, table: string, changes: readonly SetChange[]): void {
  const requests = changes.flatMap(({ set, add, remove }) => [
    ...changeElements(NEWSETELEM, 'add', table, set, add),
    ...changeElements(DELSETELEM, 'delete', table, set, remove),
  ]);
  if (requests.length > 0) socket.transact([edge(BATCH_BEGIN), ...requests, edge(BATCH_END)]);
}

function named(type: number, verb: string, table: string, flags = 0): Request {
  return {
    type,
    flags,
    describe: () => `${verb} table ${table}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(NFTA_TABLE_NAME, table);
    },
  };
}

function edge(type: number): Request {
  return { type, describe: () => 'change packet filter rules', write: (writer) => writer.raw(edgeHeader) };
}

function newSet(table: string, { name, family }: AddressSet, id: number): Request {
  return {
    type: NEWSET,
    flags: NLM_F_CREATE,
    describe: () => `make set ${name} of table ${table}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(1, table); // NFTA_SET_TABLE
      writer.string(2, name); // NFTA_SET_NAME
      be32(writer, 4, keyTypes[family]); // NFTA_SET_KEY_TYPE
      be32(writer, 5, family === 4 ? 4 : 16); // NFTA_SET_KEY_LEN
      be32(writer, 10, id); // NFTA_SET_ID
    },
  };
}

function changeElements(
  type: number,
  verb: string,
  table: string,
  set: string,
  addresses: readonly string[],
): Request[] {
  const requests: Request[] = [];
  for (let start = 0; start < addresses.length; start += elementsAtOnce) {
    const some = addresses.slice(start, start + elementsAtOnce);
    requests.push({
      type,
      flags: type === NEWSETELEM ? NLM_F_CREATE : 0,
      describe: () => `${verb} elements of set ${set}: ${some.slice(0, 3).join(', ')}${some.length > 3 ? ', …' : ''}`,
      write: (writer) => {
        writer.raw(header);
        writer.string(1, table); // NFTA_SET_ELEM_LIST_TABLE
        writer.string(2, set); // NFTA_SET_ELEM_LIST_SET
        writer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, () => {
          for (const address of some) {
            writer.nest(NFTA_LIST_ELEM, () =>
              writer.nest(NFTA_SET_ELEM_KEY, () => writer.bytes(NFTA_DATA_VALUE, addressBytes(address))),
            );
          }
        });
      },
    });
  }
  return requests;
}

function parseElements({ type, payload }: Message): string[] | undefined {
  if (type !== NEWSETELEM) return undefined;
  const found: string[] = [];
  forEachAttribute(payload.subarray(header.length), (attribute, list) => {
    if (attribute !== NFTA_SET_ELEM_LIST_ELEMENTS) return;
    forEachAttribute(list, (_, element) => {
      forEachAttribute(element, (part, key) => {
        if (part !== NFTA_SET_ELEM_KEY) return;
        forEachAttribute(key, (kind, data) => {
          if (kind === NFTA_DATA_VALUE) found.push(addressText(data));
        });
      });
    });
  });
  return found;
}

function newChain(table: string, { name, base }: FilterChain): Request {
  return {
    type: NEWCHAIN,
    flags: NLM_F_CREATE,
    describe: () => `make chain ${name} of table ${table}`,
    write: (writer) => {
      writer.raw(header);
      writer.string(1, table); // NFTA_CHAIN_TABLE
      writer.string(3, name); // NFTA_CHAIN_NAME
      if (base === undefined) return;
      writer.string(7, base.type); // NFTA_CHAIN_TYPE
      // NFTA_CHAIN_HOOK
      writer.nest(4, () => {
        be32(writer, 1, hookNumbers[base.hook]); // NFTA_HOOK_HOOKNUM
        be32(writer, 2, base.priority); // NFTA_HOOK_PRIORITY
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
