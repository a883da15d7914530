/**
 * How many times longer than elsewhere tests wait where they run: 1, unless the lab says otherwise for processors that
 * it emulates (test/lab/qemu.ts). For jest's own time-outs the same is done in patient-environment.cjs.
 *
 * @throws when the environment's LAB_SLOWNESS is no number of at least 1
 */
export function slownessOf(value: string | undefined): number {
  if (value === undefined) return 1;
  const number = Number(value);
  if (!(number >= 1 && number <= 100)) throw new Error(`LAB_SLOWNESS is '${value}', not a number from 1 to 100`);
  return number;
}

/** See {@link slownessOf}. */
export const slowness = slownessOf(process.env['LAB_SLOWNESS']);

/**
 * A bound that a test holds what it measures to, in the unit it was given in. Emulated processors show that things
 * happen and in which order; how fast they are is measured elsewhere.
 */
export function bound(value: number): number {
  return value * slowness;
}
