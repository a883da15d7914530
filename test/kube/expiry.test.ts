import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VpnNetwork } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { networkManifest } from '../../operator/src/cluster/testing/objects.ts';
import { Pki } from '../support/pki.ts';
import { eventually } from '../support/run.ts';

/** Warnings of what expires, on a real API server: the condition beside those of others, and the Event. */
const system = 'ovpn-system';
const path = apiPath('VpnNetwork', { name: 'corp' });
let pki: Pki;
let plane: ControlPlane;
let controller: ControllerProcess;

beforeAll(async () => {
  pki = new Pki();
  plane = await ControlPlane.start();
  controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  await controller.start();
}, 300_000);
afterAll(async () => {
  await controller.stop();
  await plane.stop();
  pki.remove();
}, 60_000);

const put = (cert: string) =>
  plane.admin.apply(apiPath('Secret', { namespace: system, name: 'corp-pki' }), {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { namespace: system, name: 'corp-pki' },
    stringData: { 'tls.crt': cert, 'ca.crt': pki.ca },
  });

const condition = (reason: string) =>
  eventually(`the condition says ${reason}`, async () => {
    const { status } = await plane.admin.get<Pick<VpnNetwork, 'status'>>(path);
    const found = status?.conditions?.find(({ type }) => type === 'Expiring');
    return found?.reason === reason ? found : undefined;
  });

test('an expired certificate is told of until it is renewed', async () => {
  await put(pki.server('old', { expired: true }).cert);
  const pkiSpec = { secretRef: { name: 'corp-pki' }, crlSecretRef: { name: 'corp-crl', key: 'crl.pem' } };
  await plane.admin.apply(apiPath('Secret', { namespace: system, name: 'corp-crl' }), {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { namespace: system, name: 'corp-crl' },
    stringData: { 'crl.pem': pki.crl() },
  });
  await plane.admin.apply(path, networkManifest('corp', { pki: pkiSpec }));
  const expired = await condition('Expired');
  expect(expired).toMatchObject({ status: 'True', message: expect.stringContaining('2021-01-01') as unknown });
  const note = await eventually('the Event', async () => {
    const events = apiPath('Event', { namespace: 'default' });
    const { items } = await plane.admin.get<{ items: { reason: string; note: string }[] }>(events);
    return items.find(({ reason }) => reason === 'Expired')?.note;
  });
  expect(note).toBe(expired.message);
  await put(pki.server('new').cert);
  const valid = await condition('Valid');
  expect(valid).toMatchObject({ status: 'False', message: expect.stringContaining('the CRL in crl.pem') as unknown });
});
