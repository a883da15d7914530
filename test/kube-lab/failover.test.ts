import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findCondition } from '../../operator/src/api/conditions.ts';
import type { VpnPeer } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { behindOffice, officeManifests, officeServer } from '../support/dialled-office.ts';
import { AgentProcess, type Host, Hosts, ping } from '../support/hosts.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { untilMesh } from '../support/kube/until.ts';
import { attachDirectly } from '../support/office.ts';
import type { OpenvpnProcess } from '../support/openvpn.ts';
import { Pki } from '../support/pki.ts';
import { eventually } from '../support/run.ts';
import { PingStream } from '../support/stream.ts';

/**
 * A stock OpenVPN server that any of three nodes could dial. One does; when that one is lost, another has it within ten
 * seconds, and pods of all nodes reach what is behind it.
 */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const namespace = 'team-a';
const runs = 5;

interface Node {
  readonly host: Host;
  readonly agent: AgentProcess;
  pod: string;
}

const pki = new Pki('Office CA');
let hosts: Hosts;
let plane: ControlPlane;
let controller: ControllerProcess;
let server: OpenvpnProcess;
let nodes: readonly Node[] = [];

const office = () =>
  plane.admin.get<VpnPeer & Record<string, unknown>>(apiPath('VpnPeer', { namespace, name: 'office' }));
const holder = async () => (await office()).status?.holder;

const nodeOf = (name: string | undefined): Node => {
  const found = nodes.find(({ host }) => host.name === name);
  if (found === undefined) throw new Error(`no node ${String(name)}`);
  return found;
};
const others = (node: Node): Node[] => nodes.filter((other) => other !== node);

/** Whether the agent of a node has a tunnel to the server. */
const hasTunnel = async ({ agent }: Node): Promise<boolean> =>
  (await agent.report()).networks[0]?.peers.some(({ peerId }) => peerId !== undefined) === true;

const reaches = async (node: Node): Promise<true | undefined> =>
  (await ping(node.pod, behindOffice, { count: 1, deadline: 1 })).received === 1 || undefined;

const cut = (host: Host): Promise<void> => hosts.shape(host, 'root', 'netem', 'loss', '100%');
const heal = (host: Host): Promise<void> => hosts.shape(host, 'root', 'netem', 'delay', '0ms');

const percentile = (values: readonly number[], share: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.ceil(values.length * share) - 1)] ?? 0;

/** Waits until another node has the peer and dials it, and the pods of all nodes that are left reach what is behind. */
async function takenOver(from: Node, since: number): Promise<{ by: Node; claimedMs: number; reachedMs: number }> {
  const by = await eventually(
    'another node has the peer',
    async () => {
      const { node } = (await holder()) ?? {};
      return node === undefined || node === from.host.name ? undefined : nodeOf(node);
    },
    { timeoutMs: 60_000, stepMs: 50 },
  );
  const claimedMs = Date.now() - since;
  await eventually(
    'a pod reaches the office',
    async () => (await Promise.all(others(from).map(reaches))).every(Boolean) || undefined,
    {
      timeoutMs: 60_000,
      stepMs: 20,
    },
  ).catch(async (error: unknown) => {
    throw new Error(
      `${String(error)}\n${server.tail}\n${by.agent.log.slice(-6000)}\n${JSON.stringify((await office()).status)}`,
    );
  });
  return { by, claimedMs, reachedMs: Date.now() - since };
}

