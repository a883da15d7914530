import { apiVersion } from '../../../operator/src/api/types.ts';
import { apiPath } from '../../../operator/src/cluster/resource-path.ts';
import { AgentProcess, Hosts } from '../../support/hosts.ts';
import { KernelView } from '../../support/kernel-view.ts';
import { ControlPlane } from '../../support/kube/control-plane.ts';
import { ControllerProcess } from '../../support/kube/controller-process.ts';
import { newStaticKey } from '../../support/manifests.ts';
import { eventually } from '../../support/run.ts';
import { percentile, type Row, row, type SuiteContext } from '../suite.ts';
import { PeerWatch } from './peer-watch.ts';

const peers = 50;
const namespace = 'offices';
const networkName = 'corp';

/** The whole way of a VpnPeer: from the POST to the API server into the kernel, and to the status that says so. */
export async function applySuite({ progress }: SuiteContext): Promise<Row[]> {
  const hosts = await Hosts.create('bench');
  let watch: PeerWatch | undefined;
  try {
    progress('starting an API server; in user-mode Linux that takes minutes');
    const plane = await ControlPlane.start({ host: await hosts.host('api') });
    await plane.namespace(namespace);
    const controller = new ControllerProcess('controller', await plane.controller());
    hosts.onCleanup(() => controller.stop());
    await controller.start();
    const node = await hosts.host('node');
    const agent = new AgentProcess(node, [], await plane.agentOf(node.name));
    await agent.start();
    progress(`a network and ${peers} keys`);
    await applyNetwork(plane, node.name);
    await agent.until('the network stands', ({ networks }) => networks[0]?.device !== undefined);
    watch = await PeerWatch.start(plane.admin.kubeconfig, namespace);

    progress(`${peers} peers, one after the other`);
    const kernel = new KernelView(agent);
    const times = { post: [] as number[], toKernel: [] as number[], toStatus: [] as number[] };
    for (let id = 1; id <= peers; id++) {
      const begun = performance.now();
      const said = watch.untilSaid(`${namespace}/${nameOf(id)}`);
      await plane.admin.must('POST', apiPath('VpnPeer', { namespace }), peerOf(id));
      times.post.push(performance.now() - begun);
      await eventually('the kernel has it', () => (kernel.peer(id) === undefined ? undefined : true), { stepMs: 5 });
      times.toKernel.push(performance.now() - begun);
      times.toStatus.push((await said) - begun);
    }
    return (['toKernel', 'toStatus'] as const).flatMap((what) =>
      ([0.5, 0.99] as const).map((share) =>
        row('apply', `${what === 'toKernel' ? 'kernel' : 'status'}.p${share * 100}`, 'ms', {
          ours: [percentile(times[what], share)],
          peer: [percentile(times.post, share)],
          peerName: 'the POST of the VpnPeer alone',
        }),
      ),
    );
  } finally {
    await watch?.stop();
    await hosts.remove();
  }
}

const nameOf = (id: number): string => `office-${id}`;

async function applyNetwork(plane: ControlPlane, node: string): Promise<void> {
  const key = (name: string): object[] => [
    {
      apiVersion,
      kind: 'VpnKey',
      metadata: { namespace, name },
      spec: { static: { secretRef: { name }, direction: 'Normal' } },
    },
    { apiVersion: 'v1', kind: 'Secret', metadata: { namespace, name }, stringData: { 'static.key': newStaticKey() } },
  ];
  const network = {
    apiVersion,
    kind: 'VpnNetwork',
    metadata: { name: networkName },
    spec: {
      pools: { peers: ['10.80.0.0/16'] },
      nodes: [{ name: node, addresses: ['10.80.255.1'] }],
      listeners: [{ name: 'udp', port: 1194 }],
      mtu: 1400,
      allowedPeers: { namespaces: { names: [namespace] } },
    },
  };
  const keys = Array.from({ length: peers }, (_, index) => key(nameOf(index + 1))).flat();
  await plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [network, ...keys] }));
}

/** A remote with a shared key: the kernel has it as soon as it is applied. */
const peerOf = (id: number): object => ({
  apiVersion,
  kind: 'VpnPeer',
  metadata: { namespace, name: nameOf(id) },
  spec: {
    networkRef: { name: networkName },
    endpoint: { address: '203.0.113.99', port: 1194 },
    keyRef: { name: nameOf(id) },
    static: { peerID: id },
    addresses: [`10.80.0.${id}`],
  },
});
