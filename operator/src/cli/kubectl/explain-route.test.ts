import { afterEach, describe, expect, test } from '@jest/globals';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { KubeConfig } from '@kubernetes/client-node';
import { execInPod, exitCode } from './exec.ts';
import { nodeOf, parseExplanation } from './explain-route.ts';
import { agentOf, operatorPod, type OperatorPod } from './operator-pods.ts';

const servers: Server[] = [];
const sockets: Duplex[] = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of servers.splice(0)) server.close();
});

/** An API server that treats whoever wants a WebSocket in some way. */
async function upgrading(treat: (socket: Duplex) => void): Promise<KubeConfig> {
  const server = createServer();
  server.on('upgrade', (_request, socket) => treat(socket));
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const config = new KubeConfig();
  const { port } = server.address() as AddressInfo;
  // The library takes plain HTTP from nobody else.
  const cluster = { name: 'test', server: `http://127.0.0.1:${port}`, skipTLSVerify: true };
  config.loadFromClusterAndUser(cluster, { name: 'test' });
  return config;
}

const where = { namespace: 'ovpn-system', pod: 'ovpn-agent-1', container: 'agent' };

describe('running a command in a pod', () => {
  test.each([
    [403, 'AccessDenied', 'you may not run commands in pods of namespace ovpn-system', /`create`.* of pods\/exec/],
    [404, 'ExecFailed', 'container agent: is not there any more', /try again/],
    [500, 'ExecFailed', 'container agent: the API server answered 500', /try again/],
  ])('says what %i means', async (status, name, problem, remedy) => {
    const config = await upgrading((socket) => socket.end(`HTTP/1.1 ${status} No\r\ncontent-length: 0\r\n\r\n`));
    const cluster = { config, timeoutMs: 5_000 };
    await expect(execInPod(cluster, where, ['true'])).rejects.toMatchObject({
      name,
      problem,
      remedy: expect.stringMatching(remedy),
    });
  });

  test('gives up after the time of a request', async () => {
    const config = await upgrading((socket) => sockets.push(socket.on('error', () => undefined)));
    await expect(execInPod({ config, timeoutMs: 50 }, where, ['true'])).rejects.toMatchObject({
      name: 'ExecFailed',
      problem: 'container agent: no answer within 0.05 s',
    });
  });

  test.each([
    [{ status: 'Success' }, 0],
    [
      {
        status: 'Failure',
        reason: 'NonZeroExitCode',
        details: { causes: [{ reason: 'ExitCode', message: '3' }] },
      },
      3,
    ],
    [{ status: 'Failure', reason: 'InternalError', message: 'container not found ("agent")' }, undefined],
    [{}, undefined],
  ])('%j is the exit code %s', (status, code) => expect(exitCode(status)).toBe(code));
});

const podManifest = (fields: { spec?: object; status?: object; metadata?: object }) => ({
  metadata: {
    namespace: 'ovpn-system',
    name: 'ovpn-agent-1',
    labels: { 'app.kubernetes.io/component': 'agent', 'app.kubernetes.io/version': '0.1.0' },
    ...fields.metadata,
  },
  spec: { nodeName: 'n1', containers: [{ name: 'agent', args: ['--namespace=ovpn-system'] }], ...fields.spec },
  status: {
    phase: 'Running',
    conditions: [{ type: 'Ready', status: 'True' }],
    containerStatuses: [{ name: 'agent', image: 'ovpn:0.1.0', ready: true, restartCount: 0, state: { running: {} } }],
    ...fields.status,
  },
});
const pod = (fields: { spec?: object; status?: object; metadata?: object } = {}): OperatorPod => {
  const found = operatorPod(podManifest(fields));
  if (found === undefined) throw new Error('is no pod of the operator');
  return found;
};

describe('the agent of a node', () => {
  test('is the one that is placed there', () => {
    expect(agentOf([pod({ spec: { nodeName: 'n2' } }), pod()], 'n1', 'ovpn-system')).toMatchObject({
      name: 'ovpn-agent-1',
      node: 'n1',
      version: '0.1.0',
    });
  });

  test('is not the one that leaves, while another is there', () => {
    const leaving = pod({ metadata: { deletionTimestamp: '2026-01-01T00:00:00Z' } });
    const fresh = pod({ metadata: { name: 'ovpn-agent-2' } });
    expect(agentOf([leaving, fresh], 'n1', 'ovpn-system').name).toBe('ovpn-agent-2');
  });

  test('answers also when it is not ready', () => {
    const unready = { conditions: [{ type: 'Ready', status: 'False' }] };
    expect(agentOf([pod({ status: unready })], 'n1', 'ovpn-system').ready).toBe(false);
  });

  const crashing = {
    conditions: [],
    containerStatuses: [
      {
        name: 'agent',
        image: 'x',
        ready: false,
        restartCount: 7,
        state: { waiting: { reason: 'CrashLoopBackOff', message: 'back-off 5m0s' } },
        lastState: { terminated: { reason: 'OOMKilled', exitCode: 137, finishedAt: '2026-01-01T00:00:00Z' } },
      },
    ],
  };
  test.each<[string, OperatorPod[], string]>([
    ['no pods at all', [], 'namespace ovpn-system has no pods of agents'],
    ['another node', [pod({ spec: { nodeName: 'n2' } })], 'no agent is placed on the node'],
    ['a crash loop', [pod({ status: crashing })], 'container agent: CrashLoopBackOff: back-off 5m0s'],
  ])('%s', (_what, pods, problem) => {
    expect(() => agentOf(pods, 'n1', 'ovpn-system')).toThrow(problem);
  });

  test('tells how its process before ended', () => {
    expect(pod({ status: crashing }).containers).toMatchObject([{ restarts: 7, lastExit: 'OOMKilled (137)' }]);
  });

  test('is not placed, and says why', () => {
    const conditions = [
      { type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: '0/3 nodes are available' },
    ];
    const { problem } = pod({ spec: { nodeName: undefined }, status: { phase: 'Pending', conditions } });
    expect(problem).toBe('Unschedulable: 0/3 nodes are available');
  });
});

describe('the pod that sends', () => {
  test('is on its node', () => {
    expect(nodeOf({ spec: { nodeName: 'n1' }, status: { phase: 'Running' } }, 'Pod a/b')).toBe('n1');
  });

  test.each([
    [{ spec: { nodeName: 'n1', hostNetwork: true } }, 'Pod a/b: is on the network of its node (hostNetwork)'],
    [{ spec: {} }, 'Pod a/b: is on no node yet'],
    [{ spec: { nodeName: 'n1' }, status: { phase: 'Succeeded' } }, 'Pod a/b: has ended (Succeeded)'],
  ])('%j is refused', (object, problem) => expect(() => nodeOf(object, 'Pod a/b')).toThrow(problem));
});

describe('the answer of the agent', () => {
  const step = { result: 'ok', object: 'pod a/b', text: 'sends' };
  const answer = { destination: '10.0.0.1', reaches: true, steps: [step, { ...step, result: 'stop', remedy: 'x' }] };

  test('is taken as it is', () => expect(parseExplanation({ ...answer, more: 1 })).toEqual(answer));

  test.each([[], {}, { ...answer, steps: 'x' }, { ...answer, steps: [{ ...step, result: 'maybe' }] }])(
    '%j is none',
    (value) => expect(parseExplanation(value)).toBeUndefined(),
  );
});
