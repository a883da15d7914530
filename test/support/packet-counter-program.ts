/**
 * One end of flows of numbered packets, in the namespace that it is started in: sends them at an even rate, and keeps
 * account of what comes. Orders come as lines of JSON on stdin, an answer to each goes out as a line on stdout.
 *
 * node packet-counter-program.ts ADDRESS PORT
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { CounterAnswer, CounterOrder } from './packet-counter.ts';
import { SequenceTally } from './sequence-tally.ts';

const [address = '', port = ''] = process.argv.slice(2);
/** Enough for a process that the machine lets wait for some seconds. */
const bufferBytes = 32 << 20;
/** At most so many packets at once, when this process was late: no queue on the way is to overflow by that. */
const burst = 16;
/** A few packets at a time cost the machine much less than one. Milliseconds. */
const stepMs = 5;

interface Flow {
  sent: number;
  timer: NodeJS.Timeout | undefined;
}

const socket = createSocket({
  type: address.includes(':') ? 'udp6' : 'udp4',
  recvBufferSize: bufferBytes,
  sendBufferSize: bufferBytes,
});
const flows = new Map<number, Flow>();
const tallies = new Map<number, SequenceTally>();
/** Packets that the kernel did not take from us were not sent, and none may be. */
let refused: string | undefined;

function tallyOf(flow: number): SequenceTally {
  const tally = tallies.get(flow) ?? new SequenceTally();
  tallies.set(flow, tally);
  return tally;
}

function send(id: number, to: string, perSecond: number, count: number): void {
  const flow: Flow = { sent: 0, timer: undefined };
  const began = performance.now();
  flow.timer = setInterval(() => {
    const due = Math.min(count, Math.floor(((performance.now() - began) * perSecond) / 1000));
    for (let n = 0; n < burst && flow.sent < due; n++) {
      const packet = Buffer.alloc(64);
      packet.writeUInt32BE(id, 0);
      packet.writeUInt32BE(flow.sent++, 4);
      socket.send(packet, Number(port), to, (error) => {
        if (error !== null) refused ??= error.message;
      });
    }
    if (flow.sent === count) clearInterval(flow.timer);
  }, stepMs);
  flows.set(id, flow);
}

/** Datagrams that this namespace threw away because nobody fetched them in time. */
function overflows(): number {
  const [names, values] = readFileSync('/proc/net/snmp', 'latin1')
    .split('\n')
    .filter((line) => line.startsWith('Udp:'))
    .map((line) => line.split(' '));
  return Number(values?.[names?.indexOf('RcvbufErrors') ?? -1] ?? NaN);
}

function obey(order: CounterOrder): CounterAnswer {
  if (order.op === 'send') send(order.flow, order.to, order.perSecond, order.count);
  if (order.op === 'stop') clearInterval(flows.get(order.flow)?.timer);
  const tally = tallyOf(order.flow);
  return {
    sent: flows.get(order.flow)?.sent ?? 0,
    ...tally.tally,
    missing: order.op === 'look' ? tally.missing(order.sent).slice(0, 20) : [],
    overflows: overflows(),
    refused,
  };
}

socket.on('message', (packet) => tallyOf(packet.readUInt32BE(0)).take(packet.readUInt32BE(4)));
socket.bind(Number(port), address);
await once(socket, 'listening');
if (socket.getRecvBufferSize() < bufferBytes) throw new Error('net.core.rmem_max is too small for this program');
process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin }))
  process.stdout.write(`${JSON.stringify(obey(JSON.parse(line) as CounterOrder))}\n`);
process.exit();
