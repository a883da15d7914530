/** Strict reading of the attachment in the agent's reply to ADD. */
import { isIP } from 'node:net';
import type { Attachment, AttachmentKey } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError } from '@ovpn-operator/operator/errors';
import { Reader } from './json-reader.ts';

function refuse(field: string, problem: string): never {
  throw new OvpnError('AgentProtocol', problem, { object: 'reply of the agent', field });
}

/** Whether the text is an IP address, a slash and a prefix length that fits it. */
export function isPrefix(text: string): boolean {
  const match = /^([^/%]+)\/(0|[1-9]\d{0,2})$/.exec(text);
  const family = isIP(match?.[1] ?? '');
  return family !== 0 && Number(match?.[2]) <= (family === 4 ? 32 : 128);
}

/** The one attachment, which must be the one that was asked for. */
export function parseAddResult(result: unknown, asked: AttachmentKey): Attachment {
  const reply = new Reader(result, 'result', refuse);
  const [attachment, ...others] = reply.objects('attachments');
  return attachment === undefined || others.length > 0
    ? reply.refuse('attachments', 'must be one attachment')
    : parseAttachment(attachment, asked);
}

function parseAttachment(reader: Reader, asked: AttachmentKey): Attachment {
  const containerId = reader.string('containerId');
  const ifname = reader.string('ifname');
  if (containerId !== asked.containerId || ifname !== asked.ifname) {
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
      address: prefix(entry, 'address'),
      gateway: ip(entry, 'gateway'),
    })),
    routes: reader.objects('routes').map((entry) => {
      const mtu = entry.optionalUint('mtu');
      return { dst: prefix(entry, 'dst'), gw: ip(entry, 'gw'), ...(mtu === undefined ? {} : { mtu }) };
    }),
  };
}

function prefix(reader: Reader, key: string): string {
  const text = reader.string(key);
  return isPrefix(text) ? text : reader.refuse(key, 'must be an IP address with a prefix length');
}

function ip(reader: Reader, key: string): string {
  const text = reader.string(key);
  return isIP(text) === 0 ? reader.refuse(key, 'must be an IP address') : text;
}

function mac(reader: Reader): string {
  const text = reader.string('mac');
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text) ? text : reader.refuse('mac', 'must be a MAC address');
}
