import { describe, expect, test } from '@jest/globals';
import { accessTable } from './access-filter.ts';
import type { DesiredAccess } from './plan-access.ts';

const ports = { protocol: 'TCP', first: 80, last: 80 } as const;
const table = (rules: DesiredAccess['rules']) => accessTable({ ranges: ['10.96.0.0/12'], rules });
const comments = (rules: DesiredAccess['rules'], chain: string): string[] =>
  table(rules)
    .chains.find(({ name }) => name === chain)
    ?.rules.map(({ comment }) => comment) ?? [];
const to = (cidr: string, of?: typeof ports) => ({ cidr, ports: of });

describe('the rules of cluster access', () => {
  test('end with one that lets nothing through', () => {
    expect(comments([], 'allowed')).toEqual(['nothing else (1)']);
    expect(comments([{ members: undefined, to: [to('10.96.0.0/12')] }], 'allowed').at(-1)).toBe('nothing else (1)');
  });

  test('say all that they do in their comments, by which they are told apart', () => {
    expect(
      comments(
        [
          { members: undefined, to: [to('10.96.0.5/32', ports), to('fd96::/112')] },
          { members: 1, to: [to('10.96.0.5/32', ports), to('10.96.0.5/32', { ...ports, last: 90 } as never)] },
        ],
        'allowed',
      ),
    ).toEqual([
      'to 10.96.0.5/32 tcp 80',
      'to fd96::/112',
      'to 10.96.0.5/32 tcp 80 peers-1-ipv4',
      'to 10.96.0.5/32 tcp 80-90 peers-1-ipv4',
      'nothing else (1)',
    ]);
  });

  test('are there once when two say the same', () => {
    const rule = { members: undefined, to: [to('10.96.0.0/12')] };
    expect(comments([rule, rule], 'allowed')).toHaveLength(2);
  });

  test('have a set per family for each rule that names peers', () => {
    const rules = [0, 1, 2].map((n) => ({ members: n === 1 ? undefined : n, to: [] }));
    expect(table(rules).sets?.map(({ name }) => name)).toEqual([
      'peers-0-ipv4',
      'peers-0-ipv6',
      'peers-2-ipv4',
      'peers-2-ipv6',
    ]);
  });

  test('judge what leaves for the cluster by no other way than the list', () => {
    expect(comments([], 'forward')).toEqual([
      'answers (1)',
      'nothing else from the cluster (1)',
      'no pod (1)',
      'nothing unknown (1)',
      'errors (1)',
      'peers (1)',
    ]);
  });
});
