import { performance } from 'node:perf_hooks';
import { deviceName } from '../../../operator/src/agent/names.ts';
import { NETLINK_ROUTE, NetlinkSocket } from '../../../operator/src/kernel/netlink/socket.ts';
import { OvpnFamily } from '../../../operator/src/kernel/ovpn/family.ts';
import { getLinkByName } from '../../../operator/src/kernel/rtnetlink/links.ts';
import { type AgentAnswer, AgentProcess } from '../agent-process.ts';
import { type ProgramResult, runProgram } from '../bed.ts';
import { remoteOf } from '../peers.ts';
import { median, type Row, row, type SuiteContext } from '../suite.ts';

const rounds = 7;
const changes = 9;
/** Reads in one run of the C program; ours are warm, so its first one does not count. */
const reads = 4;
/** The peer whose manifest is changed. */
const changedPeer = 1;

/** The agent: settled resyncs, and how long a changed file takes to the kernel. */
export async function reconcileSuite(context: SuiteContext): Promise<Row[]> {
  const rows: Row[] = [];
  // With one peer loaded as well: what a single change costs should not depend on the others.
  let alone: number[] | undefined;
  for (const peers of [...new Set([1, ...context.peers])]) {
    const { found, change } = await withAgent(context, peers);
    rows.push(...found);
    if (alone === undefined) alone = change;
    else {
      const peerName = 'same change with 1 peer loaded';
      rows.push(
        row('reconcile', `changed file to kernel, ${peers} peers loaded`, 'ms', {
          ours: change,
          peer: alone,
          peerName,
        }),
      );
    }
  }
  return rows;
}

async function withAgent(
  { reference, progress }: SuiteContext,
  peers: number,
): Promise<{ found: Row[]; change: number[] }> {
  progress(`${peers} peers: writing manifests and starting the agent`);
  const agent = new AgentProcess(peers);
  try {
    const start = await agent.start();
    progress(`${peers} peers: settled after ${(start.ms / 1000).toFixed(1)} s`);
    const kernel = new KernelView(agent.namespacePath);
    try {
      const read = (): ProgramResult => {
        const result = runProgram(agent.namespacePath, { command: reference }, ['read', kernel.device, peers, reads]);
        if (result.peers !== peers || result.keys !== peers)
          throw new Error(`${result.peers} peers and ${result.keys} keys, not ${peers}`);
        return result;
      };
      const found = await settled(agent, read, peers);
      progress(`${peers} peers: changing a manifest`);
      const { ours, peer } = await manifestChanges(agent, kernel, reference);
      found.push(
        row('reconcile', `changed file to kernel, ${peers} peers loaded`, 'ms', {
          ours,
          peer,
          peerName: 'C program from its start to its end: PEER_SET of that peer',
        }),
      );
      return { found, change: ours };
    } finally {
      kernel.close();
    }
  } finally {
    await agent.close();
  }
}

/** Reads in a settled state: none of them may write. */
async function settled(agent: AgentProcess, read: () => ProgramResult, peers: number): Promise<Row[]> {
  const observe: number[] = [];
  const resync: number[] = [];
  const memory: number[] = [];
  const peerRead: number[] = [];
  const peerMemory: number[] = [];
  for (let round = 0; round < rounds; round++) {
    observe.push(silent(await agent.ask('observe')).ms);
    const whole = silent(await agent.ask('resync'));
    resync.push(whole.ms);
    memory.push(whole.peakKiB / 1024);
    const result = read();
    peerRead.push((median(result.dump.slice(1)) + median(result.keyGet.slice(1))) / 1e6);
    peerMemory.push(result.peakKiB / 1024);
  }
  // The first rounds compile our code.
  const warm = (values: readonly number[]): number[] => values.slice(2);
  const peerName = 'C program: dump and KEY_GET of both slots';
  return [
    row('reconcile', `observe, ${peers} peers`, 'ms', { ours: warm(observe), peer: warm(peerRead), peerName }),
    row('reconcile', `settled resync, ${peers} peers`, 'ms', { ours: warm(resync), peer: warm(peerRead), peerName }),
    row('reconcile', `peak memory, ${peers} peers`, 'MiB', {
      ours: [Math.max(...memory)],
      peer: [median(peerMemory)],
      peerName,
    }),
  ];
}

function silent(answer: AgentAnswer): AgentAnswer {
  if (answer.writes !== 0) throw new Error(`a settled agent wrote ${answer.writes} times`);
  return answer;
}

async function manifestChanges(
  agent: AgentProcess,
  kernel: KernelView,
  reference: string,
): Promise<{ ours: number[]; peer: number[] }> {
  const ours: number[] = [];
  const peer: number[] = [];
  const firstPort = remoteOf(changedPeer).port;
  for (let i = 0; i < changes; i++) {
    // As many digits as before: a file that got shorter is believed only after a while.
    const port = i % 2 === 0 ? firstPort + 1 : firstPort;
    const start = performance.now();
    agent.writePeer(changedPeer, port);
    await kernel.until(port);
    ours.push(performance.now() - start);
    await agent.ask('settled');
    // There and back, so that the agent's idea of the kernel stays right.
    for (const other of [port + 1000, port]) {
      peer.push(
        runProgram(agent.namespacePath, { command: reference }, ['set', kernel.device, changedPeer, other]).wallMs,
      );
      await kernel.until(other);
    }
  }
  return { ours, peer };
}

/** The kernel's own word, by sockets that the agent knows nothing of. */
class KernelView {
  readonly device: number;
  readonly #ovpn: OvpnFamily;

  constructor(namespace: string) {
    this.#ovpn = OvpnFamily.open(namespace);
    const routes = NetlinkSocket.open(NETLINK_ROUTE, namespace);
    this.device = getLinkByName(routes, deviceName)?.index ?? 0;
    routes.close();
  }

  /** Waits until the kernel shows the remote's port. Polls every half millisecond. */
  async until(port: number): Promise<void> {
    const deadline = performance.now() + 120_000;
    while (this.#ovpn.getPeer(this.device, changedPeer)?.remote?.port !== port) {
      if (performance.now() > deadline) throw new Error(`the kernel never showed port ${port}`);
      Atomics.wait(pause, 0, 0, 0.5);
      // Now and then the event loop: the agent's log must not fill its pipe.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  close(): void {
    this.#ovpn.close();
  }
}
const pause = new Int32Array(new SharedArrayBuffer(4));
