/** Strict reading of the attachment in the agent's reply to ADD. */
import { isIP } from 'node:net';
import type { Attachment } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { Reader } from './json-reader.ts';
import { isMac, parsePrefix } from './prefix.ts';

function refuse(field: string, problem: string): never {
  throw new OvpnError('AgentProtocol', problem, { object: 'reply of the agent', field });
}

/** What was asked for: the interface of one network, or those that the agent has chosen, named by a prefix. */
export interface Asked {
  readonly containerId: string;
  readonly ifname: string;
  readonly isPrefix: boolean;
}

/** The attachments, which must be those that were asked for. */
export function parseAddResult(result: unknown, asked: Asked): readonly Attachment[] {
  const reply = new Reader(result, 'result', refuse);
  const attachments = reply.objects('attachments').map((reader) => parseAttachment(reader, asked));
  return asked.isPrefix || attachments.length === 1
    ? attachments
    : reply.refuse('attachments', 'must be one attachment');
}

function parseAttachment(reader: Reader, asked: Asked): Attachment {
  const containerId = reader.string('containerId');
  const ifname = reader.string('ifname');
  const isAsked = asked.isPrefix ? ifname.startsWith(asked.ifname) : ifname === asked.ifname;
  if (containerId !== asked.containerId || !isAsked) {
    reader.refuse('containerId', 'belongs to another attachment than the one asked for');
  }
  const host = reader.optionalObject('hostInterface') ?? reader.refuse('hostInterface', 'is missing');
  return {
    containerId,
    ifname,
    network: reader.string('network'),
    netns: reader.string('netns'),
    mac: mac(reader),
    mtu: reader.optionalUint('mtu') ?? reader.refuse('mtu', 'is missing'),
    hostInterface: { name: host.string('name'), mac: mac(host), netns: host.string('netns') },
    addresses: reader.objects('addresses').map((entry) => ({
      address: parsePrefix(entry, 'address'),
      gateway: ip(entry, 'gateway'),
    })),
    routes: reader.objects('routes').map((entry) => {
      const mtu = entry.optionalUint('mtu');
      return { dst: parsePrefix(entry, 'dst'), gw: ip(entry, 'gw'), ...(mtu === undefined ? {} : { mtu }) };
    }),
  };
}

function ip(reader: Reader, key: string): string {
  const text = reader.string(key);
  return isIP(text) === 0 ? reader.refuse(key, 'must be an IP address') : text;
}

function mac(reader: Reader): string {
  const text = reader.string('mac');
  return isMac(text) ? text : reader.refuse('mac', 'must be a MAC address');
}
