import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Hosts } from '../../support/hosts.ts';
import { type Row, row, type SuiteContext } from '../suite.ts';
import { benchPki } from './handshake-pki.ts';
import { type MeasuredServer, startAgent, startOpenvpn } from './handshake-servers.ts';
import { usageOf } from './handshake-usage.ts';

/** How long nothing happens. */
const idleSeconds = 30;
/** After a start there is garbage to collect, and code to compile. */
const settleSeconds = 20;
/** The step of the kernel's own word of CPU time: a process that used less is taken to have used this. */
const tickMs = 10;

/** What an idle server takes. */
interface Idle {
  /** Milliseconds of CPU in a minute. */
  readonly cpu: number;
  /** MiB, proportional set size. */
  readonly memory: number;
}

/** Agent and socket holder while nothing happens, with more and more peers that are not connected. */
export async function footprintSuite({ pki, peers, progress }: SuiteContext): Promise<Row[]> {
  const hosts = await Hosts.create('benchf');
  try {
    const host = await hosts.host('server');
    const rows: Row[] = [];
    for (const clients of [...new Set([1, ...peers])]) {
      const setup = { host, pki: benchPki(pki), tlsCrypt: true, clients, folder: join(hosts.folder, `${clients}`) };
      mkdirSync(setup.folder);
      progress(`${clients} peers: starting`);
      // Both at once: what else the machine does falls upon both.
      const servers = [await startAgent(setup), await startOpenvpn(setup, { offload: true, firstPackets: 100 })];
      progress(`${clients} peers: idle for ${idleSeconds} s`);
      await sleep(settleSeconds * 1000);
      const [ours, peer] = await Promise.all(servers.map(idle));
      for (const server of servers) await server.stop();
      if (ours === undefined || peer === undefined) throw new Error('a server was not measured');
      const of = (name: string, unit: string, which: keyof Idle): Row =>
        row('footprint', `${name}, ${clients} idle peers`, unit, {
          ours: [ours[which]],
          peer: [peer[which]],
          peerName: 'OpenVPN, offload: knows no clients before they come',
        });
      rows.push(of('CPU', 'ms/min', 'cpu'), of('memory of agent and holder', 'MiB', 'memory'));
    }
    return rows;
  } finally {
    await hosts.remove();
  }
}

async function idle({ pids }: MeasuredServer): Promise<Idle> {
  const before = usageOf(pids);
  await sleep(idleSeconds * 1000);
  const after = usageOf(pids);
  const cpu = Math.max(tickMs, after.cpuMs - before.cpuMs) * (60 / idleSeconds);
  return { cpu, memory: after.pssKiB / 1024 };
}
