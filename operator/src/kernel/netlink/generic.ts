import { forEachAttribute, type Message, readString, readU16, readU32 } from './message.ts';
import { NetlinkError } from './error.ts';
import type { NetlinkSocket } from './socket.ts';

const GENL_ID_CTRL = 16;
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;
const CTRL_CMD_GETPOLICY = 10;
const CTRL_ATTR_MCAST_GROUPS = 7;
const CTRL_ATTR_POLICY = 8;
const CTRL_ATTR_MCAST_GRP_NAME = 1;
const CTRL_ATTR_MCAST_GRP_ID = 2;

/** A generic netlink family as the running kernel numbers it. */
export interface GenericFamily {
  readonly id: number;
  readonly groups: ReadonlyMap<string, number>;
}

/** struct genlmsghdr {cmd, version, reserved = 0}. */
export function genericHeader(command: number, version = 1): Buffer {
  return Buffer.from([command, version, 0, 0]);
}

/**
 * Looks a family up by name; the kernel loads its module if it can (MODULE_ALIAS_GENL_FAMILY).
 *
 * @returns undefined when the kernel has no such family
 */
export function resolveFamily(socket: NetlinkSocket, name: string): GenericFamily | undefined {
  try {
    const reply = socket.get({
      type: GENL_ID_CTRL,
      describe: () => `resolve generic netlink family ${name}`,
      write: (writer) => {
        writer.raw(genericHeader(CTRL_CMD_GETFAMILY));
        writer.string(CTRL_ATTR_FAMILY_NAME, name);
      },
    });
    return parseFamily(reply.payload.subarray(4));
  } catch (error) {
    if (error instanceof NetlinkError && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function parseFamily(attributes: Buffer): GenericFamily {
  let id = 0;
  const groups = new Map<string, number>();
  forEachAttribute(attributes, (type, value) => {
    if (type === CTRL_ATTR_FAMILY_ID) id = readU16(value);
    if (type !== CTRL_ATTR_MCAST_GROUPS) return;
    forEachAttribute(value, (_index, group) => {
      let groupName = '';
      let groupId = 0;
      forEachAttribute(group, (attribute, data) => {
        if (attribute === CTRL_ATTR_MCAST_GRP_NAME) groupName = readString(data);
        if (attribute === CTRL_ATTR_MCAST_GRP_ID) groupId = readU32(data);
      });
      groups.set(groupName, groupId);
    });
  });
  return { id, groups };
}

/**
 * The greatest attribute type that any policy of a family names: what the running kernel knows, without trying it on
 * something (net/netlink/policy.c).
 *
 * @throws NetlinkError also when the kernel has no such family
 */
export function greatestAttribute(socket: NetlinkSocket, name: string): number {
  const found = socket.dump(
    {
      type: GENL_ID_CTRL,
      describe: () => `list the policies of generic netlink family ${name}`,
      write: (writer) => {
        writer.raw(genericHeader(CTRL_CMD_GETPOLICY));
        writer.string(CTRL_ATTR_FAMILY_NAME, name);
      },
    },
    parsePolicy,
  );
  return Math.max(0, ...found);
}

/** A message names one attribute of one policy, as nests by policy and by attribute. */
function parsePolicy({ payload }: Message): number | undefined {
  let greatest: number | undefined;
  forEachAttribute(payload.subarray(4), (type, policies) => {
    if (type !== CTRL_ATTR_POLICY) return;
    forEachAttribute(policies, (_policy, attributes) => {
      forEachAttribute(attributes, (attribute) => (greatest = Math.max(greatest ?? 0, attribute)));
    });
  });
  return greatest;
}
