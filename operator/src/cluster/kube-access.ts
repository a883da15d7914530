import type { RequestOptions } from 'node:https';
import type { KubeConfig } from '@kubernetes/client-node';
import { OvpnError, describe } from '../errors.ts';

/** How to reach an API server as somebody: address, credentials, TLS. */
export interface ApiAccess {
  /** The server's base address, which may have a path (a proxy in front of several clusters). */
  readonly server: string;
  /** Headers and TLS options for the next request. Credentials are read anew: tokens are rotated under us. */
  authenticate(): Promise<RequestOptions>;
}

export interface KubeAccessOptions {
  /** A kubeconfig file. Default: the environment's (KUBECONFIG, then the pod's service account). */
  readonly kubeconfig?: string;
  readonly context?: string;
}

/**
 * Access by a kubeconfig file or from inside a pod. Throws ConfigInvalid when there is none that can be used.
 * The client library is loaded here only: standalone mode never pays for it.
 */
export async function loadKubeAccess(options: KubeAccessOptions = {}): Promise<ApiAccess> {
  return kubeAccess(await loadKubeConfig(options));
}

/** The kubeconfig itself, for who needs more of it than access. Throws ConfigInvalid when it cannot be read. */
export async function loadKubeConfig({ kubeconfig, context }: KubeAccessOptions = {}): Promise<KubeConfig> {
  const { KubeConfig } = await import('@kubernetes/client-node');
  const config = new KubeConfig();
  try {
    if (kubeconfig === undefined) config.loadFromDefault();
    else config.loadFromFile(kubeconfig);
  } catch (error) {
    throw new OvpnError('ConfigInvalid', `the kubeconfig cannot be read: ${describe(error)}`, {}, { cause: error });
  }
  if (context !== undefined) config.setCurrentContext(context);
  return config;
}

/** Access by a loaded KubeConfig. Throws ConfigInvalid when its current context leads nowhere, or to no TLS server. */
export function kubeAccess(config: KubeConfig): ApiAccess {
  const cluster = config.getCurrentCluster();
  if (cluster === null) {
    const problem = `the kubeconfig has no cluster for its current context "${config.getCurrentContext()}"`;
    throw new OvpnError('ConfigInvalid', problem);
  }
  if (!isPrivateWay(cluster.server)) {
    throw new OvpnError(
      'ConfigInvalid',
      `the server of cluster "${cluster.name}" is ${JSON.stringify(cluster.server)}`,
      { object: 'kubeconfig', field: 'clusters[].cluster.server' },
      { remedy: 'write an https:// address; http:// is for this machine itself only, as keys and tokens go this way' },
    );
  }
  return {
    server: cluster.server,
    authenticate: async () => {
      const options: RequestOptions = {};
      await config.applyToHTTPSOptions(options);
      // The library's agent opens a connection per request; it is needed only to go through a proxy.
      if (cluster.proxyUrl === undefined) delete options.agent;
      return options;
    },
  };
}

/** Whether nobody on the way can read along: `kubectl proxy` on this machine may speak plain HTTP. */
function isPrivateWay(server: string): boolean {
  if (!URL.canParse(server)) return false;
  const { protocol, hostname } = new URL(server);
  if (protocol === 'https:') return true;
  return protocol === 'http:' && /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(hostname);
}
