/** Whether a figure that should stay the same grows, by a line fitted through its samples. */

export interface Growth {
  /** Per sample. */
  readonly slope: number;
  /** Standard error of the slope. */
  readonly error: number;
  /** From the first sample to the last, as the line goes. */
  readonly total: number;
}

/** Ordinary least squares of samples that come in even steps; at least three. */
export function fit(samples: readonly number[]): Growth {
  const count = samples.length;
  if (count < 3) throw new RangeError(`a line through ${count} samples says nothing`);
  const mean = samples.reduce((sum, value) => sum + value, 0) / count;
  const middle = (count - 1) / 2;
  const spread = samples.reduce((sum, _, i) => sum + (i - middle) ** 2, 0);
  const slope = samples.reduce((sum, value, i) => sum + (i - middle) * (value - mean), 0) / spread;
  const rest = samples.reduce((sum, value, i) => sum + (value - mean - slope * (i - middle)) ** 2, 0);
  return { slope, error: Math.sqrt(rest / (count - 2) / spread), total: slope * (count - 1) };
}

/** The first part of a run fills caches and lets the heap find its size: it does not count. */
const warmUpShare = 0.25;
/** How many standard errors a slope has to be from none to be one. */
const significance = 4;

/** The samples of a run that are to be judged. */
export function settled(samples: readonly number[]): readonly number[] {
  return samples.slice(Math.min(Math.ceil(samples.length * warmUpShare), Math.max(0, samples.length - 3)));
}

/** @param tolerance what the line may rise by in the whole run */
export function grows(samples: readonly number[], tolerance: number): boolean {
  const { slope, error, total } = fit(settled(samples));
  return total > tolerance && slope > significance * error;
}
