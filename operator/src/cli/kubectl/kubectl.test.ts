import { afterEach, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { ApiClient } from '../../cluster/api-client.ts';
import { systemClock } from '../../cluster/clock.ts';
import { networkManifest, peerManifest } from '../../cluster/testing/objects.ts';
import { duration } from './connection.ts';
import { list, notFound, seen } from './read.ts';

const servers: Server[] = [];
const clients: ApiClient[] = [];
afterEach(() => {
  for (const client of clients.splice(0)) client.close();
  for (const server of servers.splice(0)) server.close();
});

/** Answers requests in turn; what is asked is kept. */
async function answering(
  ...answers: readonly { readonly status?: number; readonly body: object }[]
): Promise<{ cluster: { client: ApiClient; timeoutMs: number }; asked: string[] }> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const { status = 200, body } = answers[asked.length] ?? { status: 500, body: {} };
    asked.push(request.url ?? '');
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const access = { server: `http://127.0.0.1:${port}`, authenticate: () => Promise.resolve({}) };
  const client = new ApiClient(access, systemClock, 'test');
  clients.push(client);
  return { cluster: { client, timeoutMs: 5_000 }, asked };
}

const page = (items: readonly object[], more = ''): { body: object } => ({
  body: { metadata: { resourceVersion: '1', continue: more }, items },
});

describe('reading the cluster', () => {
  test('puts pages together, in the order of names', async () => {
    const { cluster, asked } = await answering(page([peerManifest('b')], 'x'), page([peerManifest('a')]));
    expect((await list(cluster, 'VpnPeer', 'team-a')).map(({ ref }) => ref.name)).toEqual(['a', 'b']);
    expect(asked).toEqual([
      '/apis/ovpn-operator.io/v1alpha1/namespaces/team-a/vpnpeers?limit=500',
      '/apis/ovpn-operator.io/v1alpha1/namespaces/team-a/vpnpeers?limit=500&continue=x',
    ]);
  });

  test('asks for one piece when pages expire midway', async () => {
    const expired = { status: 410, body: { reason: 'Expired', message: 'too old' } };
    const { cluster, asked } = await answering(page([peerManifest('a')], 'x'), expired, page([peerManifest('a')]));
    expect(await list(cluster, 'VpnPeer')).toHaveLength(1);
    expect(asked.at(-1)).toBe('/apis/ovpn-operator.io/v1alpha1/vpnpeers?limit=0');
  });

  test.each([
    [404, 'NotInstalled', 'the cluster has no vpnpeers.ovpn-operator.io'],
    [403, 'AccessDenied', 'you may not list vpnpeers.ovpn-operator.io in namespace team-a'],
    [401, 'ApiUnavailable', 'the API server does not take your credentials'],
    [500, 'ApiUnavailable', 'vpnpeers.ovpn-operator.io in namespace team-a cannot be read: 500: broken'],
  ])('says what %i means', async (status, name, problem) => {
    const { cluster } = await answering({ status, body: { message: 'broken' } });
    await expect(list(cluster, 'VpnPeer', 'team-a')).rejects.toMatchObject({ name, problem });
  });

  test('shows an object that it does not understand by its name, beside the others', () => {
    const strange = { ...networkManifest('lab'), spec: { ...networkManifest('lab').spec, pools: 'all' } };
    expect(seen('VpnNetwork', strange)).toMatchObject({
      ref: { kind: 'VpnNetwork', name: 'lab' },
      problem: expect.stringContaining('spec.pools'),
    });
    const newer = { ...networkManifest('corp'), spec: { ...networkManifest('corp').spec, weather: 'fine' } };
    expect(seen('VpnNetwork', newer)).toMatchObject({ resource: { metadata: { name: 'corp' } } });
  });

  test.each([
    ['corq', ['corp', 'lab'], 'there is no VpnNetwork corq; did you mean "corp"?'],
    ['elsewhere', ['corp', 'lab'], 'there is no VpnNetwork elsewhere; there is corp, lab'],
    ['corp', [], 'there is no VpnNetwork corp'],
  ])('answers to %s with the names of %j', (name, names, problem) => {
    expect(notFound({ kind: 'VpnNetwork', name }, names).problem).toBe(problem);
  });
});

test.each([
  ['30', 30_000],
  ['250ms', 250],
  ['2m', 120_000],
  ['0', 86_400_000],
])('a time of %s is %i ms', (text, ms) => expect(duration(text)).toBe(ms));

test.each(['', '-1', '1d', '25h'])('%j is no time', (text) => expect(() => duration(text)).toThrow('must be'));

describe('the program', () => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, ['--no-warnings', join(import.meta.dirname, '../kubectl-ovpn.ts'), ...args], {
      encoding: 'utf8',
      timeout: 30_000,
    });

  test.each([
    [['version'], 0, /^kubectl-ovpn \d/, /^$/],
    [['version', '-A', '--context', 'x'], 0, /^kubectl-ovpn \d/, /^$/],
    [['version', '--help'], 0, /--kubeconfig/, /^$/],
    [['no-such'], 2, /^$/, /unknown command 'no-such'/],
    [['version', '--request-timeout', 'soon'], 2, /^$/, /must be like 30/],
  ])('%j exits with %i', (args, status, stdout, stderr) => {
    const done = run(...args);
    expect(done).toMatchObject({ status });
    expect(done.stdout).toMatch(stdout);
    expect(done.stderr).toMatch(stderr);
  });
});
