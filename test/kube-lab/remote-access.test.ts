import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { VpnPeer } from '../../operator/src/api/types.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { AgentProcess, type Host, Hosts, ping } from '../support/hosts.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import { profileOf } from '../support/kube/until.ts';
import { openvpn26, openvpn27, type OpenvpnBuild, OpenvpnProcess } from '../support/openvpn.ts';
import { eventually } from '../support/run.ts';
import { makeSigningCa } from '../support/signing-ca.ts';

/**
 * Remote access from nothing: what a person applies are a VpnNetwork, and a VpnKey and a VpnPeer for each client. The
 * controller and two agents do the rest, with the rights of their roles; stock clients take the profile as it is.
 */
const apiVersion = 'ovpn-operator.io/v1alpha1';
const namespace = 'team-a';

let hosts: Hosts;
let plane: ControlPlane;
let controller: ControllerProcess;
let nodes: readonly [Host, Host];
let agents: readonly AgentProcess[];

const apply = (...items: object[]): Promise<void> =>
  plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));

const network = (name = 'corp', port = 1194, builtIn: object = {}) => ({
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name },
  spec: {
    pools: { peers: ['10.80.0.0/24', 'fd80::/112'] },
    listeners: [
      { name: 'udp', port, endpoints: nodes.map(({ ipv4 }) => ({ address: ipv4 })) },
      { name: 'tcp', protocol: 'TCP', port, endpoints: [{ address: nodes[1].ipv4 }] },
    ],
    pki: { builtIn },
    keepalive: { intervalSeconds: 2, timeoutSeconds: 30 },
    allowedPeers: { namespaces: { names: [namespace] } },
  },
});

const vpnKey = (name: string, issued: object = {}) => ({
  apiVersion,
  kind: 'VpnKey',
  metadata: { namespace, name },
  spec: { issued: { networkRef: { name: 'corp' }, ...issued } },
});

const vpnPeer = (name: string, spec: object = {}) => ({
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace, name },
  spec: { networkRef: { name: 'corp' }, identity: { key: name }, ...spec },
});

const peerOf = (name: string) =>
  plane.admin.get<VpnPeer & Record<string, unknown>>(apiPath('VpnPeer', { namespace, name }));

async function connect(name: string, build: OpenvpnBuild, onlyNode?: Host): Promise<OpenvpnProcess> {
  let profile = await profileOf(plane.admin, namespace, name);
  if (onlyNode !== undefined)
    profile = profile.replaceAll(/^remote (\S+) .*\n/gm, (line, address) => (address === onlyNode.ipv4 ? line : ''));
  const client = OpenvpnProcess.startFile(await hosts.host(name), build, profile);
  await client.connected(1, 120_000);
  return client;
}

const isConnected = ({ status }: VpnPeer): boolean =>
  status?.conditions?.some(({ type, status: is }) => type === 'Connected' && is === 'True') === true;

/** How long it takes from now until the client has heard that it has no tunnel any more. Milliseconds. */
async function untilEnded(client: OpenvpnProcess): Promise<number> {
  const started = Date.now();
  await client.until(/AUTH_FAILED|Connection reset|SIGUSR1|process restarting|server-pushed-connection-reset/);
  return Date.now() - started;
}

beforeAll(async () => {
  hosts = await Hosts.create('kacc');
  plane = await ControlPlane.start({ host: await hosts.host('api') });
  nodes = [await hosts.host('node1'), await hosts.host('node2')];
  await plane.namespace(namespace);
  controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
  await controller.start();
  agents = await Promise.all(
    nodes.map(async (node) => new AgentProcess(node, ['--status-interval', '1'], await plane.agentOf(node.name))),
  );
  await Promise.all(agents.map((agent) => agent.start()));
  await apply(network(), ...['ann', 'bea', 'cid', 'dan', 'eve'].flatMap((name) => [vpnKey(name), vpnPeer(name)]));
}, 600_000);
afterAll(async () => {
  await controller.stop();
  await hosts.remove();
}, 60_000);

describe('a client', () => {
  test.each([
    ['ann', openvpn26],
    ['bea', openvpn27],
  ] as const)('%s connects by its profile alone, %s', async (name, build) => {
    const client = await connect(name, build);
    const peer = await eventually('its status', async () => {
      const found = await peerOf(name);
      return isConnected(found) ? found : undefined;
    });
    const [address] = peer.status?.addresses ?? [];
    expect(address).toMatch(/^10\.80\.0\./);
    // The gateway that it was pushed is its node's own address, which was allocated, too.
    const gateway = /route-gateway (\S+?),/.exec(client.log)?.[1] ?? '';
    const { received } = await ping(`/run/netns/${client.host.namespace}`, gateway, { count: 3 });
    expect(received).toBeGreaterThanOrEqual(3);
    await client.end();
  });
});

test("a client of a network that signs with a person's CA connects by its profile alone", async () => {
  const { certificate, key, root } = makeSigningCa();
  await plane.admin.apply(apiPath('Secret', { namespace: 'ovpn-system-ca', name: 'company-ca' }), {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { namespace: 'ovpn-system-ca', name: 'company-ca' },
    stringData: { 'tls.crt': certificate, 'tls.key': key, 'ca.crt': root },
  });
  const networkRef = { name: 'company' };
  await apply(
    network('company', 1195, { caSecretRef: { name: 'company-ca' } }),
    vpnKey('fay', { networkRef }),
    vpnPeer('fay', { networkRef }),
  );
  const client = await connect('fay', openvpn27);
  await eventually('its status', async () => (isConnected(await peerOf('fay')) ? true : undefined));
  await client.end();
});

describe('within five seconds', () => {
  test.each([
    ['cid', 'its VpnKey is revoked', () => apply(vpnKey('cid', { revoked: true }))],
    ['dan', 'its VpnKey is deleted', () => plane.admin.delete(apiPath('VpnKey', { namespace, name: 'dan' }))],
    ['eve', 'its VpnPeer is deleted', () => plane.admin.delete(apiPath('VpnPeer', { namespace, name: 'eve' }))],
  ] as const)('the session of %s ends when %s, and it does not come back', async (name, _, revoke) => {
    // On the second node, and while the controller is away: agents need nobody for this.
    const client = await connect(name, openvpn27, nodes[1]);
    await controller.stop('SIGKILL');
    await revoke();
    expect(await untilEnded(client)).toBeLessThan(5000);
    await client.until(/AUTH_FAILED/);
    await client.end('SIGKILL');
    await controller.start();
  });
});
