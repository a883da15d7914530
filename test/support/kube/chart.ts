import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { programPath } from '../../programs/location.ts';
import { attempt, type Finished } from '../run.ts';

/** The chart as it is in the repository. */
export const chartFolder = join(import.meta.dirname, '../../../charts/ovpn-operator');

/** The templates that say what our processes may do, and what people may see. */
export const roleTemplates = ['agent-rbac', 'controller-rbac', 'agent-node-policy', 'view-role'] as const;

/** An object that the chart renders. */
export interface Rendered {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

export interface RenderOptions {
  readonly values?: object;
  readonly namespace?: string;
  /** Only what these templates render. */
  readonly templates?: readonly string[];
  /** API groups that the cluster is said to have besides Kubernetes' own. */
  readonly apiVersions?: readonly string[];
}

/** Helm, with folders of its own that go with it; its exit code is a result. */
export async function helm(
  args: readonly string[],
  options: { readonly kubeconfig?: string; readonly values?: object; readonly input?: string } = {},
): Promise<Finished> {
  const home = mkdtempSync(join(tmpdir(), 'ovpn-helm-'));
  try {
    const values = join(home, 'values.json');
    writeFileSync(values, JSON.stringify(options.values ?? {}));
    const folders = Object.fromEntries(
      ['CACHE', 'CONFIG', 'DATA'].map((name) => [`HELM_${name}_HOME`, join(home, name)]),
    );
    return await attempt(
      programPath('helm'),
      [...args, ...(options.values === undefined ? [] : ['--values', values])],
      { env: { ...folders, KUBECONFIG: options.kubeconfig ?? join(home, 'none') } },
    );
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}

/** `helm template`, whether it succeeds or not. */
export async function tryRender(options: RenderOptions = {}): Promise<Finished> {
  const { values = {}, namespace = 'ovpn-system', templates = [], apiVersions = [] } = options;
  return helm(
    [
      ...['template', 'ovpn', chartFolder, '--namespace', namespace],
      ...templates.flatMap((name) => ['--show-only', `templates/${name}.yaml`]),
      ...apiVersions.flatMap((name) => ['--api-versions', name]),
    ],
    { values },
  );
}

/** The manifests that the chart renders, as text. @throws Error with Helm's words */
export async function renderText(options: RenderOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await tryRender(options);
  if (code !== 0) throw new Error(`helm template exited with ${code}:\n${stderr}`);
  return stdout;
}

/** The objects that the chart renders. */
export async function render(options: RenderOptions = {}): Promise<Rendered[]> {
  return parseAllDocuments(await renderText(options)).flatMap((document) => {
    const object = document.toJS() as Rendered | null;
    return object === null ? [] : [object];
  });
}
