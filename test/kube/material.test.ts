import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { materialLabel, sourceAnnotation } from '../../operator/src/cluster/material-secret.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { eventually } from '../support/run.ts';

const apiVersion = 'ovpn-operator.io/v1alpha1';
const system = 'ovpn-system';

const network = {
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name: 'corp' },
  spec: {
    pools: { peers: ['10.8.0.0/16'] },
    listeners: [{ name: 'udp', port: 1194 }],
    pki: { secretRef: { name: 'corp-pki' }, crlSecretRef: { name: 'corp-crl', key: 'crl.pem' } },
    allowedPeers: { namespaces: { names: ['team-a'] } },
  },
};

const peer = (namespace: string, spec: object = {}) => ({
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace, name: 'office' },
  spec: {
    networkRef: { name: 'corp' },
    endpoint: { address: '198.51.100.7', port: 1194 },
    keyRef: { name: 'office' },
    static: { peerID: 7 },
    addresses: ['10.8.0.7'],
    ...spec,
  },
});

const key = (namespace: string) => ({
  apiVersion,
  kind: 'VpnKey',
  metadata: { namespace, name: 'office' },
  spec: { static: { secretRef: { name: 'office-key' }, direction: 'Normal' } },
});

const secret = (namespace: string, name: string, stringData: Record<string, string>) => ({
  apiVersion: 'v1',
  kind: 'Secret',
  metadata: { namespace, name },
  stringData,
});

/** The copy of the network's CRL, which nothing below changes. */
const crl = { 'ovpn-system/corp-crl': { 'crl.pem': 'r' } };

interface Copy {
  readonly metadata: { readonly name: string; readonly annotations: Record<string, string> };
  readonly data?: Record<string, string>;
}

describe('copies of key material on a real API server', () => {
  let plane: ControlPlane;
  let controller: ControllerProcess;

  beforeAll(async () => {
    plane = await ControlPlane.start();
    for (const name of ['team-a', 'team-b']) await plane.namespace(name);
    controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
    await controller.start();
  }, 300_000);
  afterAll(async () => {
    await controller.stop();
    await plane.stop();
  }, 60_000);

  const apply = (...items: object[]): Promise<void> =>
    plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  /** What agents see, by where it is from. */
  const copies = async (): Promise<Record<string, Record<string, string>>> => {
    const path = `${apiPath('Secret', { namespace: system })}?labelSelector=${materialLabel}%3Dtrue`;
    const { items } = await plane.admin.get<{ items: Copy[] }>(path);
    return Object.fromEntries(
      items.map(({ metadata, data = {} }): [string, Record<string, string>] => [
        metadata.annotations[sourceAnnotation] ?? '',
        Object.fromEntries(Object.entries(data).map(([name, text]) => [name, Buffer.from(text, 'base64').toString()])),
      ]),
    );
  };
  const until = (what: string, wanted: Record<string, Record<string, string>>, timeoutMs = 30_000): Promise<true> =>
    eventually(
      what,
      async () => {
        expect(await copies()).toEqual(wanted);
        return true as const;
      },
      { timeoutMs },
    );

  test('just what objects in force name is copied', async () => {
    await apply(
      secret('team-a', 'office-key', { 'static.key': 'canary-one', other: 'canary-two' }),
      secret('team-b', 'office-key', { 'static.key': 'canary-three' }),
      secret(system, 'corp-pki', { 'tls.crt': 'c', 'tls.key': 'canary-four', 'ca.crt': 'a', 'ca.key': 'canary-five' }),
      secret(system, 'corp-crl', { 'crl.pem': 'r', other: 'canary-seven' }),
      network,
      ...['team-a', 'team-b'].flatMap((namespace) => [key(namespace), peer(namespace)]),
    );
    await until('the copies are there', {
      // team-b may not add peers, so nothing of it is touched.
      'team-a/office-key': { 'static.key': 'canary-one' },
      'ovpn-system/corp-pki': { 'tls.crt': 'c', 'tls.key': 'canary-four', 'ca.crt': 'a' },
      ...crl,
    });
  }, 60_000);

  test('a change in the own namespace is followed at once, one of another with the next reading', async () => {
    await plane.admin.merge(apiPath('Secret', { namespace: system, name: 'corp-pki' }), {
      stringData: { 'ca.crt': 'b' },
    });
    await plane.admin.merge(apiPath('Secret', { namespace: 'team-a', name: 'office-key' }), {
      stringData: { 'static.key': 'canary-six' },
    });
    const pki = { 'tls.crt': 'c', 'tls.key': 'canary-four', 'ca.crt': 'b' };
    await until('that of the network', {
      'team-a/office-key': { 'static.key': 'canary-one' },
      'ovpn-system/corp-pki': pki,
      ...crl,
    });
    await until(
      'that of the key',
      { 'team-a/office-key': { 'static.key': 'canary-six' }, 'ovpn-system/corp-pki': pki, ...crl },
      110_000,
    );
  }, 160_000);

  test('a copy that somebody changes or deletes is made good', async () => {
    const path = apiPath('Secret', { namespace: system, name: 'copy.team-a.office-key' });
    await plane.admin.merge(path, { stringData: { 'static.key': 'wrong', more: 'wrong' } });
    await eventually('it is as it was', async () => {
      const all = await copies();
      return all['team-a/office-key']?.['static.key'] === 'canary-six' ? true : undefined;
    });
    await plane.admin.delete(path);
    await eventually('it is there again', async () => ((await copies())['team-a/office-key'] ? true : undefined));
  }, 60_000);

  test('what nobody needs any more goes, also what lost its object while no controller ran', async () => {
    await plane.admin.delete(apiPath('VpnPeer', { namespace: 'team-a', name: 'office' }));
    await eventually('the copy is gone', async () => ((await copies())['team-a/office-key'] ? undefined : true));
    await controller.stop();
    await plane.admin.delete(apiPath('VpnNetwork', { name: 'corp' }));
    await controller.start();
    await until('all copies are gone', {});
    // Users' own Secrets are theirs.
    expect((await plane.admin.send('GET', apiPath('Secret', { namespace: system, name: 'corp-pki' }))).status).toBe(
      200,
    );
  }, 90_000);

  test('reads Secrets of other namespaces by name only, and tells nobody what is in them', () => {
    const requests = plane.audit().filter(({ user }) => user.username.endsWith(':ovpn-controller'));
    const foreign = requests.filter(
      // The operator's own are that of the Secrets for agents, and that of the CAs.
      ({ objectRef }) => objectRef?.resource === 'secrets' && objectRef.namespace?.startsWith(system) !== true,
    );
    expect(new Set(foreign.map(({ verb, objectRef }) => `${verb} ${objectRef?.namespace}/${objectRef?.name}`))).toEqual(
      new Set(['get team-a/office-key']),
    );
    expect(requests.filter(({ responseStatus }) => responseStatus?.code === 403)).toEqual([]);
    expect(controller.log).not.toContain('canary');
  });
});
