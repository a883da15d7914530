import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { networkManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { complete } from './complete.ts';
import { planCompletion } from './complete-plan.ts';
import { kubectlProgram } from './program.ts';

const program = kubectlProgram();

describe('what comes next', () => {
  const words = (...typed: string[]): string[] => {
    const { next, prefix } = planCompletion(program, typed);
    return next.kind === 'words'
      ? next.words.map(({ text }) => text).filter((text) => text.startsWith(prefix))
      : [next.kind];
  };
  const names = (...typed: string[]): string | undefined => {
    const { next } = planCompletion(program, typed);
    return next.kind === 'names' ? next.of : undefined;
  };

  test('is a command, an option of it or of all, or a choice', () => {
    expect(words('')).toEqual(expect.arrayContaining(['status', 'peers', 'profile', 'logs', 'completion', 'version']));
    expect(words('-n', 'team-a', 'st')).toEqual(['status']);
    expect(words('peers', '--')).toEqual(expect.arrayContaining(['--watch', '--output', '--namespace', '--help']));
    expect(words('peers', '--')).not.toContain('--version');
    expect(words('--ver')).toEqual(['--version']);
    expect(words('peers', '-o', '')).toEqual(['text', 'wide', 'json', 'yaml']);
    expect(words('peers', '--output=j')).toEqual(['json']);
    expect(words('peers', '-oy')).toEqual(['yaml']);
    // As bash cuts it.
    expect(words('peers', '--output', '=', 'w')).toEqual(['wide']);
    expect(words('peers', '--output', '=')).toEqual(['text', 'wide', 'json', 'yaml']);
    expect(words('completion', '')).toEqual(['kubectl', 'bash', 'zsh', 'fish']);
  });

  test('is a name', () => {
    expect(names('status', '')).toBe('network');
    expect(names('peers', '-w', 'co')).toBe('network');
    expect(names('profile', '--qr', '')).toBe('peer');
    expect(names('logs', '--peer', '')).toBe('peer');
    expect(names('logs', '--node', '')).toBe('node');
    expect(names('status', '-n', '')).toBe('namespace');
    expect(names('--context', '')).toBe('context');
  });

  test('is a file, or nothing', () => {
    expect(words('--kubeconfig', '')).toEqual(['file']);
    expect(words('status', 'corp', '')).toEqual(['nothing']);
    expect(words('nonsense', '')).toEqual(['nothing']);
    expect(words('logs', '--since', '')).toEqual(['nothing']);
  });

  test('goes by the options before it', () => {
    const { options } = planCompletion(program, [
      '-nteam-a',
      '--context=prod',
      'peers',
      '-A',
      '--request-timeout',
      '5s',
      '',
    ]);
    expect(options).toEqual({ namespace: 'team-a', context: 'prod', allNamespaces: true, requestTimeout: '5s' });
  });
});

describe('completion on a cluster', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-complete-'));
  const kubeconfig = join(folder, 'config');
  let server: Server;

  beforeAll(async () => {
    server = createServer((request, response) => {
      const { pathname } = new URL(request.url ?? '', 'http://x');
      const peers = [peerManifest('alice'), peerManifest('bob')];
      const items = pathname.endsWith('/namespaces/team-a/vpnpeers')
        ? peers
        : pathname.endsWith('/vpnnetworks')
          ? [networkManifest('corp'), networkManifest('lab')]
          : [];
      response.end(JSON.stringify({ metadata: {}, items }));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const cluster = { server: `http://127.0.0.1:${port}`, 'insecure-skip-tls-verify': true };
    const contexts = ['prod', 'test'].map((name) => ({ name, context: { cluster: 'c', user: 'u' } }));
    const users = [{ name: 'u', user: { token: 't' } }];
    writeFileSync(
      kubeconfig,
      JSON.stringify({ 'current-context': 'test', clusters: [{ name: 'c', cluster }], users, contexts }),
    );
    const script = `#!/bin/sh\nexec '${process.execPath}' --no-warnings '${join(import.meta.dirname, '../kubectl-ovpn.ts')}' "$@"\n`;
    writeFileSync(join(folder, 'kubectl-ovpn'), script);
    chmodSync(join(folder, 'kubectl-ovpn'), 0o755);
  });
  afterAll(() => {
    server.close();
    rmSync(folder, { recursive: true });
  });

  test.each<[string[], string]>([
    [['profile', '-n', 'team-a', 'a'], 'alice\toffices\n:4\n'],
    [['profile', '-n', 'team-b', ''], ':4\n'],
    [['status', ''], 'corp\nlab\n:4\n'],
    [['--context', 'p'], 'prod\n:4\n'],
    [['--context=p'], 'prod\n:4\n'],
    [['peers', '-oy'], '-oyaml\n:4\n'],
    [['peers', '-o=y'], 'yaml\n:4\n'],
    [['--kubeconfig', ''], ':0\n'],
  ])('%j', async (words, answer) => {
    const given = words[0] === '--kubeconfig' ? words : [`--kubeconfig=${kubeconfig}`, ...words];
    expect(await complete(program, given)).toBe(answer);
  });

  test('that cannot be reached has no names', async () => {
    expect(await complete(program, ['--kubeconfig', join(folder, 'none'), 'status', ''])).toBe(':4\n');
  });

  const env = { PATH: `${folder}${delimiter}/usr/bin${delimiter}/bin`, KUBECONFIG: kubeconfig };
  const run = async (file: string, ...args: string[]): Promise<string> => {
    const { stdout, stderr } = await promisify(execFile)(file, args, { env });
    expect(stderr).toBe('');
    return stdout;
  };
  const printed = (shell: string): Promise<string> => run(join(folder, 'kubectl-ovpn'), 'completion', shell);

  test('bash completes by its script', async () => {
    const typed = (...words: string[]): string =>
      [
        `COMP_WORDS=(kubectl-ovpn ${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length}`,
        '_kubectl_ovpn; echo "${COMPREPLY[*]}"',
      ].join('; ');
    const all = [typed('prof'), typed('status', ''), typed('profile', '-n', 'team-a', 'b')];
    const script = [await printed('bash'), ...all, 'complete -p kubectl-ovpn'].join('\n');
    expect(await run('bash', '--norc', '-c', script)).toBe(
      'profile\ncorp lab\nbob\ncomplete -F _kubectl_ovpn kubectl-ovpn\n',
    );
  }, 90_000);

  test('kubectl asks the program that is made for it', async () => {
    const file = join(folder, 'kubectl_complete-ovpn');
    writeFileSync(file, await printed('kubectl'), { mode: 0o755 });
    expect(await run(file, 'logs', '--f')).toBe('--follow\tgo on with what comes\n:4\n');
  }, 90_000);
});
