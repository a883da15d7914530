/**
 * ADD and DEL cut off at every step: the agent is killed as it enters the Nth call that changes something, for every
 * N there is, by strace(1). What comes after it must be as if the call had never begun, or had been carried out.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type CniCall, ping } from '../support/hosts.ts';
import { type CniResult, Office } from '../support/office.ts';
import { eventually, type Finished, Service } from '../support/run.ts';

/** How the agent changes the kernel (sendto, netlink) and its records; strace counts each by itself. */
const stepsOfAdd = ['sendto', 'fsync', 'rename'] as const;
const stepsOfDel = ['sendto', 'unlink', 'fsync'] as const;
/** More steps than a call has: then something is counted that does not belong to it. */
const tooMany = 60;

let office: Office;
let first: CniCall;
let second: CniCall;

beforeAll(async () => {
  office = await Office.open('steps');
  const call = async (name: string): Promise<CniCall> => ({
    network: 'corp',
    containerId: `steps-${name}`,
    netns: await office.hosts.namespace(`steps-${name}`),
  });
  first = await call('first');
  second = await call('second');
}, 120_000);
afterAll(() => office.close(), 60_000);

/** Makes a call while the agent is to die as it enters a syscall for the Nth time. */
async function cutOff(syscall: string, count: number, work: () => Promise<Finished>): Promise<'died' | Finished> {
  const args = ['-f', '-p', String(office.agent.agentPid), '-o', '/dev/null', '-e', `trace=${syscall}`];
  const tracer = new Service('strace', [...args, '-e', `inject=${syscall}:signal=KILL:when=${count}`]);
  await eventually('strace has hold of the agent', () => (tracer.log.includes('attached') ? true : undefined), {
    stepMs: 10,
  });
  const done = await work();
  // strace ends with the agent.
  const died = !(await settled());
  await tracer.end();
  return died ? 'died' : done;
}

/** Whether the agent lives on; it may die just after its answer. */
async function settled(): Promise<boolean> {
  try {
    await office.agent.report();
    return true;
  } catch {
    return false;
  }
}

async function startAgain(): Promise<void> {
  await office.agent.stopAgent('SIGKILL');
  await office.agent.startAgent();
  await office.agent.untilReady('corp', 1);
}

const addressesOf = ({ stdout }: Finished): string[] =>
  (JSON.parse(stdout) as CniResult).ips.map(({ address }) => address);

async function attachmentsOf(containerId: string): Promise<number> {
  const [network] = (await office.agent.report()).networks;
  return network?.attachments.filter((each) => each.containerId === containerId).length ?? 0;
}

/** Two pods, of which one may have begun: each must get addresses that no other has, and leave nothing. */
async function bothPods(what: string): Promise<void> {
  // The other first: it must not be given what the first one has on record or in the kernel.
  const other = await office.agent.cni('ADD', second);
  const again = await office.agent.cni('ADD', first);
  expect([what, other.code, again.code, other.stderr + again.stderr]).toEqual([what, 0, 0, '']);
  const all = [...addressesOf(other), ...addressesOf(again), ...office.pod.result.ips.map(({ address }) => address)];
  expect([what, new Set(all).size]).toEqual([what, all.length]);
  expect([what, await attachmentsOf(first.containerId)]).toEqual([what, 1]);
  for (const { netns } of [first, second]) {
    expect([what, (await ping(netns, office.lan.ipv4, { count: 1 })).received]).toEqual([what, 1]);
  }
  for (const call of [first, second]) expect(await office.agent.cni('DEL', call)).toMatchObject({ code: 0 });
}

test.each(stepsOfAdd)(
  'ADD is cut off at every %s: an address has one owner, and the next ADD succeeds',
  async (syscall) => {
    const before = await office.kernel.picture();
    let steps = 0;
    for (; steps < tooMany; steps++) {
      const what = `${syscall} ${steps + 1}`;
      const result = await cutOff(syscall, steps + 1, () => office.agent.cni('ADD', first));
      if (result !== 'died') break;
      await startAgain();
      await bothPods(what);
      expect([what, await office.kernel.picture()]).toEqual([what, before]);
    }
    expect(steps).toBeGreaterThan(0);
    expect(steps).toBeLessThan(tooMany);
    expect(await office.agent.cni('DEL', first)).toMatchObject({ code: 0 });
  },
  900_000,
);

test.each(stepsOfDel)(
  'DEL is cut off at every %s: the next DEL succeeds and nothing is left',
  async (syscall) => {
    const before = await office.kernel.picture();
    let steps = 0;
    for (; steps < tooMany; steps++) {
      const what = `${syscall} ${steps + 1}`;
      expect(await office.agent.cni('ADD', first)).toMatchObject({ code: 0 });
      const result = await cutOff(syscall, steps + 1, () => office.agent.cni('DEL', first));
      if (result !== 'died') break;
      // Whatever the runtime was told: a DEL that could not be carried out is left for the agent.
      await startAgain();
      expect([what, (await office.agent.cni('DEL', first)).code]).toEqual([what, 0]);
      expect([what, await office.kernel.picture()]).toEqual([what, before]);
      await bothPods(what);
      expect([what, await office.kernel.picture()]).toEqual([what, before]);
    }
    expect(steps).toBeGreaterThan(0);
    expect(steps).toBeLessThan(tooMany);
  },
  900_000,
);
