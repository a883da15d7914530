import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VpnNetwork } from '../../operator/src/api/types.ts';
import { materialLabel } from '../../operator/src/cluster/material-secret.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { Pki } from '../support/pki.ts';
import { eventually } from '../support/run.ts';

const namespace = 'ovpn-system';
const certificatePath = apiPath('Certificate', { namespace, name: 'corp.tls' });
const secretPath = apiPath('Secret', { namespace, name: 'corp.tls' });
const networkPath = apiPath('VpnNetwork', { name: 'corp' });

/** As much of cert-manager's own definition as matters to who asks it for certificates. */
const definition = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'certificates.cert-manager.io' },
  spec: {
    group: 'cert-manager.io',
    scope: 'Namespaced',
    names: { plural: 'certificates', singular: 'certificate', kind: 'Certificate', listKind: 'CertificateList' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        subresources: { status: {} },
        schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
      },
    ],
  },
};

const network = (pki: object) => ({
  apiVersion: 'ovpn-operator.io/v1alpha1',
  kind: 'VpnNetwork',
  metadata: { name: 'corp' },
  spec: { pools: { peers: ['10.8.0.0/16'] }, listeners: [{ name: 'udp', port: 1194 }], pki },
});

interface Certificate extends Record<string, unknown> {
  readonly metadata: { readonly uid: string; readonly generation: number; readonly ownerReferences: object[] };
  readonly spec: { readonly secretName: string; readonly secretTemplate: object };
}

/** The test is cert-manager here: it answers for Certificates as that does. */
describe('a network with an issuer of cert-manager, on a real API server', () => {
  let plane: ControlPlane;
  let controller: ControllerProcess;
  const pki = new Pki('Corporate CA');
  const server = pki.server('corp');

  beforeAll(async () => {
    plane = await ControlPlane.start();
    controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
    await controller.start();
  }, 300_000);
  afterAll(async () => {
    pki.remove();
    await controller.stop();
    await plane.stop();
  }, 60_000);

  const apply = (object: object): Promise<void> => plane.admin.applyYaml(JSON.stringify(object));
  const until = (status: string, reason: string) =>
    eventually(
      `CertificateReady is ${status}, ${reason}`,
      async () => {
        const found = await plane.admin.get<VpnNetwork & Record<string, unknown>>(networkPath);
        const condition = found.status?.conditions?.find(({ type }) => type === 'CertificateReady');
        return condition?.status === status && condition.reason === reason ? condition : undefined;
      },
      { timeoutMs: 90_000 },
    );
  const certificate = (): Promise<Certificate> =>
    eventually(
      'the Certificate',
      async () => {
        const { status, body } = await plane.admin.send('GET', certificatePath);
        return status === 200 ? (body as Certificate) : undefined;
      },
      { timeoutMs: 90_000 },
    );
  const say = (ready: boolean, reason: string, message: string): Promise<unknown> =>
    plane.admin.merge(`${certificatePath}/status`, {
      status: { conditions: [{ type: 'Ready', status: ready ? 'True' : 'False', reason, message }] },
    });
  const gone = (path: string): Promise<true> =>
    eventually(
      `${path} is gone`,
      async () => ((await plane.admin.send('GET', path)).status === 404 ? (true as const) : undefined),
      { timeoutMs: 60_000 },
    );

  test('says that cert-manager is missing, and asks it once it is there', async () => {
    await apply(network({ issuerRef: { name: 'corp-ca', kind: 'ClusterIssuer' } }));
    await until('False', 'CertManagerNotFound');
    await apply(definition);
    const { metadata, spec } = await certificate();
    expect(spec).toMatchObject({
      secretName: 'corp.tls',
      commonName: 'corp',
      usages: ['digital signature', 'server auth'],
      issuerRef: { name: 'corp-ca', kind: 'ClusterIssuer', group: 'cert-manager.io' },
    });
    const { uid } = (await plane.admin.get<{ metadata: { uid: string } }>(networkPath)).metadata;
    expect(metadata.ownerReferences).toMatchObject([{ kind: 'VpnNetwork', name: 'corp', uid, controller: true }]);
    await until('False', 'Pending');
  }, 240_000);

  test('passes on what cert-manager says, and the Secret to the agents', async () => {
    await say(false, 'DoesNotExist', 'Issuing certificate as Secret does not exist');
    const { message } = await eventually(
      'its words',
      async () => {
        const condition = await until('False', 'Pending');
        return condition.message.includes('DoesNotExist') ? condition : undefined;
      },
      { timeoutMs: 60_000 },
    );
    expect(message).toContain('Issuing certificate as Secret does not exist');
    const { spec } = await certificate();
    await apply({
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { namespace, name: spec.secretName, ...spec.secretTemplate },
      type: 'kubernetes.io/tls',
      stringData: { 'tls.crt': server.cert, 'tls.key': server.key, 'ca.crt': pki.ca },
    });
    await say(true, 'Ready', 'Certificate is up to date and has not expired');
    await until('True', 'Ready');
    // It needs no copy: agents read it where it is.
    const agent = await plane.agentOf('node-a');
    const { items } = await agent.get<{ items: { metadata: { name: string } }[] }>(
      `${apiPath('Secret', { namespace })}?labelSelector=${materialLabel}%3Dtrue`,
    );
    expect(items.map(({ metadata }) => metadata.name)).toContain('corp.tls');
    const copy = apiPath('Secret', { namespace, name: `copy.${namespace}.corp.tls` });
    expect((await plane.admin.send('GET', copy)).status).toBe(404);
    expect(controller.log).not.toContain('PRIVATE KEY');
  }, 180_000);

  test('follows a change of the issuer in place', async () => {
    const before = await certificate();
    await apply(network({ issuerRef: { name: 'other-ca', kind: 'ClusterIssuer' } }));
    const after = await eventually('another issuer', async () => {
      const found = await certificate();
      return JSON.stringify(found.spec).includes('other-ca') ? found : undefined;
    });
    expect(after.metadata.uid).toBe(before.metadata.uid);
  }, 60_000);

  test('takes away what it asked for when the certificate comes from elsewhere', async () => {
    await apply(network({ secretRef: { name: 'corp-server' } }));
    await gone(certificatePath);
    await gone(secretPath);
    await eventually('the condition is gone', async () => {
      const found = await plane.admin.get<VpnNetwork & Record<string, unknown>>(networkPath);
      return found.status?.conditions?.some(({ type }) => type === 'CertificateReady') === true ? undefined : true;
    });
  }, 120_000);

  test('leaves a Certificate of somebody else alone', async () => {
    const foreign = { secretName: 'theirs', commonName: 'theirs', issuerRef: { name: 'theirs' } };
    await apply({
      apiVersion: 'cert-manager.io/v1',
      kind: 'Certificate',
      metadata: { namespace, name: 'corp.tls' },
      spec: foreign,
    });
    await apply(network({ issuerRef: { name: 'corp-ca' } }));
    await until('False', 'Conflict');
    expect((await certificate()).spec).toEqual(foreign);
  }, 120_000);
});
