import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { parseAllDocuments } from 'yaml';
import { allPages } from '../../scripts/docs/pages.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';

/** What a person copies out of the documentation, as a real API server takes it. */
let plane: ControlPlane;

const blocks = allPages().flatMap(({ file, blocks: own }) =>
  own
    .filter(({ language, text }) => language === 'yaml' && /^apiVersion: ovpn-operator\.io/m.test(text))
    .map(({ text, line }) => [`${file}:${line}`, text] as const),
);

const namespacesIn = (text: string): string[] =>
  parseAllDocuments(text).flatMap((document) => {
    const namespace = document.getIn(['metadata', 'namespace']);
    return typeof namespace === 'string' ? [namespace] : [];
  });

beforeAll(async () => {
  plane = await ControlPlane.start();
  const names = new Set(blocks.flatMap(([, text]) => namespacesIn(text)));
  for (const name of names) if (!['default', 'ovpn-system'].includes(name)) await plane.namespace(name);
}, 180_000);
afterAll(() => plane.stop());

test('there are such blocks', () => {
  expect(blocks.length).toBeGreaterThan(10);
});

test.each(blocks)('%s', async (_, text) => {
  const { code, stderr } = await plane.admin.tryKubectl(
    ['apply', '--server-side', '--dry-run=server', '--validate=strict', '-f', '-'],
    text,
  );
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
});
