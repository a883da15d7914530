/** What the plugin of kubectl takes of the Kubernetes client: see kubectl-plugin.ts. */
export { KubeConfig } from '../node_modules/@kubernetes/client-node/dist/config.js';
export { Exec } from '../node_modules/@kubernetes/client-node/dist/exec.js';
