import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ApiSource } from './api-source.ts';
import { FolderSource } from './folder-source.ts';
import { refuse, ScriptedServer, type Step } from './testing/api-server.ts';
import { recordingLog } from './testing/log.ts';

const object =
  (metadata: object): Step =>
  (response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ metadata, spec: { nodeName: 'n1' } }));
  };
const named = (name: string, says: string) =>
  expect.objectContaining({ name, problem: expect.stringContaining(says) }) as unknown as Error;

describe('a pod at the API server', () => {
  const podPath = '/api/v1/namespaces/shop/pods/web-0';
  const namespacePath = '/api/v1/namespaces/shop';
  const pod = { namespace: 'shop', name: 'web-0', uid: '6f1c' };
  const labels = { app: 'web' };
  let server: ScriptedServer;
  let source: ApiSource;
  beforeEach(async () => {
    server = new ScriptedServer();
    await server.start();
    source = new ApiSource({ access: server.access(), node: 'n1', log: recordingLog().log });
  });
  afterEach(async () => {
    await source.stop();
    await server.stop();
  });

  test('has labels, annotations and the labels of its namespace, by two requests', async () => {
    server.script(podPath, object({ uid: '6f1c', labels, annotations: { a: 'b', odd: 7 } }));
    server.script(namespacePath, object({ labels: { team: 'shop' } }));
    expect(await source.findPod(pod)).toEqual({
      ...{ namespace: 'shop', name: 'web-0', labels, annotations: { a: 'b' } },
      namespaceLabels: { team: 'shop' },
    });
    expect(server.requests.map(({ method, path }) => `${method} ${path}`).sort()).toEqual([
      `GET ${namespacePath}`,
      `GET ${podPath}`,
    ]);
  });

  test.each<[string, object, object]>([
    ['without labels', { uid: '6f1c' }, { labels: {}, annotations: {} }],
    [
      'of the kubelet, whose copy has another uid',
      { uid: 'other', labels, annotations: { 'kubernetes.io/config.hash': '6f1c' } },
      { labels },
    ],
  ])('may be one %s', async (_name, metadata, expected) => {
    server.script(podPath, object(metadata));
    server.script(namespacePath, object({}));
    expect(await source.findPod(pod)).toMatchObject(expected);
  });

  test.each<[string, Step, Step, string, string]>([
    ['is not there', refuse(404, 'NotFound'), object({}), 'PodUnknown', podPath],
    ['has no namespace', object({ uid: '6f1c' }), refuse(404, 'NotFound'), 'PodUnknown', namespacePath],
    ['was made anew', object({ uid: 'other', labels }), object({}), 'PodUnknown', 'another pod'],
    ['may not be read', refuse(403, 'Forbidden'), object({}), 'ApiUnavailable', '403'],
    ['cannot be read now', (response) => void response.destroy(), object({}), 'ApiUnavailable', ''],
  ])('that %s is refused', async (_name, first, second, error, says) => {
    server.script(podPath, first);
    server.script(namespacePath, second);
    await expect(source.findPod(pod)).rejects.toThrow(named(error, says));
  });
});

describe('a pod in a folder of manifests', () => {
  const folder = mkdtempSync(join(tmpdir(), 'pods-'));
  afterEach(() => rmSync(folder, { recursive: true }));

  test('is what its manifest and that of its namespace say, whatever else they hold', async () => {
    writeFileSync(
      join(folder, 'pods.yaml'),
      [
        'apiVersion: v1',
        'kind: Pod',
        'metadata: { namespace: shop, name: web-0, labels: { app: web }, annotations: { ovpn-operator.io/networks: corp } }',
        'spec: { containers: [{ name: web, image: web }] }',
        '---',
        'apiVersion: v1',
        'kind: Namespace',
        'metadata: { name: shop, labels: { team: shop } }',
      ].join('\n'),
    );
    const source = new FolderSource({ folder, stateDir: join(folder, 'state'), log: recordingLog().log });
    await source.start();
    expect(source.rejections).toEqual([]);
    expect(source.complete).toBe(true);
    expect(await source.findPod({ namespace: 'shop', name: 'web-0', uid: 'any' })).toEqual({
      ...{ namespace: 'shop', name: 'web-0', labels: { app: 'web' } },
      ...{ annotations: { 'ovpn-operator.io/networks': 'corp' }, namespaceLabels: { team: 'shop' } },
    });
    const nobody = { labels: {}, annotations: {}, namespaceLabels: {} };
    expect(await source.findPod({ namespace: 'moon', name: 'x' })).toEqual({ namespace: 'moon', name: 'x', ...nobody });
    await source.stop();
  });
});
