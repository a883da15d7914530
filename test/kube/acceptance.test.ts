import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { Condition } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { networkManifest, peerManifest } from '../../operator/src/cluster/testing/objects.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { eventually } from '../support/run.ts';

/** Who is let in, and who is refused for whose sake, said on both objects by the controller: no agent is there. */
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

const networkPath = apiPath('VpnNetwork', { name: 'offices' });
const peerPath = (name: string, namespace = 'team-a'): string => apiPath('VpnPeer', { namespace, name });

async function add(name: string, spec: object, namespace = 'team-a'): Promise<void> {
  await plane.admin.apply(peerPath(name, namespace), peerManifest(name, spec, { namespace }));
}
/** The age of an object has whole seconds: the younger one has to be younger by one. */
const aSecond = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1_100));

const conditionOf = async (name: string, type: string, namespace?: string): Promise<Condition | undefined> => {
  const { status } = await plane.admin.get<{ status?: { conditions?: readonly Condition[] } }>(
    peerPath(name, namespace),
  );
  return status?.conditions?.find((condition) => condition.type === type);
};

const until = (name: string, type: string, wanted: string, namespace?: string): Promise<Condition | undefined> =>
  eventually(
    `${type} of ${name} is ${wanted}`,
    async () => {
      const found = await conditionOf(name, type, namespace);
      const said = found === undefined ? 'not there' : `${found.status} ${found.reason}`;
      return said === wanted ? { found } : undefined;
    },
    { timeoutMs: 20_000 },
  ).then(({ found }) => found);

const eventsOf = async (name: string): Promise<string[]> => {
  const { items } = await plane.admin.get<{ items: { reason: string; regarding: { name: string } }[] }>(
    apiPath('Event', { namespace: 'team-a' }),
  );
  return items.filter(({ regarding }) => regarding.name === name).map(({ reason }) => reason);
};

test('a peer whose network is not there yet is accepted when it comes', async () => {
  await add('first', { static: { peerID: 7 }, addresses: ['10.8.0.7'], routes: ['10.20.0.0/16'] });
  await until('first', 'Accepted', 'False NetworkNotFound');
  await plane.admin.apply(networkPath, networkManifest('offices'));
  await until('first', 'Accepted', 'True Accepted');
});

test.each([
  ['route', { static: { peerID: 8 }, addresses: ['10.8.0.8'], routes: ['10.20.128.0/17'] }, '10.20.128.0/17'],
  ['peer id', { static: { peerID: 7 }, addresses: ['10.8.0.9'], routes: [] }, 'peer id 7'],
  ['address', { static: { peerID: 10 }, addresses: ['10.8.0.7'], routes: [] }, '10.8.0.7'],
] as const)('the older of two that ask for one %s has it, and both are told', async (what, spec, named) => {
  await aSecond();
  const name = `second-${what.replace(' ', '-')}`;
  await add(name, spec);
  const refused = await until(name, 'Accepted', 'False Conflict');
  expect(refused?.message).toContain(named);
  expect(refused?.message).toContain('team-a/first');
  const contested = await until('first', 'Contested', 'True Conflict');
  expect(contested?.message).toContain(`team-a/${name}`);
  expect((await conditionOf('first', 'Accepted'))?.status).toBe('True');
  await eventually('an Event', async () => ((await eventsOf(name)).includes('Conflict') ? true : undefined));
  await plane.admin.delete(peerPath(name));
  await until('first', 'Contested', 'not there');
});

test('who is refused is accepted by itself when the older one goes', async () => {
  await add('heir', { static: { peerID: 7 }, addresses: ['10.8.0.7'], routes: ['10.20.0.0/16'] });
  await until('heir', 'Accepted', 'False Conflict');
  await plane.admin.delete(peerPath('first'));
  await until('heir', 'Accepted', 'True Accepted');
});

test('a route outside of what the network lends, and a namespace that it does not know, are refused', async () => {
  await add('greedy', { static: { peerID: 20 }, addresses: ['10.8.0.20'], routes: ['192.168.0.0/16'] });
  const greedy = await until('greedy', 'Accepted', 'False NotAllowed');
  expect(greedy?.message).toContain('192.168.0.0/16');
  const foreign = { static: { peerID: 21 }, addresses: ['10.8.0.21'], routes: [] };
  await add('foreign', foreign, 'team-b');
  await until('foreign', 'Accepted', 'False NotAllowed', 'team-b');
  const spec = { allowedPeers: { namespaces: { names: ['team-a', 'team-b'] }, routes: ['192.168.0.0/16'] } };
  await plane.admin.apply(networkPath, networkManifest('offices', spec));
  await until('greedy', 'Accepted', 'True Accepted');
  await until('foreign', 'Accepted', 'True Accepted', 'team-b');
  // What was accepted before is not, any more.
  await until('heir', 'Accepted', 'False NotAllowed');
});

test('a settled cluster is not written to', async () => {
  const writes = (): number =>
    plane.audit().filter(({ user, verb }) => user.username.endsWith(':ovpn-controller') && verb === 'patch').length;
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  const before = writes();
  await new Promise((resolve) => setTimeout(resolve, 10_000));
  // The lease is renewed by update.
  expect(writes()).toBe(before);
});
