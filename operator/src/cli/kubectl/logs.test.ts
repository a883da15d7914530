import { afterEach, describe, expect, test } from '@jest/globals';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { ApiClient } from '../../cluster/api-client.ts';
import { systemClock } from '../../cluster/clock.ts';
import { peerManifest } from '../../cluster/testing/objects.ts';
import type { Cluster } from './connection.ts';
import { fits, formatLogLine, type LogLine, parseLogLine } from './log-line.ts';
import { logSources } from './log-source.ts';
import { chosen, filterOf, followAll, readAll } from './logs.ts';

const at = (second: number): string => `2026-01-02T03:04:${String(second).padStart(2, '0')}.123456789Z`;
const line = (second: number, fields: object): string => `${at(second)} ${JSON.stringify(fields)}`;
const connected = {
  ...{ level: 'info', time: '2026-01-02T03:04:05.000Z', node: 'node-a', network: 'corp', event: 'session.connected' },
  ...{ peer: 'VpnPeer team-a/alice', remote: '192.0.2.7:40000', cipher: 'AES-256-GCM', reason: 'a "b" c' },
  message: 'a client is connected',
};

describe('a line', () => {
  test('of ours is said in order', () => {
    expect(formatLogLine(parseLogLine('node-a', line(5, connected)))).toBe(
      '2026-01-02T03:04:05.123Z INFO  node-a session.connected a client is connected network=corp peer="VpnPeer team-a/alice" remote=192.0.2.7:40000 cipher=AES-256-GCM reason="a \\"b\\" c"',
    );
  });

  test.each([
    [`${at(1)} Error: no`, '2026-01-02T03:04:01.123Z - node-a Error: no'],
    [`${at(1)} {"a":`, '2026-01-02T03:04:01.123Z - node-a {"a":'],
    [`2026-01-02T03:04:01Z {"level":"warn","event":"x","n":5}`, '2026-01-02T03:04:01.000Z WARN  node-a x n=5'],
    ['unable to retrieve container logs', '- node-a unable to retrieve container logs'],
  ])('%j is said as it is', (text, said) => expect(formatLogLine(parseLogLine('node-a', text))).toBe(said));

  test.each<[object, boolean, boolean]>([
    [{ peer: 'VpnPeer team-a/alice', network: 'corp' }, true, true],
    [{ peer: 'VpnPeer team-a/alicia', network: 'corp' }, false, true],
    [{ peer: 'VpnPeer team-b/alice', network: 'lab' }, false, false],
    [{ object: 'VpnKey team-a/alice-key' }, true, false],
    [{ key: 'team-a/alice-key' }, true, false],
    [{ object: 'VpnNetwork corp' }, false, true],
    [{}, false, false],
  ])('%j is about a peer: %j, a network: %j', (fields, ofPeer, ofNetwork) => {
    const parsed = parseLogLine('n', line(1, fields));
    expect(fits(parsed, { objects: ['team-a/alice', 'team-a/alice-key'] })).toBe(ofPeer);
    expect(fits(parsed, { network: 'corp' })).toBe(ofNetwork);
    expect(fits(parsed, {})).toBe(true);
  });
});

const pod = (name: string, component: string, nodeName: string, phase = 'Running') => ({
  metadata: { name, uid: `uid-${name}`, labels: { 'app.kubernetes.io/component': component } },
  spec: { nodeName, containers: [{ name: component }] },
  status: { phase },
});

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

