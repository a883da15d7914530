import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { checkManifests } from '../../operator/src/cli/check-manifests.ts';
import { commandCheck, commandsOf } from './commands.ts';
import { allPages, readPage } from './pages.ts';

const pages = allPages();
const check = await commandCheck();

describe('commands of ours in the documentation', () => {
  test('have the options, scripts and values that there are', () => {
    const commands = commandsOf(pages);
    for (const program of ['ovpn-agent', 'ovpn-controller', 'npm', 'helm']) {
      expect(commands.map(({ words: [first] }) => first)).toContain(program);
    }
    expect(commands.flatMap(check)).toEqual([]);
  });

  test.each([
    ['ovpn-agent status -o yaml | grep corp; ovpn-agent check --strict .', 'ovpn-agent check has no option --strict'],
    ['sudo ovpn-agent stats', 'there is no command ovpn-agent stats'],
    ['npm run lab -- true && npm run labs', 'there is no npm script labs'],
    ['helm upgrade ovpn charts/ovpn-operator --set cni.mode=chain,cni.mood=good', 'the chart has no value cni.mood'],
    ['helm install ovpn charts/ovpn', 'there is no charts/ovpn'],
    ['A=1 ovpn-agent run \\\n  --no-such-thing=1 # --neither', 'ovpn-agent run has no option --no-such-thing'],
  ])('%s is found to be wrong', (line, problem) => {
    const page = readPage('docs/a.md', `\`\`\`console\n$ ${line}\nits answer --is-not-read\n\`\`\`\n`);
    expect(commandsOf([page]).flatMap(check)).toEqual([`docs/a.md:2: ${problem}`]);
  });
});

describe('resources of ours in the documentation', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-docs-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  /** What a block refers to may stand elsewhere, the controller gives addresses, and a key in a page is no key. */
  const elsewhere = new Set([
    'AddressPending',
    'ReferenceNotFound',
    'SecretMissing',
    'KeyMaterialInvalid',
    'CertificateInvalid',
  ]);
  const problemsIn = (text: string): string[] => {
    const file = join(folder, 'block.yaml');
    writeFileSync(file, text);
    const { problems } = checkManifests([file]);
    return problems.filter(({ name }) => !elsewhere.has(name)).map(({ message }) => message);
  };

  const blocks = pages.flatMap(({ file, blocks: own }) =>
    own
      .filter(({ language, text }) => language === 'yaml' && text.includes('apiVersion: ovpn-operator.io'))
      .map(({ text, line }) => [`${file}:${line}`, text] as const),
  );

  test('are there', () => {
    expect(blocks.length).toBeGreaterThan(5);
  });

  test.each(blocks)('%s is what the agent takes', (_, text) => {
    expect(problemsIn(text)).toEqual([]);
  });

  test('a field that does not exist is found', () => {
    const [[, text] = ['', '']] = blocks;
    expect(problemsIn(text.replace('spec:', 'spec:\n  flavour: strawberry'))).toEqual([
      expect.stringContaining('flavour'),
    ]);
  });
});
