import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { isBuiltin } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { version } from '../operator/src/version.ts';
import { buildKubectlPlugin } from './kubectl-plugin.ts';

describe('the plugin of kubectl', () => {
  // Nothing of this repository is above it.
  const folder = mkdtempSync(join(tmpdir(), 'ovpn-plugin-'));
  const file = join(folder, 'kubectl-ovpn');
  beforeAll(() => buildKubectlPlugin(file), 60_000);
  afterAll(() => rmSync(folder, { recursive: true }));

  const run = (...args: string[]) =>
    spawnSync(file, args, {
      encoding: 'utf8',
      env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, HOME: folder },
      timeout: 30_000,
    });

  test('is a program of its own', () => {
    expect(statSync(file).mode & 0o777).toBe(0o755);
    expect(run('version')).toMatchObject({ status: 0, stdout: `kubectl-ovpn ${version}\n`, stderr: '' });
    expect(run('no-such')).toMatchObject({ status: 2, stdout: '' });
  });

  test('asks for nothing beside it but Node.js', () => {
    const asked = [...readFileSync(file, 'utf8').matchAll(/^import .*? from ["']([^"']+)["'];$/gm)].map(
      ([, name]) => name,
    );
    expect(asked.length).toBeGreaterThan(5);
    expect(asked.filter((name) => !isBuiltin(name!))).toEqual([]);
  });

  test('has what it needs to run commands in pods', async () => {
    const pod = (name: string, component?: string) => ({
      metadata: { namespace: 'x', name, labels: { 'app.kubernetes.io/component': component } },
      spec: { nodeName: 'n1' },
      status: { phase: 'Running', containerStatuses: [{ name: 'agent', state: { running: {} } }] },
    });
    const server = createServer(({ url = '' }, response) => {
      const answer = url.includes('/pods/') ? pod('shop') : { metadata: {}, items: [pod('ovpn-agent-1', 'agent')] };
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
    });
    server.on('upgrade', (_request, socket) => socket.end('HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const config = {
      clusters: [{ name: 'x', cluster: { server: `http://127.0.0.1:${port}`, 'insecure-skip-tls-verify': true } }],
      contexts: [{ name: 'x', context: { cluster: 'x', user: 'x' } }],
      users: [{ name: 'x', user: {} }],
      'current-context': 'x',
    };
    const kubeconfig = join(folder, 'kubeconfig');
    writeFileSync(kubeconfig, JSON.stringify(config));
    const args = [file, 'explain-route', 'shop', '10.0.0.1', '--kubeconfig', kubeconfig];
    const failed = promisify(execFile)(process.execPath, args, { timeout: 30_000 });
    await expect(failed).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringContaining('of pods/exec in namespace'),
    });
    server.close();
  }, 60_000);

  test('passes on the licences of what is inside', () => {
    const lines = readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('// '));
    const packages = lines.flatMap((line) => /^\/\/ (\S+) \d+\.\d+\.\d+ \([A-Za-z0-9.-]+\)$/.exec(line)?.[1] ?? []);
    expect(packages).toEqual(expect.arrayContaining(['@kubernetes/client-node', 'commander']));
    expect(lines.filter((line) => line.startsWith('// Permission is hereby granted')).length).toBeGreaterThan(1);
  });

  test('is the same bytes every time', async () => {
    const again = join(folder, 'again');
    await buildKubectlPlugin(again);
    expect(readFileSync(again).equals(readFileSync(file))).toBe(true);
  }, 60_000);
});
