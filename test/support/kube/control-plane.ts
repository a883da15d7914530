import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer, connect, type Server } from 'node:net';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { definitions } from '../../../operator/src/api/definitions.ts';
import { apiPath } from '../../../operator/src/cluster/resource-path.ts';
import { tied } from '../../lab/run.ts';
import { programPath } from '../../programs/location.ts';
import type { Host } from '../hosts.ts';
import { Pki } from '../pki.ts';
import { eventually, Service } from '../run.ts';
import { type AuditEvent, auditPolicy, readAuditLog } from './audit.ts';
import { renderText, roleTemplates } from './chart.ts';
import { KubeUser } from './kube-user.ts';
import { claimLoopback, type LoopbackAddress } from './loopback.ts';

const projectRoot = join(import.meta.dirname, '../../..');
/** The operator's namespace. */
export const systemNamespace = 'ovpn-system';
const apiPort = 6443;
const etcdPort = 2379;
/** What the cluster's Services get; the first address is the API server's own Service. */
const serviceRange = '10.96.0.0/16';
/** The address of the Service `kubernetes`, by which pods call the API server. */
export const serviceAddress = '10.96.0.1';
/** The kinds that need some controller of Kubernetes' own; the others would only cost time. */
const kubeControllers = ['namespace-controller', 'garbage-collector-controller', 'clusterrole-aggregation-controller'];
/** What makes pods of workloads, gives them accounts, and lets nodes take them. */
const workloadControllers = [
  ...['daemonset-controller', 'deployment-controller', 'replicaset-controller', 'node-lifecycle-controller'],
  ...['serviceaccount-controller', 'root-ca-certificate-publisher-controller', 'pod-garbage-collector-controller'],
];
/** Who the API server is to kubelets. */
const kubeletClient = 'kube-apiserver-kubelet-client';

export interface ControlPlaneOptions {
  /** Runs on this host of the lab, where agents on other hosts reach it; else on the machine itself. */
  readonly host?: Host;
  /** Also deletes what is in deleted namespaces and what loses its owners, and joins roles, as every cluster does. */
  readonly controllers?: boolean;
  /** Nodes that kubelets will run: their workloads become pods, and these are placed. */
  readonly nodes?: readonly string[];
  /** Without our CRDs, namespace and roles: for tests that bring their own. */
  readonly bare?: boolean;
}

/**
 * A real Kubernetes control plane: etcd and kube-apiserver (RBAC on), with our CRDs and the roles of the chart, in a
 * few seconds. Any number of them run side by side.
 *
 *     const plane = await ControlPlane.start();
 *     await plane.admin.apply('/apis/…/vpnnetworks/corp', network);      // a person, or the test itself
 *     const agent = await plane.agentOf('node-a');                       // our processes: their own rights only
 *     const source = new ApiSource({ access: kubeAccess(agent), … });    // or a process with agent.kubeconfig
 *     plane.audit();                                                     // every request that was made
 *     await plane.stop();
 */
export class ControlPlane {
  readonly folder: string;
  /** The API server's address for this process, and for agents in the lab. */
  readonly server: string;
  readonly serverForHosts: string;
  readonly admin: KubeUser;
  readonly #options: ControlPlaneOptions;
  readonly #bind: string;
  readonly #ca: string;
  readonly #claim: LoopbackAddress;
  readonly #users: KubeUser[] = [];
  #etcd: Service | undefined;
  #apiserver: Service | undefined;
  readonly #managers: Service[] = [];
  readonly #kubelets = new Map<string, KubeUser>();
  #way: { readonly inside: Service; readonly outside: Server } | undefined;
  #auditRead = 0;
  readonly #audit: AuditEvent[] = [];

  /** Starts one. @throws LabError when its programs are not built */
  static async start(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
    const plane = new ControlPlane(options, await claimLoopback());
    options.host?.hosts.onCleanup(() => plane.stop());
    try {
      await plane.#begin();
      if (options.bare !== true) await plane.install();
      return plane;
    } catch (error) {
      await plane.stop();
      throw error;
    }
  }

  private constructor(options: ControlPlaneOptions, claim: LoopbackAddress) {
    const { address: loopback } = claim;
    this.#options = options;
    this.#claim = claim;
    this.folder = mkdtempSync(join(tmpdir(), 'ovpn-kube-'));
    this.#bind = options.host?.ipv4 ?? loopback;
    this.server = `https://${loopback}:${apiPort}`;
    this.serverForHosts = `https://${this.#bind}:${apiPort}`;
    const token = randomBytes(24).toString('base64url');
    const kubelets = (options.nodes ?? []).map((node) => ({ node, token: randomBytes(24).toString('base64url') }));
    const tokens = [
      `${token},test-admin,test-admin,"system:masters"`,
      ...kubelets.map((one) => `${one.token},system:node:${one.node},${one.node},"system:nodes"`),
    ];
    this.#ca = this.#writeCredentials(loopback, tokens);
    this.admin = this.#user('admin', token);
    for (const { node, token: own } of kubelets) this.#kubelets.set(node, this.#userOnHosts(`kubelet-${node}`, own));
  }

