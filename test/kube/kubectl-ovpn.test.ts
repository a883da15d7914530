import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { version } from '../../operator/src/version.ts';
import { apiPath } from '../../operator/src/cluster/resource-path.ts';
import { agentFieldManager } from '../../operator/src/cluster/status-writer.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { ControllerProcess } from '../support/kube/controller-process.ts';
import type { KubeUser } from '../support/kube/kube-user.ts';
import { KubectlPlugin } from '../support/kube/kubectl-plugin.ts';
import { screenProgress } from '../lab/progress.ts';
import { needShells } from '../programs/shells.ts';
import { bashCompletes, type Completion, fishOffers, zshCompletes } from '../support/shells.ts';
import { attempt, eventually, type Finished, type Service } from '../support/run.ts';

/** `kubectl ovpn` as a person runs it, on a real API server with the real controller; the test speaks for the agents. */

const apiVersion = 'ovpn-operator.io/v1alpha1';
const transition = '2026-01-02T03:04:05Z';

let plane: ControlPlane;
let plugin: KubectlPlugin;
let controller: ControllerProcess | undefined;
let agent: KubeUser;

const ovpn = (...args: string[]): Promise<Finished> => plugin.run(plane.admin.kubeconfig, ...args);
const apply = (...items: object[]): Promise<void> =>
  plane.admin.applyYaml(JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));

const network = {
  apiVersion,
  kind: 'VpnNetwork',
  metadata: { name: 'corp' },
  spec: {
    pools: { peers: ['10.8.0.0/16'] },
    listeners: [{ name: 'udp', port: 1194, endpoints: [{ address: 'vpn.example.com' }] }],
    pki: { builtIn: {} },
    allowedPeers: { namespaces: { names: ['team-a', 'team-b'] } },
  },
};
const client = (namespace: string, name: string) => [
  { apiVersion, kind: 'VpnKey', metadata: { namespace, name }, spec: { issued: { networkRef: { name: 'corp' } } } },
  {
    apiVersion,
    kind: 'VpnPeer',
    metadata: { namespace, name },
    spec: { networkRef: { name: 'corp' }, identity: { key: name } },
  },
];

const condition = (type: string, status: string, reason: string, observedGeneration: number, message = '') => ({
  ...{ type, status, reason, message, observedGeneration, lastTransitionTime: transition },
});

/** What an agent says of a peer that is connected, or waits for its client. */
async function say(namespace: string, name: string, traffic?: { rxBytes: number; txBytes: number }): Promise<void> {
  const path = apiPath('VpnPeer', { namespace, name });
  const { metadata } = await plane.admin.get<{ metadata: { uid: string; generation: number } }>(path);
  const { generation } = metadata;
  const up = traffic !== undefined;
  const [status, reason] = up ? (['True', undefined] as const) : (['False', 'WaitingForClient'] as const);
  const conditions = [
    condition('Accepted', 'True', 'Accepted', generation),
    condition('ResolvedRefs', 'True', 'ResolvedRefs', generation),
    condition('Connected', status, reason ?? 'Connected', generation),
    condition('Programmed', status, up ? 'Programmed' : 'Pending', generation),
    condition('Ready', status, reason ?? 'Ready', generation),
  ];
  const facts = {
    node: 'node-a',
    endpoint: '192.0.2.7:40000',
    since: transition,
    addresses: ['10.8.0.9'],
    peerID: 8_388_608,
  };
  await agent.apply(
    `${path}/status`,
    {
      ...{ apiVersion, kind: 'VpnPeer', metadata: { namespace, name, uid: metadata.uid } },
      status: {
        ...{ observedGeneration: generation, conditions },
        ...(up ? { ...facts, traffic: { ...traffic, rxPackets: 1, txPackets: 1 } } : {}),
      },
    },
    { manager: agentFieldManager('node-a') },
  );
}

/** What the agent of the only node says of the network. */
async function sayNetwork(ready: boolean): Promise<void> {
  const path = apiPath('VpnNetwork', { name: 'corp' });
  const entry = { name: 'node-a', ready, addresses: ['10.8.0.1'], podBlocks: [], peers: 1, attachments: 0 };
  const message = 'the kernel has no ovpn driver; to mend it: load the module [OVPN301]';
  await agent.apply(
    `${path}/status`,
    { ...network, spec: undefined, status: { nodes: [ready ? entry : { ...entry, message }] } },
    { manager: agentFieldManager('node-a') },
  );
}

/** A kubeconfig file of the administrator with something changed. */
function kubeconfigWith(name: string, change: { readonly server?: string }): string {
  const path = join(plane.folder, name);
  plane.admin.writeKubeconfig(path, change.server);
  return path;
}

