import { table } from '../../table.ts';
import type { ClusterFinding } from './facts.ts';

/** So many findings of one check are shown in a table for people. */
const rowsPerCheck = 20;

interface Group {
  readonly finding: ClusterFinding;
  readonly nodes: readonly string[];
}

/**
 * Findings for people, in the order that they have: what is well is counted, the same on several nodes is one row, and
 * below the table stands what to do.
 *
 * @param all every finding in full, also the good ones
 */
export function clusterDoctorText(findings: readonly ClusterFinding[], all: boolean): string {
  const shown = grouped(all ? findings : findings.filter(({ severity }) => severity !== 'ok'));
  const { kept, left } = all ? { kept: shown, left: [] } : bounded(shown);
  const rows = kept.map(({ finding: { severity, check, object, text }, nodes }) => [
    severity.toUpperCase(),
    check,
    some(nodes),
    object,
    text,
  ]);
  const lines = rows.length === 0 ? [] : table([['RESULT', 'CHECK', 'NODE', 'OBJECT', 'FOUND'], ...rows]);
  const remedies = kept.flatMap(({ finding: { check, object, remedy }, nodes }) =>
    remedy === undefined
      ? []
      : [`${check}, ${nodes.length === 0 ? '' : `${some(nodes)}, `}${object}: to mend it: ${remedy}`],
  );
  const good = findings.filter(({ severity }) => severity === 'ok').length;
  const counts = (['error', 'warning', 'unchecked'] as const).flatMap((severity) => {
    const count = findings.filter((finding) => finding.severity === severity).length;
    return count === 0 ? [] : [`${count} ${severity}${count === 1 || severity === 'unchecked' ? '' : 's'}`];
  });
  return [
    ...lines,
    ...left.map(([check, count]) => `${check}: ${count} more; -o wide shows all`),
    ...(remedies.length === 0 ? [] : ['', ...new Set(remedies)]),
    ...(lines.length === 0 ? [] : ['']),
    [...counts, `${good} well`].join(', '),
    '',
  ].join('\n');
}

function grouped(findings: readonly ClusterFinding[]): Group[] {
  const groups = Map.groupBy(findings, ({ severity, check, object, text, remedy }) =>
    JSON.stringify([severity, check, object, text, remedy]),
  );
  return [...groups.values()].flatMap((members) => {
    const [first] = members;
    return first === undefined ? [] : [{ finding: first, nodes: members.flatMap(({ node }) => node ?? []) }];
  });
}

function bounded(groups: readonly Group[]): { readonly kept: Group[]; readonly left: [string, number][] } {
  const counts = new Map<string, number>();
  const kept = groups.filter(({ finding: { check } }) => {
    const count = (counts.get(check) ?? 0) + 1;
    counts.set(check, count);
    return count <= rowsPerCheck;
  });
  return { kept, left: [...counts].flatMap(([check, n]) => (n > rowsPerCheck ? [[check, n - rowsPerCheck]] : [])) };
}

function some(nodes: readonly string[]): string {
  return nodes.length > 3 ? `${nodes.slice(0, 2).join(', ')} and ${nodes.length - 2} more` : nodes.join(', ');
}
