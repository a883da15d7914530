import { readFileSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { expediteGracePeriods } from '../kernel/support.ts';
import { applySuite } from './suites/apply.ts';
import { cniSuite } from './suites/cni.ts';
import { datapathSuite } from './suites/datapath.ts';
import { footprintSuite } from './suites/footprint.ts';
import { controlChannelSuite } from './suites/handshake.ts';
import { netlinkSuite } from './suites/netlink.ts';
import { reconcileSuite } from './suites/reconcile.ts';
import type { LabSuiteName, Row, Suite, SuiteContext } from './suite.ts';

/** What runs in the lab: the suites named in the request (the first argument), rows to $LAB_RESULTS/rows.json. */
const suites: Readonly<Record<LabSuiteName, Suite>> = {
  netlink: netlinkSuite,
  reconcile: reconcileSuite,
  cni: cniSuite,
  'control-channel': controlChannelSuite,
  datapath: datapathSuite,
  footprint: footprintSuite,
  apply: applySuite,
};

const say = (text: string): void => {
  process.stderr.write(`bench: ${text}\n`);
};

const request = JSON.parse(process.argv[2] ?? '') as Omit<SuiteContext, 'progress'> & {
  readonly suites: readonly LabSuiteName[];
};
const model = /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown processor';
const kernel = `${release()} (${process.env['LAB_KERNEL'] ?? 'host'})`;
say(`kernel ${kernel}, ${model}, Node.js ${process.version}`);
const results = process.env['LAB_RESULTS'] ?? '.';
writeFileSync(join(results, 'kernel'), kernel);
expediteGracePeriods();
say('rcu_expedited=1: without it the driver takes some 30 ms to release one peer');

const rows: Row[] = [];
for (const name of request.suites) {
  const context: SuiteContext = { ...request, progress: (text) => say(`${name}: ${text}`) };
  rows.push(...(await suites[name](context)));
  // After each suite: what was measured is not lost when a later one fails.
  writeFileSync(join(results, 'rows.json'), JSON.stringify(rows));
}
