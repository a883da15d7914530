import { readFileSync } from 'node:fs';
import { forEachAttribute, parseMessages } from '../../operator/src/kernel/netlink/message.ts';
import { Attr, Command, KeyconfAttr, KeydirAttr } from '../../operator/src/kernel/ovpn/uapi.ts';
import { eventually, run, Service } from './run.ts';

/**
 * The data keys that the kernel is given in a namespace, seen on their way by an nlmon device and tcpdump: not by the
 * word of whoever installs them.
 */

const device = 'nlmon0';
/** pcap-savefile(5): the header of the file, and that of each packet with its length in the third word. */
const fileHeaderBytes = 24;
const packetHeaderBytes = 16;
/** LINKTYPE_NETLINK: the pseudo-header, which ends in the protocol; NETLINK_GENERIC is 16. */
const cookedBytes = 16;
const netlinkGeneric = 16;
const genericController = 0x10;
const genericHeaderBytes = 4;

export class KeyTap {
  readonly #file: string;
  readonly #service: Service;

  private constructor(file: string, service: Service) {
    this.#file = file;
    this.#service = service;
  }

  /** @param file where what is seen is kept; it holds keys */
  static async start(netns: string, file: string): Promise<KeyTap> {
    await run('nsenter', `--net=${netns}`, 'ip', 'link', 'add', 'name', device, 'type', 'nlmon');
    await run('nsenter', `--net=${netns}`, 'ip', 'link', 'set', device, 'up');
    const args = ['-Z', 'root', '-U', '--immediate-mode', '-s', '0', '-B', '4096', '-i', device, '-w', file];
    const service = new Service('nsenter', [`--net=${netns}`, 'tcpdump', ...args]);
    await eventually('tcpdump listens', () => {
      if (!service.running) throw new Error(`tcpdump ended: ${service.log}`);
      return /listening on/.test(service.log) || undefined;
    });
    return new KeyTap(file, service);
  }

  /** The keys so far, of either direction. */
  get keys(): Buffer[] {
    return packetsIn(readFileSync(this.#file)).flatMap(keysIn);
  }

  async stop(): Promise<void> {
    await this.#service.end('SIGINT');
  }
}

function packetsIn(pcap: Buffer): Buffer[] {
  const packets: Buffer[] = [];
  for (let at = fileHeaderBytes; at + packetHeaderBytes <= pcap.length;) {
    const start = at + packetHeaderBytes;
    at = start + pcap.readUInt32LE(at + 8);
    if (at <= pcap.length) packets.push(pcap.subarray(start, at));
  }
  return packets;
}

function keysIn(packet: Buffer): Buffer[] {
  if (packet.length < cookedBytes || packet.readUInt16BE(cookedBytes - 2) !== netlinkGeneric) return [];
  const keys: Buffer[] = [];
  for (const { type, payload } of parseMessages(packet.subarray(cookedBytes))) {
    // Below are netlink's own messages, and the family of families.
    if (type <= genericController || payload.length < genericHeaderBytes || payload[0] !== Command.KeyNew) continue;
    forEachAttribute(payload.subarray(genericHeaderBytes), (attribute, configuration) => {
      if (attribute !== Attr.Keyconf) return;
      forEachAttribute(configuration, (direction, parts) => {
        if (direction !== KeyconfAttr.EncryptDir && direction !== KeyconfAttr.DecryptDir) return;
        forEachAttribute(parts, (part, value) => {
          if (part === KeydirAttr.CipherKey) keys.push(Buffer.from(value));
        });
      });
    });
  }
  return keys;
}
