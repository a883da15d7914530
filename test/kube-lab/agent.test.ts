import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { VpnPeer } from '../../operator/src/api/types.ts';
import { AgentProcess, Hosts } from '../support/hosts.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { newStaticKey } from '../support/manifests.ts';
import { applyOffice } from '../support/office.ts';
import { KernelView } from '../support/kernel-view.ts';
import { eventually } from '../support/run.ts';

/** A node's agent on a real API server, with the rights of its role, and the kernel that it programs. */
let hosts: Hosts;
let plane: ControlPlane;
let agent: AgentProcess;

const peerPath = '/apis/ovpn-operator.io/v1alpha1/namespaces/default/vpnpeers/office';

beforeAll(async () => {
  hosts = await Hosts.create('kagt');
  plane = await ControlPlane.start({ host: await hosts.host('api') });
  const node = await hosts.host('node');
  const remote = await hosts.host('remote');
  await applyOffice(plane.admin, node, remote, newStaticKey());
  agent = new AgentProcess(node, ['--status-interval', '1'], await plane.agentOf(node.name));
  await agent.start();
}, 600_000);
afterAll(() => hosts.remove(), 60_000);

const peerInApi = async (): Promise<VpnPeer> => plane.admin.get<VpnPeer & Record<string, unknown>>(peerPath);

test('what is applied comes into the kernel, and status says so', async () => {
  await agent.untilReady('corp', 1);
  expect(new KernelView(agent).slots(7)).toBe('1/-');
  const { status } = await eventually('the status is Ready', async () => {
    const peer = await peerInApi();
    return peer.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true
      ? peer
      : undefined;
  });
  expect(status).toMatchObject({ node: 'node', peerID: 7, keyGeneration: 1 });
});

test('the API server can be away: the kernel keeps what it has, and changes come when it is back', async () => {
  await plane.killApiServer();
  await plane.startApiServer();
  await plane.admin.merge(peerPath, { spec: { suspend: true } });
  await agent.until('the peer is suspended', ({ networks }) => networks[0]?.peers[0]?.reason === 'Suspended', 60_000);
  await plane.admin.merge(peerPath, { spec: { suspend: false } });
});

test('what is deleted leaves the kernel', async () => {
  await plane.admin.delete(peerPath);
  await agent.until('the peer is gone', ({ networks }) => networks[0]?.peers.length === 0);
});
