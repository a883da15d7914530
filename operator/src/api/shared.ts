/**
 * One instance for equal small values. Ten thousand peers say the same in most of their fields (the name of their
 * network, no labels, no routes, the conditions of a peer that waits), and keep it once.
 */

/** How many values each of the two generations holds. */
const perGeneration = 1024;
/** As JSON; what is longer is hardly ever said twice. */
const longestText = 1024;

let young = new Map<string, unknown>();
let old = new Map<string, unknown>();

/**
 * The value, or one that equals it and was seen before. It is frozen, with all that it consists of.
 *
 * @param value as JSON could say it: no field is undefined, no number is none
 */
export function shared<T>(value: T): T {
  const text = JSON.stringify(value);
  if (text.length > longestText) return value;
  const present = young.get(text) ?? old.get(text) ?? frozen(value);
  // What is asked for again and again outlives what was asked for once: two generations, the older thrown away.
  if (!young.has(text)) {
    if (young.size >= perGeneration) {
      old = young;
      young = new Map();
    }
    young.set(text, present);
  }
  return present as T;
}

/** A value that is shared must not change for one of those who have it. */
function frozen(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value;
  Object.values(value).forEach(frozen);
  return Object.freeze(value);
}