beforeAll(async () => {
  plugin = await KubectlPlugin.build();
  plane = await ControlPlane.start({ bare: true, controllers: true });
}, 300_000);
afterAll(async () => {
  await controller?.stop();
  await plane.stop();
  plugin.remove();
}, 60_000);

describe('before anything is there', () => {
  test('kubectl finds the plugin', async () => {
    expect(await ovpn('version')).toEqual({ code: 0, stdout: `kubectl-ovpn ${version}\n`, stderr: '' });
  });

  test.each(['status', 'peers'])('%s says that the operator is not installed', async (command) => {
    const { code, stdout, stderr } = await ovpn(command);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^kubectl ovpn: the cluster has no vpn\w+\.ovpn-operator\.io; to mend it: .*\[OVPN601\]\n$/);
  });

  test('a context that is not there is named', async () => {
    const { code, stderr } = await ovpn('status', '--context', 'tset');
    expect(code).toBe(2);
    expect(stderr).toMatch(/there is no context "tset" in the kubeconfig; did you mean "test"\?/);
  });

  test('without a kubeconfig it says so', async () => {
    const { code, stderr } = await plugin.run(join(plugin.folder, 'nowhere'), 'peers');
    expect(code).toBe(2);
    expect(stderr).toMatch(/kubeconfig/);
    expect(stderr).not.toMatch(/skipTLSVerify/);
  });

  test('a server that cannot be reached, or does not answer, is told', async () => {
    const refused = await plugin.run(kubeconfigWith('gone', { server: 'https://127.0.0.1:1' }), 'status');
    expect(refused).toMatchObject({ code: 2, stdout: '' });
    expect(refused.stderr).toMatch(/cannot be read: .*ECONNREFUSED.*\[OVPN112\]/);
    const silent = createServer();
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    const kubeconfig = kubeconfigWith('silent', { server: `https://127.0.0.1:${port}` });
    const waited = await plugin.run(kubeconfig, 'status', '--request-timeout', '1s');
    silent.close();
    expect(waited).toMatchObject({ code: 2, stdout: '' });
    expect(waited.stderr).toMatch(/no answer within 1 s/);
  });
});