/** An API server with pods and their logs; what is asked is kept. */
async function serving(
  pods: () => readonly object[],
  log: (pod: string, query: URLSearchParams) => readonly string[] | number,
): Promise<{ cluster: Pick<Cluster, 'client' | 'timeoutMs' | 'namespace' | 'operatorNamespace'>; asked: string[] }> {
  const asked: string[] = [];
  const server: Server = createServer((request, response) => {
    const url = new URL(request.url ?? '', 'http://x');
    asked.push(`${url.pathname}?${url.searchParams.toString()}`);
    const [, name] = /\/pods\/([^/]+)\/log$/.exec(url.pathname) ?? [];
    const answer = name === undefined ? undefined : log(name, url.searchParams);
    if (typeof answer === 'number') response.writeHead(answer).end('{"message":"no"}');
    else if (answer !== undefined) response.end(answer.map((each) => `${each}\n`).join(''));
    else if (url.pathname.endsWith('/pods')) response.end(JSON.stringify({ metadata: {}, items: pods() }));
    else response.end(JSON.stringify(peerManifest('alice')));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const access = { server: `http://127.0.0.1:${port}`, authenticate: () => Promise.resolve({}) };
  const client = new ApiClient(access, systemClock, 'test');
  closing.push(
    () => client.close(),
    () => server.close(),
  );
  return { cluster: { client, timeoutMs: 5_000, namespace: 'team-a', operatorNamespace: 'ovpn' }, asked };
}

const pods = [
  pod('ovpn-agent-1', 'agent', 'node-a'),
  pod('ovpn-agent-2', 'agent', 'node-b'),
  pod('ovpn-agent-3', 'agent', 'node-c', 'Pending'),
  pod('ovpn-controller-0', 'controller', 'node-b'),
  pod('ovpn-holder-1', 'holder', 'node-a'),
  pod('prometheus', 'metrics', 'node-a'),
];
const texts = (lines: readonly LogLine[]): string[] =>
  lines.map(({ source, fields }) => `${source} ${String(fields?.['n'])}`);

test('are of the pods that the chart labels, those that are asked for', async () => {
  const { cluster, asked } = await serving(
    () => pods,
    () => [],
  );
  const all = await logSources(cluster);
  expect(asked).toEqual([
    '/api/v1/namespaces/ovpn/pods?labelSelector=app.kubernetes.io%2Fpart-of%3Dovpn-operator&limit=500',
  ]);
  const names = (choice: object): string[] => chosen(all, choice, 'ovpn').map(({ pod: name }) => name);
  expect(names({})).toEqual(['ovpn-agent-1', 'ovpn-agent-2', 'ovpn-controller-0']);
  expect(names({ node: 'node-a' })).toEqual(['ovpn-agent-1', 'ovpn-holder-1']);
  expect(names({ controller: true })).toEqual(['ovpn-controller-0']);
  expect(() => names({ node: 'nodea' })).toThrow('did you mean "node-a"');
  expect(() => chosen([], {}, 'ovpn')).toThrow(/namespace ovpn has no pod of the operator.*--operator-namespace/);
});

test('come in the order of time, without those that cannot be read', async () => {
  const logs: Readonly<Record<string, readonly string[] | number>> = {
    'ovpn-agent-1': [line(1, { n: 1 }), line(3, { n: 3 })],
    'ovpn-agent-2': 403,
    'ovpn-controller-0': [line(2, { n: 2 })],
  };
  const { cluster, asked } = await serving(
    () => pods,
    (name) => logs[name] ?? 404,
  );
  const [lines, told]: [LogLine[], string[]] = [[], []];
  await readAll(
    cluster,
    { since: 90_500 },
    (each) => lines.push(each),
    (message) => told.push(message),
  );
  expect(texts(lines)).toEqual(['node-a 1', 'ovpn-controller-0 2', 'node-a 3']);
  expect(told).toEqual([expect.stringMatching(/^node-b: you may not get the logs of pods in namespace ovpn/)]);
  expect(asked).toContain(
    '/api/v1/namespaces/ovpn/pods/ovpn-agent-1/log?container=agent&timestamps=true&sinceSeconds=91',
  );
  const { cluster: closed } = await serving(
    () => pods,
    () => 403,
  );
  await expect(
    readAll(
      closed,
      { since: 1 },
      () => undefined,
      () => undefined,
    ),
  ).rejects.toMatchObject({ name: 'AccessDenied' });
});

test('begin with those of the container that was there before', async () => {
  const again = (name: string): object => {
    const before = { name: 'agent', lastState: { terminated: { exitCode: 137 } } };
    return { ...pod(name, 'agent', name), status: { phase: 'Running', containerStatuses: [before] } };
  };
  const { cluster, asked } = await serving(
    () => [again('a'), again('b'), pod('c', 'agent', 'c')],
    (name, query) => {
      if (query.get('previous') === null) return [line(5, { n: 5 })];
      return name === 'a' ? [line(1, { n: 1 })] : 400;
    },
  );
  const [lines, told]: [LogLine[], string[]] = [[], []];
  await readAll(
    cluster,
    { since: 60_000 },
    (each) => lines.push(each),
    (message) => told.push(message),
  );
  expect(texts(lines).toSorted()).toEqual(['a 1', 'a 5', 'b 5', 'c 5']);
  expect(texts(lines)[0]).toBe('a 1');
  expect(told).toEqual([]);
  expect(asked.filter((each) => each.includes('previous'))).toHaveLength(2);
});

test('go on where they were, with pods that come later', async () => {
  let rolled = false;
  const now = (): readonly object[] => (rolled ? [pod('ovpn-agent-9', 'agent', 'node-a')] : pods.slice(0, 1));
  const { cluster } = await serving(now, (name, query) => {
    if (query.get('follow') === null) return [line(1, { n: 1 }), line(2, { n: 2 })];
    if (name === 'ovpn-agent-9') return [line(7, { n: 7 })];
    rolled = true;
    // From the whole second on: what is known comes again.
    return [`2026-01-02T03:04:02.000000001Z {"n":"old"}`, line(2, { n: 2 }), line(3, { n: 3 })];
  });
  const lines: LogLine[] = [];
  const print = (each: LogLine): void => void lines.push(each);
  const tell = (): void => undefined;
  const lastSeen = await readAll(cluster, { since: 60_000 }, print, tell);
  const ended = new AbortController();
  const following = followAll(cluster, { since: 60_000 }, lastSeen, {
    print: (each) => {
      print(each);
      if (each.fields?.['n'] === 7) ended.abort();
    },
    tell,
    signal: ended.signal,
  });
  await following;
  expect(texts(lines)).toEqual(['node-a 1', 'node-a 2', 'node-a 3', 'node-a 7']);
}, 15_000);

test('about a peer are about its key, too', async () => {
  const { cluster } = await serving(
    () => [],
    () => [],
  );
  expect(await filterOf(cluster, { peer: 'alice', network: 'corp' })).toEqual({
    network: 'corp',
    objects: ['team-a/alice', 'team-a/office'],
  });
  expect(await filterOf(cluster, { peer: 'team-b/bob' })).toEqual({ objects: ['team-b/bob', 'team-b/office'] });
});