  #user(name: string, token: string): KubeUser {
    const user = new KubeUser(this.folder, programPath('kubectl'), { name, server: this.server, ca: this.#ca, token });
    this.#users.push(user);
    return user;
  }

  /** The same for a process on a host of the lab, which reads the kubeconfig file. */
  #userOnHosts(name: string, token: string): KubeUser {
    const user = this.#user(name, token);
    user.writeKubeconfig(user.kubeconfig, this.serverForHosts);
    return user;
  }

  /** The identity of a node's kubelet. */
  kubelet(node: string): KubeUser {
    const user = this.#kubelets.get(node);
    if (user === undefined) throw new Error(`${node} is not among the nodes that the control plane was started for`);
    return user;
  }

  /** The file of the CA that the API server's certificates are from, also the one that it shows to kubelets. */
  get caFile(): string {
    return this.#path('ca.crt');
  }

  #path(name: string): string {
    return join(this.folder, name);
  }

  #writeCredentials(loopback: string, tokens: readonly string[]): string {
    const pki = new Pki('Test Kubernetes CA');
    try {
      const altNames = [...new Set([loopback, this.#bind, serviceAddress])].map((address) => `IP:${address}`).join(',');
      const { cert, key } = pki.server('kube-apiserver', { altNames });
      const write = (name: string, text: string): void => writeFileSync(this.#path(name), text, { mode: 0o600 });
      write('tls.crt', cert);
      write('tls.key', key);
      const client = pki.client(kubeletClient);
      write('kubelet-client.crt', client.cert);
      write('kubelet-client.key', client.key);
      write('ca.crt', pki.ca);
      const accounts = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      write('accounts.key', accounts.privateKey.export({ type: 'pkcs8', format: 'pem' }));
      write('accounts.pub', accounts.publicKey.export({ type: 'spki', format: 'pem' }));
      write('tokens.csv', `${tokens.join('\n')}\n`);
      write('audit-policy.json', JSON.stringify(auditPolicy));
      return pki.ca;
    } finally {
      pki.remove();
    }
  }

  #service(command: string, ...args: string[]): Service {
    const { host } = this.#options;
    const words = host === undefined ? [command, ...args] : ['nsenter', ...host.command(command, ...args)];
    // Dies with this process, however that ends.
    return new Service(...tied(words[0] ?? '', words.slice(1), 'KILL'));
  }

  async #begin(): Promise<void> {
    this.startEtcd();
    if (this.#options.host !== undefined) await this.#openWay();
    await this.startApiServer();
    const { nodes = [], controllers = nodes.length > 0 } = this.#options;
    if (controllers)
      this.#startControllers(nodes.length > 0 ? [...kubeControllers, ...workloadControllers] : kubeControllers);
    if (nodes.length > 0) await this.#startScheduler();
  }

  /** In the lab, the hosts' network is another one than this process's: a Unix socket joins the two. */
  async #openWay(): Promise<void> {
    const path = this.#path('api.sock');
    const inside = this.#service('socat', `UNIX-LISTEN:${path},fork,backlog=128`, `TCP:${this.#bind}:${apiPort}`);
    const outside = createServer((socket) => {
      const other = connect(path);
      socket.pipe(other).pipe(socket);
      socket.on('error', () => other.destroy());
      other.on('error', () => socket.destroy());
    });
    this.#way = { inside, outside };
    await new Promise<void>((resolve, reject) => {
      outside.once('error', reject).listen(apiPort, new URL(this.server).hostname, resolve);
    });
  }

  get #etcdUrl(): string {
    // The API server reaches it on the same host; nobody else needs to.
    return `http://${this.#options.host === undefined ? this.#bind : '127.0.0.1'}:${etcdPort}`;
  }

  /** Starts etcd, or starts it again on what it had stored. */
  startEtcd(): void {
    const client = this.#etcdUrl;
    const peer = client.replace(`:${etcdPort}`, `:${etcdPort + 1}`);
    this.#etcd = this.#service(
      programPath('etcd'),
      ...['--name', 'test', '--data-dir', this.#path('etcd'), '--log-level', 'error'],
      ...['--listen-client-urls', client, '--advertise-client-urls', client],
      ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', `test=${peer}`],
      // What a power cut would lose is a test's.
      '--unsafe-no-fsync',
    );
  }

  /** Starts the API server, or starts it again; resolves when it is ready. */
  async startApiServer(): Promise<void> {
    const server = this.#service(
      programPath('kube-apiserver'),
      ...['--etcd-servers', this.#etcdUrl, '--bind-address', this.#bind, '--secure-port', String(apiPort)],
      ...['--tls-cert-file', this.#path('tls.crt'), '--tls-private-key-file', this.#path('tls.key')],
      ...['--cert-dir', this.#path('certificates'), '--token-auth-file', this.#path('tokens.csv')],
      ...['--service-account-issuer', 'https://kubernetes.default.svc'],
      ...['--service-account-key-file', this.#path('accounts.pub')],
      ...['--service-account-signing-key-file', this.#path('accounts.key')],
      ...['--authorization-mode', 'Node,RBAC', '--enable-admission-plugins', 'NodeRestriction'],
      ...['--service-cluster-ip-range', serviceRange, '--kubelet-preferred-address-types', 'InternalIP'],
      ...['--kubelet-client-certificate', this.#path('kubelet-client.crt')],
      ...['--kubelet-client-key', this.#path('kubelet-client.key')],
      ...['--audit-policy-file', this.#path('audit-policy.json'), '--audit-log-path', this.#path('audit.log')],
      // As in clusters that run network plugins in pods, which is nearly all; the server's own default is not to.
      '--allow-privileged',
      // Its own address is no Service here, and may be a loopback address, which a Service must not have.
      ...['--endpoint-reconciler-type', 'none'],
    );
    this.#apiserver = server;
    await eventually(
      'the API server is ready',
      async () => {
        if (!server.running) return 'ended';
        return (await this.admin.send('GET', '/readyz')).status === 200 ? 'ready' : undefined;
      },
      { timeoutMs: 300_000, stepMs: 50 },
    ).then(
      (state) => {
        if (state === 'ended') throw new Error(`the API server ended:\n${this.log}`);
      },
      (error: unknown) => {
        throw new Error(`${String(error)}\n${this.log}`, { cause: error });
      },
    );
  }

  #startControllers(controllers: readonly string[]): void {
    this.#manage(
      'kube-controller-manager',
      ...['--controllers', controllers.join(','), '--root-ca-file', this.caFile],
      ...['--bind-address', '127.0.0.1', '--secure-port', '0'],
    );
  }

  /** Places pods; and the API server may ask kubelets for logs, and to run commands. */
  async #startScheduler(): Promise<void> {
    this.#manage('kube-scheduler', '--bind-address', '127.0.0.1', '--secure-port', '0');
    // https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
    await this.admin.apply(`/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/${kubeletClient}`, {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'ClusterRoleBinding',
      metadata: { name: kubeletClient },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'system:kubelet-api-admin' },
      subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'User', name: kubeletClient }],
    });
  }

  #manage(name: 'kube-controller-manager' | 'kube-scheduler', ...args: string[]): void {
    const kubeconfig = this.#path('managers.kubeconfig');
    this.admin.writeKubeconfig(kubeconfig, this.serverForHosts);
    this.#managers.push(this.#service(programPath(name), '--kubeconfig', kubeconfig, '--leader-elect=false', ...args));
  }

  /** The last words of the processes. */
  get log(): string {
    const ends = [this.#etcd, this.#apiserver, ...this.#managers].map((service) => service?.log.slice(-8000) ?? '');
    return ends.filter((text) => text !== '').join('\n');
  }

  /** Applies what a person installs: the CRDs, the operator's namespace, roles and policies. */
  async install(): Promise<void> {
    await this.admin.kubectl('apply', '--server-side', '-f', join(projectRoot, 'crds'));
    await this.admin.apply(`/api/v1/namespaces/${systemNamespace}`, {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: systemNamespace },
    });
    await this.admin.applyYaml(await renderText({ namespace: systemNamespace, templates: roleTemplates }));
    await this.#untilServed();
  }

  /** A CRD that is new answers its first requests with 404 and 429, also after it says that it is established. */
  async #untilServed(): Promise<void> {
    for (const { kind } of definitions) {
      await eventually(`${kind} is served`, async () => {
        const { status } = await this.admin.send('GET', `${apiPath(kind)}?limit=1`);
        return status === 200 ? true : undefined;
      });
    }
  }

  /** Makes a namespace with the default service account, as every cluster has it. */
  async namespace(name: string, labels: Readonly<Record<string, string>> = {}): Promise<void> {
    await this.admin.apply(`/api/v1/namespaces/${name}`, {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name, labels },
    });
  }

  /** Makes the Node, and gives the agent's identity on it: a token of its pod there, as a kubelet would mount it. */
  async agentOf(node: string, labels: Readonly<Record<string, string>> = {}): Promise<KubeUser> {
    await this.admin.apply(`/api/v1/nodes/${node}`, {
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name: node, labels: { 'kubernetes.io/hostname': node, ...labels } },
    });
    return this.#identity('ovpn-agent', `ovpn-agent-${node}`, node);
  }

  /** Somebody with no right at all, until a test gives some: a service account of a namespace that is there. */
  async account(namespace: string, name: string): Promise<KubeUser> {
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${name}`;
    await this.admin.apply(path, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { namespace, name } });
    const request = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} };
    const { status } = (await this.admin.must('POST', `${path}/token`, request)) as { status: { token: string } };
    return this.#user(`${namespace}-${name}`, status.token);
  }

  /** The controller's identity; replicas differ in their name. */
  async controller(replica = 'ovpn-controller-0'): Promise<KubeUser> {
    return this.#identity('ovpn-controller', replica);
  }

  async #identity(account: string, podName: string, nodeName?: string): Promise<KubeUser> {
    const pods = `/api/v1/namespaces/${systemNamespace}/pods`;
    const pod = (await this.admin.apply(`${pods}/${podName}`, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: podName, namespace: systemNamespace },
      spec: {
        serviceAccountName: account,
        containers: [{ name: 'main', image: 'none' }],
        ...(nodeName === undefined ? {} : { nodeName }),
      },
    })) as { metadata: { uid: string } };
    const token = (await this.admin.must(
      'POST',
      `/api/v1/namespaces/${systemNamespace}/serviceaccounts/${account}/token`,
      {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenRequest',
        spec: { boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: podName, uid: pod.metadata.uid } },
      },
    )) as { status: { token: string } };
    return this.#userOnHosts(podName, token.status.token);
  }

  /** Every request that was answered since the API server first started, and the watches that are open. */
  audit(): readonly AuditEvent[] {
    const { events, end } = readAuditLog(this.#path('audit.log'), this.#auditRead);
    this.#auditRead = end;
    this.#audit.push(...events);
    return this.#audit;
  }

  /** Stops the API server in its tracks, with all its connections open: nobody is told. */
  pauseApiServer(): void {
    this.#signal('SIGSTOP');
  }

  resumeApiServer(): void {
    this.#signal('SIGCONT');
  }

  #signal(signal: NodeJS.Signals): void {
    const pid = this.#apiserver?.pid;
    if (pid === undefined || this.#apiserver?.running !== true) throw new Error('the API server does not run');
    process.kill(pid, signal);
  }

  async killApiServer(): Promise<void> {
    await this.#apiserver?.end('SIGKILL');
  }

  /** Keeps a copy of all that is stored; the API server is away meanwhile. */
  async backUp(): Promise<void> {
    await this.#withoutServers(() => {
      cpSync(this.#path('etcd'), this.#path('etcd-backup'), { recursive: true });
    });
  }

  /** Puts the copy back, as it is done after a disaster: what came after it has never been, and versions go back. */
  async restore(): Promise<void> {
    await this.#withoutServers(() => {
      rmSync(this.#path('etcd'), { recursive: true });
      cpSync(this.#path('etcd-backup'), this.#path('etcd'), { recursive: true });
    });
  }

  async #withoutServers(work: () => void): Promise<void> {
    await this.killApiServer();
    await this.#etcd?.end('SIGTERM');
    work();
    this.startEtcd();
    await this.startApiServer();
  }

  /**
   * Makes the store forget all versions but the present ones. The API server remembers some by itself; after its
   * next start, whoever goes on from an old version is told 410. Not for a control plane on a host of the lab.
   */
  async compact(): Promise<void> {
    const { header } = await this.#askEtcd('range', { key: Buffer.from('/registry').toString('base64') });
    await this.#askEtcd('compaction', { revision: header.revision, physical: true });
  }

  /** etcd's own API as JSON: https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/. */
  async #askEtcd(what: string, request: object): Promise<{ header: { revision: string } }> {
    const response = await fetch(`${this.#etcdUrl}/v3/kv/${what}`, { method: 'POST', body: JSON.stringify(request) });
    if (!response.ok) throw new Error(`etcd: ${response.status} ${await response.text()}`);
    return (await response.json()) as { header: { revision: string } };
  }

  async stop(): Promise<void> {
    for (const user of this.#users) user.close();
    for (const manager of this.#managers) await manager.end('SIGKILL');
    await this.#apiserver?.end('SIGKILL');
    await this.#etcd?.end('SIGKILL');
    await this.#way?.inside.end('SIGKILL');
    this.#way?.outside.close();
    this.#claim.release();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
