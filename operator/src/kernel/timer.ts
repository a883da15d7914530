/** Calls once, that many milliseconds later; returns how to call it off. Tests bring their own. */
export type After = (milliseconds: number, task: () => void) => () => void;

export const afterTimeout: After = (milliseconds, task) => {
  const timer = setTimeout(task, milliseconds);
  return () => clearTimeout(timer);
};
