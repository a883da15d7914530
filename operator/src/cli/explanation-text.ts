import type { Explanation } from '../agent/explain/steps.ts';

const marks = { ok: 'ok  ', warn: 'WARN', stop: 'STOP' } as const;

/** An explanation for people: a line per step, and below it what to do. */
export function explanationText({ destination, reaches, steps }: Explanation): string {
  const lines = steps.flatMap(({ result, object, text, remedy }) => [
    `${marks[result]}  ${object} ${text}`,
    ...(remedy === undefined ? [] : [`      to mend it: ${remedy}`]),
  ]);
  return `${[...lines, reaches ? `${destination} is reached` : `${destination} is not reached`].join('\n')}\n`;
}
