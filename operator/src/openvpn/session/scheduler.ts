/** Time, as a session sees it; tests bring their own. */
export interface Scheduler {
  /** Milliseconds that never go back; from which start does not matter. */
  now(): number;
  /** Calls once, later; returns how to call it off. */
  after(milliseconds: number, task: () => void): () => void;
  /** Calls once, after what is being handled now. */
  soon(task: () => void): void;
}

export const systemScheduler: Scheduler = {
  now: () => performance.now(),
  after: (milliseconds, task) => {
    const timer = setTimeout(task, milliseconds);
    return () => clearTimeout(timer);
  },
  soon: (task) => void setImmediate(task),
};
