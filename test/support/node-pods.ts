import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Containerd } from './containerd.ts';
import type { KubeUser } from './kube/kube-user.ts';
import { systemNamespace } from './kube/control-plane.ts';
import { eventually } from './run.ts';

/**
 * A kubelet's part: pods by their specification, as calls of the runtime (CRI v1 PodSandboxConfig and ContainerConfig).
 * What the chart's pods use is here; a field that is not understood is an error, so that no test passes without it.
 */

interface Env {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: { readonly fieldRef: { readonly fieldPath: string } };
}

interface SecurityContext {
  readonly privileged?: boolean;
  readonly allowPrivilegeEscalation?: boolean;
  readonly readOnlyRootFilesystem?: boolean;
  readonly runAsUser?: number;
  readonly runAsGroup?: number;
  readonly capabilities?: { readonly add?: readonly string[]; readonly drop?: readonly string[] };
  readonly seccompProfile?: { readonly type: string };
}

interface Container {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: readonly Env[];
  readonly securityContext?: SecurityContext;
  readonly volumeMounts?: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly readOnly?: boolean;
    readonly mountPropagation?: 'Bidirectional' | 'HostToContainer';
  }[];
}

interface Volume {
  readonly name: string;
  readonly hostPath?: { readonly path: string; readonly type: string };
  readonly projected?: object;
}

/** The parts of a PodSpec that are read here. */
export interface PodSpec {
  readonly hostNetwork?: boolean;
  readonly automountServiceAccountToken?: boolean;
  readonly securityContext?: SecurityContext;
  readonly initContainers?: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes?: readonly Volume[];
}

/** Where processes in pods find the API server, and who they are to it. */
export interface PodIdentity {
  readonly user: KubeUser;
  readonly server: string;
  /** Of the Pod on the API server, where there is one: the CNI plugin asks for it. */
  readonly uid?: string | undefined;
}

const tokenFolder = '/var/run/secrets/kubernetes.io/serviceaccount';
/** CRI: NamespaceMode NODE and POD, MountPropagation. */
const [podMode, nodeMode] = [0, 2];
const propagation = { Bidirectional: 2, HostToContainer: 1 } as const;

/** One pod that runs. */
export class NodePod {
  readonly name: string;
  readonly sandbox: string;
  readonly #containerd: Containerd;
  readonly #containers: ReadonlyMap<string, string>;

  private constructor(containerd: Containerd, name: string, sandbox: string, containers: ReadonlyMap<string, string>) {
    this.#containerd = containerd;
    this.name = name;
    this.sandbox = sandbox;
    this.#containers = containers;
  }

  /** Starts it: each init container to its end, then the others. @throws with the runtime's words, or the container's */
  static async start(
    containerd: Containerd,
    name: string,
    spec: PodSpec,
    { user, server, uid = randomUUID() }: PodIdentity,
  ): Promise<NodePod> {
    const folder = mkdtempSync(join(containerd.host.hosts.folder, `pod-${name}-`));
    const write = (file: string, content: object | string): string => {
      writeFileSync(join(folder, file), typeof content === 'string' ? content : JSON.stringify(content));
      return join(folder, file);
    };
    const must = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await containerd.crictl(...args);
      if (code !== 0) throw new Error(`${name}: crictl ${args[0] ?? ''}: ${stderr}\n${containerd.log.slice(-4000)}`);
      return stdout.trim();
    };
    mkdirSync(join(folder, 'token'));
    write('token/token', user.credentials.token);
    write('token/ca.crt', user.credentials.ca);
    write('token/namespace', systemNamespace);
    const describePod = (attempt: number): string =>
      write('pod.json', {
        metadata: { name, namespace: systemNamespace, uid, attempt },
        log_directory: folder,
        linux: {
          security_context: {
            namespace_options: { network: spec.hostNetwork === true ? nodeMode : podMode, pid: 1 },
            privileged: spec.containers.some(({ securityContext }) => securityContext?.privileged === true),
          },
        },
      });
    const facts = { name, node: containerd.host.name, server, token: join(folder, 'token') };
    let attempts = 0;
    let pod = '';
    // A kubelet tries again: the agent may not have read its resources yet.
    const sandbox = await eventually(`the sandbox of ${name}`, () => {
      attempts += 1;
      pod = describePod(attempts);
      return must('runp', pod);
    });
    const begin = async (container: Container): Promise<string> => {
      const file = write(`${container.name}.json`, containerConfig(container, spec, facts));
      const id = await must('create', sandbox, file, pod);
      await must('start', id);
      return id;
    };
    for (const container of spec.initContainers ?? []) {
      const id = await begin(container);
      const ended = await eventually(`${container.name} has ended`, async () => {
        const { status } = JSON.parse(await must('inspect', id)) as { status: { state: string; exitCode?: number } };
        return status.state === 'CONTAINER_EXITED' ? { code: status.exitCode ?? 0 } : undefined;
      });
      if (ended.code !== 0) throw new Error(`${container.name}: ${await must('logs', id)}`);
    }
    const containers = new Map<string, string>();
    for (const container of spec.containers) containers.set(container.name, await begin(container));
    return new NodePod(containerd, name, sandbox, containers);
  }

  /** What a container has said, on both streams. */
  async log(container: string): Promise<string> {
    const { stdout, stderr } = await this.#containerd.crictl('logs', this.#idOf(container));
    return stdout + stderr;
  }

  /** @throws with the container's last words when it does not run */
  async requireRunning(): Promise<void> {
    for (const [name, id] of this.#containers) {
      const { stdout } = await this.#containerd.crictl('inspect', id);
      const { status } = JSON.parse(stdout) as { status: { state: string } };
      if (status.state !== 'CONTAINER_RUNNING') throw new Error(`${name}: ${status.state}: ${await this.log(name)}`);
    }
  }

  /** Runs a command in a container; its exit code is a result. */
  exec(container: string, ...command: string[]): ReturnType<Containerd['crictl']> {
    return this.#containerd.crictl('exec', '--sync', this.#idOf(container), ...command);
  }

  /** Ends it as the kubelet does: the grace period in seconds, then by force. */
  async end(grace = 30): Promise<void> {
    for (const id of this.#containers.values()) await this.#containerd.crictl('stop', '--timeout', String(grace), id);
    await this.#containerd.crictl('stopp', this.sandbox);
    await this.#containerd.crictl('rmp', '--force', this.sandbox);
  }

  #idOf(container: string): string {
    const id = this.#containers.get(container);
    if (id === undefined) throw new Error(`${this.name} has no container ${container}`);
    return id;
  }
}

