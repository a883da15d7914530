import { parseArgs } from 'node:util';

export const usage = `usage: npm run fuzz -- [OPTION…]

Feeds the parsers and sessions with mutants of real packets and says what broke.

  --target NAME   only this one (may be given more than once); --list shows all
  --seconds N     for each target after its corpus (default 180); whole sessions get four times as long
  --seed S        0 to 4294967295 (default: a random one, which is printed)
  --replay FILE   only this input, with one --target
  --json FILE     writes the counts as jest does
  --record        writes the corpus that the targets can make themselves
  --list          shows the targets and what they take for bytes
`;

export interface FuzzArgs {
  readonly targets: readonly string[];
  readonly seconds: number;
  readonly seed: number;
  readonly replay: string | undefined;
  readonly json: string | undefined;
  readonly record: boolean;
  readonly list: boolean;
  readonly help: boolean;
}

/** @throws TypeError with words for the person who typed it */
export function parseFuzzArgs(args: readonly string[], known: readonly string[], freshSeed: () => number): FuzzArgs {
  const { values } = parseArgs({
    args: [...args],
    options: {
      target: { type: 'string', multiple: true },
      seconds: { type: 'string' },
      seed: { type: 'string' },
      replay: { type: 'string' },
      json: { type: 'string' },
      record: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const { target: targets = [], replay, json, record, list, help } = values;
  const unknown = targets.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new TypeError(`there is no target "${unknown}"; there are ${known.join(', ')}`);
  }
  if (replay !== undefined && targets.length !== 1) {
    throw new TypeError('--replay takes exactly one --target');
  }
  const seconds = values.seconds === undefined ? 180 : number('--seconds', values.seconds, 1e6);
  const seed = values.seed === undefined ? freshSeed() : number('--seed', values.seed, 0xffff_ffff);
  return { targets: targets.length > 0 ? targets : known, seconds, seed, replay, json, record, list, help };
}

function number(option: string, text: string, max: number): number {
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
  if (!(value <= max) || (option === '--seed' && !Number.isInteger(value))) {
    throw new TypeError(`${option} takes a number from 0 to ${max}, not "${text}"`);
  }
  return value;
}
