import { parentPort, workerData } from 'node:worker_threads';
import { currentHeaderBytes, type FromWorker, type FuzzJob } from './finding.ts';
import { Loop, shrink } from './loop.ts';
import { targetNamed } from './targets/index.ts';

/** One target in a thread of its own, so that one that never ends, or takes all memory, ends nothing but that thread. */

const job = workerData as FuzzJob;
const target = targetNamed(job.target);
const header = new Int32Array(job.current, 0, 2);
const bytes = new Uint8Array(job.current, currentHeaderBytes);
const say = (message: FromWorker): void => parentPort?.postMessage(message);

const loop = new Loop(target, {
  seed: job.seed,
  seconds: job.seconds,
  corpus: job.inputs.map((input) => Buffer.from(input)),
  running: (input) => {
    Atomics.store(header, 1, Math.min(input.length, bytes.length));
    bytes.set(input.subarray(0, bytes.length));
    Atomics.add(header, 0, 1);
  },
  progress: (progress) => say({ type: 'progress', ...progress }),
});
process.on('uncaughtException', (error) => loop.stray(error));
process.on('unhandledRejection', (error) => loop.stray(error));

const finding = await loop.run();
if (finding !== undefined) {
  const { kind, message, input } = await shrink(target, finding);
  say({ type: 'finding', kind, message, ...(input !== undefined && { input }) });
}
say({ type: 'done', ...loop.progress });
// Timers and handles of the code under test must not keep this thread.
process.exit();