beforeAll(async () => {
  hosts = await Hosts.create('kfail');
  plane = await ControlPlane.start({ host: await hosts.host('api') });
  await plane.namespace(namespace);
  controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  await controller.start();
  const remote = await hosts.host('office');
  server = (await officeServer(remote, pki))();
  const made: Node[] = [];
  for (const name of ['node1', 'node2', 'node3']) {
    const host = await hosts.host(name);
    const agent = new AgentProcess(host, ['--status-interval', '1'], await plane.agentOf(name));
    await plane.admin.merge(`/api/v1/nodes/${name}/status`, {
      status: { addresses: [{ type: 'InternalIP', address: host.ipv4 }] },
    });
    await agent.start();
    made.push({ host, agent, pod: '' });
  }
  nodes = made;
  const items = [
    {
      apiVersion,
      kind: 'VpnNetwork',
      metadata: { name: 'corp' },
      spec: {
        pools: { peers: ['10.80.0.0/24'], pods: ['10.81.0.0/16'] },
        listeners: [{ name: 'udp', port: 1194 }],
        pki: { builtIn: {} },
        mesh: {},
        allowedPeers: { namespaces: { names: [namespace] }, routes: ['192.168.0.0/16'] },
      },
    },
    ...officeManifests(namespace, remote, pki),
  ];
  await plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  await untilMesh(plane.admin, nodes.length);
  for (const node of nodes) {
    node.pod = await hosts.namespace(`kfail-pod-${node.host.name}`);
    await attachDirectly(node.agent, `pod-${node.host.name}`, node.pod);
  }
}, 600_000);
afterAll(async () => {
  await controller.stop();
  await hosts.remove();
  pki.remove();
}, 120_000);

