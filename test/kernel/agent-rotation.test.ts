import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { KernelView } from '../support/kernel-view.ts';
import {
  type Branch,
  branchNetwork,
  Office,
  officeNetwork,
  openBranch,
  podAddress,
  setBranchGeneration,
} from '../support/office.ts';
import { eventually } from '../support/run.ts';
import { PingStream } from '../support/stream.ts';

/** Two nodes that raise the generation of their common key together, under traffic between their pods. */
let office: Office;
let branch: Branch;
let generation = 1;
let stream: PingStream;
beforeAll(async () => {
  office = await Office.open('rot');
  branch = await openBranch(office);
  stream = await PingStream.start(office.pod.netns, podAddress(branch.pod, 4));
});
afterAll(async () => {
  stream.kill();
  await office.close();
});

interface Rotation {
  /** The generation to go to. */
  readonly to?: number;
  /** Done when the first end comes to a phase. */
  readonly at?: Readonly<Record<string, () => Promise<void>>>;
  /** Asked at the end: an end that was away for longer than the transition time does lose packets. */
  readonly lossless?: () => boolean;
}

/** Raises the generation and follows the slots of both ends. */
async function rotate({ to = generation + 1, at = {}, lossless = () => true }: Rotation = {}): Promise<string[][]> {
  const old = `${generation % 8}`;
  const next = `${to % 8}`;
  generation = to;
  const named = (slots: string): string => slots.replaceAll(old, 'old').replaceAll(next, 'new');
  const lostBefore = stream.result.lost;
  let acted = 0;
  let acting = Promise.resolve();
  const follow = async ({ kernel }: { kernel: KernelView }, act: boolean): Promise<string[]> => {
    const seen = ['old/-'];
    await eventually(
      'only the new key is left',
      () => {
        const slots = named(kernel.slots(8));
        if (seen.at(-1) !== slots) {
          seen.push(slots);
          const action = act ? at[slots] : undefined;
          if (action !== undefined) {
            acted++;
            // One after the other: an agent may change the slots before it says that it is ready.
            acting = acting.then(action);
          }
        }
        return slots === 'new/-' || undefined;
      },
      { stepMs: 20 },
    );
    return seen;
  };
  setBranchGeneration(office, branch.agent, generation);
  const seen = await Promise.all([follow(office, true), follow(branch, false)]);
  expect(acted).toBe(Object.keys(at).length);
  await acting;
  await stream.answers(20);
  if (lossless()) expect({ ...stream.result, lost: stream.result.lost - lostBefore }).toMatchObject({ lost: 0 });
  return seen;
}

const phases = ['old/-', 'old/new', 'new/old', 'new/-'];

test('a new generation goes from the secondary slot to the primary one, and the old one ends; nothing is lost', async () => {
  expect(await rotate()).toEqual([phases, phases]);
  await Promise.all([office.agent.untilReady('corp', 2), branch.agent.untilReady('corp', 1)]);
  const report = await office.agent.report();
  expect(report.networks[0]?.peers.find(({ peerId }) => peerId === 8)?.keyGeneration).toBe(generation);
});

test('key ids go from 7 to 0 and on', async () => {
  expect(await rotate({ to: 8 })).toEqual([phases, phases]);
  expect(office.kernel.slots(8)).toBe('0/-');
  expect(await rotate()).toEqual([phases, phases]);
  expect(office.kernel.slots(8)).toBe('1/-');
});

test('an agent that is killed in the middle of a rotation goes on from there', async () => {
  // Longer than an agent takes to start, or the other end deletes the old key while it is still in use here.
  const spec = { keyTransition: { seconds: 6 } };
  office.agent.apply('network.yaml', officeNetwork(office.agent.host, spec));
  branch.agent.apply('network.yaml', branchNetwork(branch.agent.host, spec));
  let slowest = 0;
  const killed = async (): Promise<void> => {
    const start = performance.now();
    await office.agent.stopAgent('SIGKILL');
    await office.agent.startAgent();
    slowest = Math.max(slowest, performance.now() - start);
  };
  const lossless = (): boolean => slowest < spec.keyTransition.seconds * 1000;
  expect(await rotate({ at: { 'old/new': killed, 'new/old': killed }, lossless })).toEqual([phases, phases]);
});
