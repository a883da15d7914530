/**
 * A name server with a handful of names, which it reads anew from its file for each question, and whose time to live
 * counts from the answer on. It writes each question to stdout. (RFC 1035, section 4; RFC 3596)
 *
 * node name-server-program.ts ADDRESS FILE
 */
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { addressBytes } from '../../operator/src/kernel/address.ts';
import type { NameRecords } from './name-server.ts';

const [listen = '', file = ''] = process.argv.slice(2);
const types = new Map([
  [1, 'A'],
  [28, 'AAAA'],
] as const);
const headerBytes = 12;

function answer(query: Buffer): Buffer {
  const labels: string[] = [];
  let at = headerBytes;
  for (let length = query.readUInt8(at++); length > 0; at += length, length = query.readUInt8(at++))
    labels.push(query.toString('latin1', at, at + length));
  const name = labels.join('.').toLowerCase();
  const type = query.readUInt16BE(at);
  const question = query.subarray(headerBytes, at + 4);
  process.stdout.write(`${types.get(type as 1 | 28) ?? type} ${name}\n`);

  const { addresses, ttlSeconds = 0 } = (JSON.parse(readFileSync(file, 'utf8')) as NameRecords)[name] ?? {};
  const found = (addresses ?? []).filter((address) => address.includes(':') === (type === 28));
  const records = type === 1 || type === 28 ? found : [];
  const header = Buffer.alloc(headerBytes);
  query.copy(header, 0, 0, 2);
  // A response, authoritative, recursion wanted and to be had; 3 is NXDOMAIN.
  header.writeUInt16BE(0x8580 | (addresses === undefined ? 3 : 0), 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(records.length, 6);
  const answers = records.map((address) => {
    const data = addressBytes(address);
    const record = Buffer.alloc(12);
    // The name of the question.
    record.writeUInt16BE(0xc000 | headerBytes, 0);
    record.writeUInt16BE(type, 2);
    record.writeUInt16BE(1, 4);
    record.writeUInt32BE(ttlSeconds, 6);
    record.writeUInt16BE(data.length, 10);
    return Buffer.concat([record, data]);
  });
  return Buffer.concat([header, question, ...answers]);
}

const socket = createSocket(listen.includes(':') ? 'udp6' : 'udp4');
socket.on('message', (query, { address, port }) => socket.send(answer(query), port, address));
socket.bind(53, listen, () => process.stdout.write('ready\n'));