describe('on a cluster', () => {
  beforeAll(async () => {
    await plane.install();
    for (const name of ['team-a', 'team-b']) await plane.namespace(name);
    agent = await plane.agentOf('node-a');
    controller = new ControllerProcess('ovpn-controller-0', await plane.controller());
    await controller.start();
    const empty = await ovpn('status');
    expect(empty).toMatchObject({ code: 0, stdout: 'There is no VpnNetwork.\n' });
    await apply(network, ...client('team-a', 'alice'), ...client('team-b', 'bob'));
    await sayNetwork(true);
    await say('team-a', 'alice', { rxBytes: 2048, txBytes: 5 });
    await say('team-b', 'bob');
    await eventually('all is well', async () => ((await ovpn('status')).code === 0 ? true : undefined));
  }, 120_000);

  test('status shows what is well', async () => {
    const { code, stdout, stderr } = await ovpn('status');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toBe('NETWORK   NODES   PEERS   STATE\ncorp      1/1     1/2     Ready\n');
    const json = await ovpn('status', 'corp', '-o', 'json');
    expect(JSON.parse(json.stdout)).toMatchObject({
      networks: [
        { name: 'corp', nodesReady: 1, peersConnected: 1, peers: 2, nodes: [{ name: 'node-a', ready: true }] },
      ],
      findings: [],
    });
    expect(await ovpn('status', 'crop')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('did you mean "corp"?'),
    });
  });

  test('status leaves with 1 and a remedy when something is not well', async () => {
    await sayNetwork(false);
    const { stdout } = await eventually('the controller sums it up', async () => {
      const said = await ovpn('status');
      return said.code === 1 && said.stdout.includes('Ready: NodesNotReady') ? said : undefined;
    });
    expect(stdout).toMatch(/^corp {6}0\/1 {5}1\/2 {5}NodesNotReady$/m);
    expect(stdout).toMatch(
      /VpnNetwork corp on node node-a: NotReady\n {2}the kernel has no ovpn driver \[OVPN301\]\n {2}to mend it: load the module\n/,
    );
    await sayNetwork(true);
    await eventually('all is well', async () => ((await ovpn('status')).code === 0 ? true : undefined));
    // Nobody takes up this change: the agent that would is the test.
    await plane.admin.merge(apiPath('VpnPeer', { namespace: 'team-b', name: 'bob' }), { spec: { suspend: true } });
    const stale = await ovpn('status');
    expect(stale.code).toBe(1);
    expect(stale.stdout).toContain(
      'VpnPeer team-b/bob: Stale\n  what is said of it is of generation 1, and it has generation 2\n',
    );
    await plane.admin.merge(apiPath('VpnPeer', { namespace: 'team-b', name: 'bob' }), { spec: { suspend: false } });
    await say('team-b', 'bob');
    await eventually('all is well', async () => ((await ovpn('status')).code === 0 ? true : undefined));
  }, 120_000);

  test('peers shows who is connected, of one namespace or of all', async () => {
    const all = await ovpn('peers', '-A');
    expect(all).toMatchObject({ code: 0, stderr: '' });
    const [header, alice, bob] = all.stdout.split('\n');
    expect(header).toMatch(/^NAMESPACE +NAME +NETWORK +KIND +STATE +NODE +ADDRESSES +ENDPOINT +SINCE +RX +TX$/);
    expect(alice).toMatch(
      /^team-a +alice +corp +dial-in +Connected +node-a +10\.8\.0\.9 +192\.0\.2\.7:40000 +\S+ +2\.0 KiB +5 B$/,
    );
    expect(bob).toMatch(/^team-b +bob +corp +dial-in +WaitingForClient +- +10\.8\.\d+\.\d+ +- +- +- +-$/);
    const one = await ovpn('peers', 'corp', '-n', 'team-b', '-o', 'json');
    expect(JSON.parse(one.stdout)).toMatchObject({ peers: [{ namespace: 'team-b', name: 'bob' }] });
    const none = await ovpn('peers');
    expect(none).toMatchObject({
      code: 0,
      stdout: '',
      stderr: 'there is no VpnPeer in namespace default; -A looks at all\n',
    });
  });

  test('peers -w goes on, also after the API server was away', async () => {
    const watch: Service = plugin.start(plane.admin.kubeconfig, 'peers', '-A', '-w');
    const shows = (what: RegExp): Promise<true> =>
      eventually(`${what}`, () => {
        if (!watch.running) throw new Error(`it ended: ${watch.log}`);
        return what.test(watch.log) ? true : undefined;
      });
    try {
      await shows(/bob .*WaitingForClient/);
      await say('team-b', 'bob', { rxBytes: 3, txBytes: 4 });
      await shows(/bob .*Connected .*3 B {3,}4 B\n/);
      await plane.killApiServer();
      await plane.startApiServer();
      await say('team-b', 'bob', { rxBytes: 7, txBytes: 4 });
      await shows(/bob .*Connected .*7 B {3,}4 B\n/);
      await plane.admin.delete(apiPath('VpnPeer', { namespace: 'team-b', name: 'bob' }));
      await shows(/bob .*Deleted /);
      expect(watch.log.match(/NAMESPACE/g)).toHaveLength(1);
      expect(watch.log.match(/^team-a +alice /gm)).toHaveLength(1);
    } finally {
      await watch.end();
    }
    await apply(...client('team-b', 'bob'));
    await say('team-b', 'bob');
  }, 180_000);

  test('profile prints what the controller made', async () => {
    const secret = await plane.admin.get<{ data: Record<string, string> }>(
      apiPath('Secret', { namespace: 'team-a', name: 'alice' }),
    );
    const text = Buffer.from(secret.data['client.ovpn'] ?? '', 'base64').toString();
    expect(text).toMatch(/^client\n[^]*remote vpn\.example\.com 1194 udp\n[^]*<tls-crypt-v2>/);
    expect(await ovpn('profile', 'alice', '-n', 'team-a')).toEqual({ code: 0, stdout: text, stderr: '' });
    const qr = await ovpn('profile', 'alice', '-n', 'team-a', '--qr');
    expect(qr).toMatchObject({ code: 0, stderr: '' });
    const lines = qr.stdout.trimEnd().split('\n');
    expect(new Set(lines.map(({ length }) => length)).size).toBe(1);
    expect(lines[0]!.length).toBeGreaterThan(2 * lines.length - 3);
    const missing = await ovpn('profile', 'alcie', '-n', 'team-a');
    expect(missing).toMatchObject({ code: 2, stdout: '' });
    expect(missing.stderr).toMatch(
      /there is no VpnPeer alcie in namespace team-a; did you mean "alice"\?.*\[OVPN603\]/,
    );
  });

  test('profile says why there is none', async () => {
    await apply({ ...client('team-b', 'bob')[0], spec: { issued: { networkRef: { name: 'corp' }, revoked: true } } });
    const revoked = await eventually('it is revoked', async () => {
      const said = await ovpn('profile', 'bob', '-n', 'team-b');
      return said.code === 2 ? said : undefined;
    });
    expect(revoked.stderr).toMatch(/VpnPeer team-b\/bob: VpnKey team-b\/bob has no Secret: .*revoked.*\[OVPN604\]/);
    // What is revoked on purpose is well.
    await eventually('all is well', async () => ((await ovpn('status')).code === 0 ? true : undefined));
  });

  test('kubectl completes it, also with the names of the cluster', async () => {
    const script = await ovpn('completion', 'kubectl');
    writeFileSync(join(plugin.folder, 'kubectl_complete-ovpn'), script.stdout, { mode: 0o755 });
    const completed = async (...words: string[]): Promise<string[]> => {
      const { code, stdout } = await plugin.kubectl(plane.admin.kubeconfig, '__complete', 'ovpn', ...words);
      expect(code).toBe(0);
      return stdout.trimEnd().split('\n');
    };
    expect(await completed('pee')).toEqual([
      'peers\tList peers: kind, node, addresses, traffic, and why one is not connected.',
      ':4',
    ]);
    expect(await completed('profile', '-n', 'team-a', '')).toEqual(['alice\tcorp', ':4']);
    expect(await completed('logs', '--node', '')).toEqual(['node-a', ':4']);
  });

  describe('is completed, with names of the cluster, by', () => {
    /** The lines, what stands there after the tabulator, and what is offered where there is more than one way to go on. */
    type Case = readonly [line: string, after: string, offered: readonly string[]];
    const cases = (): Case[] => [
      ['kubectl-ovpn prof', 'kubectl-ovpn profile ', []],
      ['kubectl-ovpn p', 'kubectl-ovpn p', ['peers', 'profile']],
      ['kubectl-ovpn profile -n team-a ', 'kubectl-ovpn profile -n team-a alice ', []],
      ['kubectl-ovpn peers --output=', 'kubectl-ovpn peers --output=', ['json', 'text', 'wide', 'yaml']],
      ['kubectl-ovpn peers --output=j', 'kubectl-ovpn peers --output=json ', []],
      ['kubectl-ovpn peers -oj', 'kubectl-ovpn peers -ojson ', []],
      [`kubectl-ovpn --kubeconfig=${plugin.file.slice(0, -2)}`, `kubectl-ovpn --kubeconfig=${plugin.file} `, []],
    ];
    /** The same as a plugin, by what kubectl prints for the shell. */
    const plugged: readonly Case[] = [
      ['kubectl ovpn prof', 'kubectl ovpn profile ', []],
      ['kubectl ovpn logs --node ', 'kubectl ovpn logs --node node-a ', []],
      ['kubectl ovpn peers -oj', 'kubectl ovpn peers -ojson ', []],
    ];
    const lines = (wanted: readonly Case[]): string[] => wanted.map(([line]) => line);
    const env = (): NodeJS.ProcessEnv => plugin.env(plane.admin.kubeconfig);
    /** The first word of each candidate: others are a description. */
    const names = (shown: readonly string[]): string[] =>
      shown.flatMap((row) => (/ -- /.test(row) ? [row.split(' ')[0]!] : row.split(/\s+/)));
    const seen = (completions: readonly Completion[]): unknown =>
      completions.map(({ line, shown }) => [line, names(shown)]);
    const wanted = (all: readonly Case[]): unknown => all.map(([, after, offered]) => [after, offered]);

    beforeAll(() => needShells(screenProgress('shells')), 300_000);

    test('bash', async () => {
      const found = await bashCompletes(env(), 'source <(kubectl-ovpn completion bash)', lines(cases()));
      expect(seen(found)).toEqual(wanted(cases()));
    });

    test('zsh', async () => {
      const setup = 'source <(kubectl-ovpn completion zsh)\nsource <(kubectl completion zsh)';
      const all = [...cases(), ...plugged];
      expect(seen(await zshCompletes(env(), setup, lines(all)))).toEqual(wanted(all));
    });

    test('zsh, of a folder of fpath', async () => {
      const { stdout } = await attempt(plugin.file, ['completion', 'zsh'], { env: env() });
      writeFileSync(join(plugin.folder, '_kubectl-ovpn'), stdout);
      const setup = `fpath=('${plugin.folder}' $fpath); compinit -u -D`;
      const two = cases().slice(0, 2);
      expect(seen(await zshCompletes(env(), setup, lines(two)))).toEqual(wanted(two));
    });

    test('fish', async () => {
      const setup = 'kubectl-ovpn completion fish | source\nkubectl completion fish | source';
      const all = [...cases(), ...plugged];
      const found = await fishOffers(env(), setup, lines(all));
      // It offers whole words.
      const offered = all.map(([line, after, more]) => {
        const [typed = '', last = ''] = [line, after].map((text) => text.trimEnd().split(' ').at(-1)!);
        const head = /^-[^=]*=/.exec(typed)?.[0] ?? '';
        return more.length === 0 ? [last] : more.map((word) => head + word);
      });
      expect(found.map((words) => words.map((word) => word.split('\t')[0]))).toEqual(offered);
    });
  });

  test('logs says where it looked for the operator', async () => {
    const { code, stderr } = await ovpn('logs', '--operator-namespace', 'team-a');
    expect(code).toBe(2);
    expect(stderr).toMatch(/namespace team-a has no pod of the operator; .*--operator-namespace.*\[OVPN603\]/);
  });

  test('ends well when nobody reads on', async () => {
    const script = 'kubectl ovpn peers -A -w | head -n 1; echo "${PIPESTATUS[0]}"';
    const settings = Object.entries(plugin.env(plane.admin.kubeconfig)).map(
      ([name, value]) => `${name}=${value ?? ''}`,
    );
    const running = attempt('env', ['-i', ...settings, 'timeout', '60', 'bash', '-c', script]);
    const ending = { over: false };
    void running.finally(() => (ending.over = true));
    // It notices with its next line.
    for (let rxBytes = 4096; !ending.over; rxBytes += 1024) {
      await say('team-a', 'alice', { rxBytes, txBytes: 5 });
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    const done = await running;
    expect(done.stderr).toBe('');
    expect(done.stdout).toMatch(/^NAMESPACE .*\n0\n$/);
  }, 90_000);
});