interface Facts {
  readonly name: string;
  readonly node: string;
  readonly server: string;
  /** Folder with the service account's token. */
  readonly token: string;
}

function containerConfig(container: Container, spec: PodSpec, facts: Facts): object {
  const { hostname, port } = new URL(facts.server);
  const context = { ...spec.securityContext, ...container.securityContext };
  const { privileged = false, readOnlyRootFilesystem = false, runAsUser = 0, runAsGroup, capabilities } = context;
  const env = (container.env ?? []).map(({ name, value, valueFrom }) => {
    const path = valueFrom?.fieldRef.fieldPath;
    return { key: name, value: value ?? (path === undefined ? '' : fieldOf(path, facts)) };
  });
  const mounts = (container.volumeMounts ?? []).map(({ name, mountPath, readOnly = false, mountPropagation }) => ({
    host_path: hostPathOf(name, spec.volumes ?? [], facts),
    container_path: mountPath,
    readonly: readOnly,
    propagation: mountPropagation === undefined ? 0 : propagation[mountPropagation],
  }));
  // Whoever says nothing of it gets the token of the pod's service account, as the API server sees to it.
  const automount = spec.automountServiceAccountToken !== false;
  const token = { host_path: facts.token, container_path: tokenFolder, readonly: true };
  return {
    metadata: { name: container.name },
    image: { image: container.image },
    command: container.command,
    args: container.args,
    envs: [
      { key: 'KUBERNETES_SERVICE_HOST', value: hostname },
      { key: 'KUBERNETES_SERVICE_PORT', value: port },
      ...env,
    ],
    mounts: [...mounts, ...(automount ? [token] : [])],
    log_path: `${container.name}.log`,
    linux: {
      security_context: {
        privileged,
        readonly_rootfs: readOnlyRootFilesystem,
        run_as_user: { value: runAsUser },
        ...(runAsGroup === undefined ? {} : { run_as_group: { value: runAsGroup } }),
        no_new_privs: context.allowPrivilegeEscalation === false,
        capabilities: { add_capabilities: capabilities?.add, drop_capabilities: capabilities?.drop },
        namespace_options: { network: spec.hostNetwork === true ? nodeMode : podMode, pid: 1 },
        // The lab's kernel has no seccomp for user-mode processes of its guests.
      },
    },
  };
}

function fieldOf(path: string, { name, node }: Facts): string {
  const fields: Readonly<Record<string, string>> = {
    'spec.nodeName': node,
    'metadata.name': name,
    'metadata.namespace': systemNamespace,
  };
  const value = fields[path];
  if (value === undefined) throw new Error(`fieldRef ${path} is not known here`);
  return value;
}

function hostPathOf(name: string, volumes: readonly Volume[], { token }: Facts): string {
  const volume = volumes.find((one) => one.name === name);
  if (volume?.projected !== undefined) return token;
  const path = volume?.hostPath?.path;
  if (path === undefined) throw new Error(`volume ${name} is of a kind that is not known here`);
  if (volume?.hostPath?.type === 'DirectoryOrCreate') mkdirSync(path, { recursive: true });
  return path;
}