describe('a server that several nodes could dial', () => {
  test('is dialled by one of them, and pods of all nodes reach what is behind it', async () => {
    const first = await eventually('a node has it', holder, { timeoutMs: 60_000 });
    expect(first).toMatchObject({ epoch: 1, reason: 'Placed' });
    for (const node of nodes) await eventually('the office', () => reaches(node), { timeoutMs: 60_000 });
    const having = await Promise.all(nodes.map(hasTunnel));
    expect(nodes.filter((_, i) => having[i]).map(({ host }) => host.name)).toEqual([first.node]);
    const { status } = await office();
    expect(findCondition(status?.conditions, 'Placed')).toMatchObject({
      ...{ status: 'True', reason: 'Placed' },
      message: expect.stringContaining(`node ${first.node} has it`) as unknown,
    });
    const elsewhere = others(nodeOf(first.node))[0];
    const report = await elsewhere?.agent.report();
    expect(report?.networks[0]?.peers[0]).toMatchObject({ holder: first.node, reason: 'Elsewhere' });
  }, 120_000);

  test('stays where it is while the API server is away, and packets go on', async () => {
    const before = await holder();
    const stream = await PingStream.start(others(nodeOf(before?.node))[0]?.pod ?? '', behindOffice, 20);
    plane.pauseApiServer();
    await new Promise((resolve) => setTimeout(resolve, 20_000));
    plane.resumeApiServer();
    await new Promise((resolve) => setTimeout(resolve, 12_000));
    const { sent, lost } = await stream.stop();
    console.info(`the API server away for 20 s: ${lost} of ${sent} pings lost`);
    expect(lost).toBe(0);
    expect(await holder()).toEqual(before);
  }, 120_000);

  test('stays over a restart of the agent that is longer than the lease, and packets go on', async () => {
    const before = await holder();
    const node = nodeOf(before?.node);
    const stream = await PingStream.start(others(node)[0]?.pod ?? '', behindOffice, 20);
    await node.agent.stopAgent('SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 9_000));
    await node.agent.startAgent();
    await new Promise((resolve) => setTimeout(resolve, 8_000));
    const { sent, lost } = await stream.stop();
    console.info(`the agent away for 9 s: ${lost} of ${sent} pings lost`);
    expect(lost).toBe(0);
    expect(await holder()).toEqual(before);
    expect(node.agent.said('dial.resumed').length).toBeGreaterThan(0);
  }, 120_000);

  test('is let go of by a node that was cut off, when it learns that another has it', async () => {
    // It has ended, for it could not renew its lease, and nobody here starts it anew as a Deployment does.
    await controller.stop();
    await controller.start();
    const before = await holder();
    const node = nodeOf(before?.node);
    await cut(node.host);
    const { by } = await takenOver(node, Date.now());
    await heal(node.host);
    const healed = Date.now();
    await eventually('it lets go', async () => ((await hasTunnel(node)) ? undefined : true), { timeoutMs: 60_000 });
    console.info(`cut off and back, the node has let go after ${Date.now() - healed} ms`);
    expect(Date.now() - healed).toBeLessThan(10_000);
    await untilMesh(plane.admin, nodes.length);
    await eventually('its pods reach the office over the other', () => reaches(node), { timeoutMs: 60_000 });
    expect(await holder()).toMatchObject({ node: by.host.name, epoch: (before?.epoch ?? 0) + 1, reason: 'NodeLost' });
    const events = apiPath('Event', { namespace });
    await eventually('an Event tells', async () => {
      const { items } = await plane.admin.get<{ items: { reason: string; note: string }[] }>(events);
      const told = items.find(({ reason }) => reason === 'NodeLost')?.note;
      return told?.startsWith(`node ${by.host.name} took it over from node ${node.host.name}`) === true || undefined;
    });
  }, 180_000);

  test('is handed over at once by a node that is taken out of service', async () => {
    const before = await holder();
    const node = nodeOf(before?.node);
    const nodePath = `/api/v1/nodes/${node.host.name}`;
    await plane.admin.merge(nodePath, { spec: { unschedulable: true } });
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    expect(await holder()).toEqual(before);
    const since = Date.now();
    const stopping = node.agent.stopAgent('SIGTERM');
    const { claimedMs, reachedMs } = await takenOver(node, since);
    await stopping;
    console.info(`handed over: claimed after ${claimedMs} ms, pods of the other nodes reach it after ${reachedMs} ms`);
    expect(await holder()).toMatchObject({ reason: 'NodeReleased', previousNode: node.host.name });
    expect(claimedMs).toBeLessThan(5_000);
    await plane.admin.merge(nodePath, { spec: { unschedulable: null } });
    await node.agent.startAgent();
    await untilMesh(plane.admin, nodes.length);
  }, 180_000);

  test('of a node that dies is back within ten seconds, without the controller, again and again', async () => {
    await controller.stop('SIGKILL');
    const claimed: number[] = [];
    const reached: number[] = [];
    for (let i = 0; i < runs; i++) {
      const before = await holder();
      const node = nodeOf(before?.node);
      const since = Date.now();
      await Promise.all([cut(node.host), node.agent.stopAgent('SIGKILL')]);
      const { claimedMs, reachedMs } = await takenOver(node, since);
      claimed.push(claimedMs);
      reached.push(reachedMs);
      expect(await holder()).toMatchObject({
        ...{ epoch: (before?.epoch ?? 0) + 1, reason: 'NodeLost', previousNode: node.host.name },
      });
      await heal(node.host);
      await node.agent.startAgent();
      await eventually('it lets go', async () => ((await hasTunnel(node)) ? undefined : true), { timeoutMs: 60_000 });
      await untilMesh(plane.admin, nodes.length);
    }
    for (const [what, times] of [
      ['the claim', claimed],
      ['pods of the other nodes', reached],
    ] as const)
      console.info(
        `failover to ${what}: p50 ${percentile(times, 0.5)} ms, p99 ${percentile(times, 0.99)} ms of ${runs}`,
      );
    expect(percentile(reached, 0.5)).toBeLessThan(10_000);
    // All nodes, the API server and the remote share an emulated machine, which may stand still for seconds.
    expect(Math.max(...reached)).toBeLessThan(20_000);
    for (const node of nodes) await eventually('the office', () => reaches(node), { timeoutMs: 60_000 });
    const having = await Promise.all(nodes.map(hasTunnel));
    expect(having.filter(Boolean)).toHaveLength(1);
  }, 400_000);
});