describe('with the rights of `view` alone', () => {
  let everywhere: KubeUser;
  let inside: KubeUser;

  beforeAll(async () => {
    everywhere = await plane.account('team-a', 'watcher');
    inside = await plane.account('team-a', 'member');
    const rbac = {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'view' },
    };
    const subject = (name: string) => ({ subjects: [{ kind: 'ServiceAccount', namespace: 'team-a', name }] });
    await apply(
      { ...rbac, kind: 'ClusterRoleBinding', metadata: { name: 'watcher' }, ...subject('watcher') },
      { ...rbac, kind: 'RoleBinding', metadata: { namespace: 'team-a', name: 'member' }, ...subject('member') },
    );
    await eventually('the roles are joined', async () => {
      const { status } = await everywhere.send('GET', apiPath('VpnNetwork'));
      return status === 200 ? true : undefined;
    });
  }, 90_000);

  test('in the whole cluster: everything but the profiles', async () => {
    expect(await plugin.run(everywhere.kubeconfig, 'status')).toEqual(await ovpn('status'));
    expect((await plugin.run(everywhere.kubeconfig, 'peers', '-A')).code).toBe(0);
    const profile = await plugin.run(everywhere.kubeconfig, 'profile', 'alice', '-n', 'team-a');
    expect(profile).toMatchObject({ code: 2, stdout: '' });
    expect(profile.stderr).toMatch(/you may not get secrets in namespace team-a; .*\[OVPN602\]/);
  });

  test('in one namespace: what is in it, and what is left out', async () => {
    const refused = await plugin.run(inside.kubeconfig, 'status');
    expect(refused).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/you may not list vpnpeers\.ovpn-operator\.io in namespace default/),
    });
    const { code, stdout } = await plugin.run(inside.kubeconfig, 'status', '-n', 'team-a');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^corp +\?\/\? +1\/1 +\?$/m);
    expect(stdout).toContain('you may not list vpnnetworks.ovpn-operator.io');
    const own = kubeconfigOf(inside, 'team-a');
    const narrowed = await plugin.run(own, 'status');
    expect(narrowed.stdout).toContain('you may not look into all namespaces: shown is namespace team-a');
    expect(await plugin.run(own, 'peers')).toMatchObject({ code: 0, stdout: expect.stringMatching(/^alice /m) });
    const all = await plugin.run(own, 'peers', '-A');
    expect(all).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('[OVPN602]') });
  });
});

/** The same with a namespace in its context, as a member of a team has it. */
function kubeconfigOf(user: KubeUser, namespace: string): string {
  const { name, server, ca, token } = user.credentials;
  const path = join(plane.folder, `${name}-${namespace}.kubeconfig`);
  const cluster = { server, 'certificate-authority-data': Buffer.from(ca).toString('base64') };
  const config = {
    ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'own' },
    clusters: [{ name: 'own', cluster }],
    users: [{ name: 'own', user: { token } }],
    contexts: [{ name: 'own', context: { cluster: 'own', user: 'own', namespace } }],
  };
  writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
  return path;
}
