import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { parse, parseDocument, type Scalar, type YAMLMap } from 'yaml';
import { definitions } from '../../operator/src/api/definitions.ts';
import {
  chartFolder,
  helm,
  render,
  type Rendered,
  type RenderOptions,
  renderText,
  tryRender,
} from '../support/kube/chart.ts';
import { containersOf, selectorsOf, selects, workloadsOf } from '../support/kube/chart-objects.ts';
import { run } from '../support/run.ts';

/** What the chart renders, by what has to hold of it; the API server's word on it is in chart.test.ts. */

const existing = { serviceAccount: { create: false, name: 'mine' } };
const everything = {
  controller: {
    replicas: 2,
    networkPolicy: { enabled: true, apiServerCidrs: ['10.0.0.1/32'] },
    podLabels: { team: 'net' },
    podAnnotations: { a: 'b' },
    extraArgs: ['--name=x'],
    extraEnv: [{ name: 'A', value: 'b' }],
  },
  agent: {
    podLabels: { team: 'net' },
    podAnnotations: { a: 'b' },
    extraArgs: ['--resync=30'],
    extraEnv: [{ name: 'A', value: 'b' }],
    maxUnavailable: '10%',
    affinity: { nodeAffinity: {} },
  },
  holder: { podAnnotations: { a: 'b' } },
  cni: { mode: 'chain' },
  imagePullSecrets: [{ name: 'registry' }],
  listenerServices: [
    {
      name: 'vpn',
      annotations: { a: 'b' },
      loadBalancerClass: 'example.org/lb',
      loadBalancerSourceRanges: ['192.0.2.0/24'],
      ports: [
        { name: 'udp', protocol: 'UDP', port: 1194, nodePort: 31194 },
        { name: 'tcp', protocol: 'TCP', port: 1194 },
      ],
    },
  ],
  metrics: { enabled: true, podMonitor: { enabled: true, labels: { release: 'prometheus' } } },
};
const monitoring = ['monitoring.coreos.com/v1'];

const cases: Readonly<Record<string, RenderOptions>> = {
  'as it comes': {},
  'without CNI': { values: { cni: { mode: 'none' } } },
  'with the plugin in the chain': { values: { cni: { mode: 'chain' } } },
  'with the plugin being removed': { values: { cni: { mode: 'remove' } } },
  'in another namespace': { namespace: 'vpn' },
  'with another name': { values: { nameOverride: 'vpn' } },
  'with existing service accounts': { values: { agent: existing, controller: existing } },
  'without socket holder': { values: { holder: { enabled: false } } },
  'with two controllers': { values: { controller: { replicas: 2 } } },
  'by digest, of a mirror': {
    values: { image: { registry: 'mirror.example:5000', digest: `sha256:${'0'.repeat(64)}` } },
  },
  'without CRDs, roles and namespace of CAs': {
    values: {
      crds: { install: false },
      rbac: { create: false, nodePolicy: false, aggregateToView: false },
      caNamespace: { create: false },
    },
  },
  'with all there is': { values: everything, apiVersions: monitoring },
};

/** Containers that are more than an unprivileged process, and those that nobody asks whether they work: why, says the chart. */
const privileged = ['agent'];
const unprobed = ['holder', 'install-cni'];

const idOf = ({ kind, metadata }: Rendered): string => `${kind} ${metadata.namespace ?? ''}/${metadata.name}`;
const named = (objects: readonly Rendered[], kind: string): Rendered[] =>
  objects.filter((object) => object.kind === kind);
const names = (objects: readonly Rendered[], kind: string): string[] =>
  named(objects, kind).map(({ metadata }) => metadata.name);

describe.each(Object.entries(cases))('the chart %s', (_, options) => {
  const namespace = options.namespace ?? 'ovpn-system';
  const rendered = render(options);

  test('has every object once, where it belongs', async () => {
    const objects = await rendered;
    const ids = objects.map(idOf);
    expect(ids).toEqual([...new Set(ids)]);
    const clusterWide = /^(CustomResourceDefinition|Namespace|Cluster.*|ValidatingAdmissionPolicy.*)$/;
    for (const { kind, metadata } of objects) {
      if (clusterWide.test(kind)) expect(metadata.namespace).toBeUndefined();
      else expect([namespace, `${namespace}-ca`]).toContain(metadata.namespace);
    }
  });

  test('gives no container more rights than is listed', async () => {
    const found = containersOf(await rendered);
    expect(found.length).toBeGreaterThan(1);
    for (const { container } of found) {
      const { name, securityContext } = container;
      expect(securityContext.readOnlyRootFilesystem).toBe(true);
      expect({ name, privileged: securityContext.privileged }).toEqual({ name, privileged: privileged.includes(name) });
      if (privileged.includes(name)) continue;
      expect(securityContext.allowPrivilegeEscalation).toBe(false);
      expect(securityContext.capabilities).toEqual({ drop: ['ALL'] });
    }
  });

  test('bounds and probes every container, and runs no floating image', async () => {
    for (const { container, init } of containersOf(await rendered)) {
      const { name, image, resources } = container;
      expect(Object.keys(resources.requests ?? {}).sort()).toEqual(['cpu', 'memory']);
      expect(resources.limits?.memory).toBeDefined();
      expect(image).toMatch(/^[^:@\s]+(:\d+)?\/[^:@\s]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?$/);
      const probed = container.livenessProbe !== undefined && container.readinessProbe !== undefined;
      expect({ name, probed }).toEqual({ name, probed: !init && !unprobed.includes(name) });
    }
  });

  test('gives the controller minutes to come up before anybody restarts it', async () => {
    const containers = workloadsOf(await rendered).flatMap(({ spec }) => spec.template.spec.containers);
    const controller = containers.find(({ name }) => name === 'controller');
    const { httpGet, periodSeconds = 10, failureThreshold = 3 } = controller?.startupProbe ?? {};
    expect(httpGet).toEqual(controller?.livenessProbe?.httpGet);
    expect(periodSeconds * failureThreshold).toBeGreaterThanOrEqual(120);
  });

  test('mounts what is there, and nothing for nobody', async () => {
    for (const { spec } of workloadsOf(await rendered)) {
      const { containers, initContainers = [], volumes = [] } = spec.template.spec;
      const mounted = [...containers, ...initContainers].flatMap(({ volumeMounts = [] }) =>
        volumeMounts.map(({ name }) => name),
      );
      expect([...new Set(mounted)].sort()).toEqual(volumes.map(({ name }) => name).sort());
    }
  });

  test('has selectors that find pods, each workload its own only', async () => {
    const objects = await rendered;
    const workloads = workloadsOf(objects);
    for (const { object, selector } of selectorsOf(objects)) {
      const found = workloads.filter(({ spec }) => selects(selector, spec.template.metadata.labels));
      expect(found).not.toEqual([]);
      if (workloads.some((workload) => workload === object)) expect(found.map(idOf)).toEqual([idOf(object)]);
    }
  });

  test('has the service accounts, and gives the roles to them', async () => {
    const objects = await rendered;
    const used = workloadsOf(objects).flatMap(({ spec }) => spec.template.spec.serviceAccountName ?? []);
    const there = [...names(objects, 'ServiceAccount'), ...('values' in options ? ['mine'] : [])];
    for (const account of used) expect(there).toContain(account);
    for (const binding of [...named(objects, 'ClusterRoleBinding'), ...named(objects, 'RoleBinding')]) {
      const { subjects, roleRef } = binding as unknown as {
        subjects: readonly { name: string; namespace: string }[];
        roleRef: { kind: string; name: string };
      };
      expect(names(objects, roleRef.kind)).toContain(roleRef.name);
      for (const subject of subjects) {
        expect(used).toContain(subject.name);
        expect(subject.namespace).toBe(namespace);
      }
    }
    const agent = workloadsOf(objects).find(
      ({ metadata }) => metadata.labels?.['app.kubernetes.io/component'] === 'agent',
    );
    for (const policy of named(objects, 'ValidatingAdmissionPolicy')) {
      const { matchConditions } = policy['spec'] as { matchConditions: readonly { expression: string }[] };
      expect(matchConditions[0]?.expression).toBe(
        `request.userInfo.username == 'system:serviceaccount:${namespace}:${agent?.spec.template.spec.serviceAccountName}'`,
      );
    }
  });

  test('lets who may view a namespace see all of our resources, and do nothing to them', async () => {
    const views = named(await rendered, 'ClusterRole').filter(
      ({ metadata }) => metadata.labels?.['rbac.authorization.k8s.io/aggregate-to-view'] === 'true',
    );
    const { rbac } = (options.values ?? {}) as { rbac?: { aggregateToView?: boolean } };
    const resources = definitions.map(({ plural }) => plural).sort();
    const rules = [{ apiGroups: ['ovpn-operator.io'], resources, verbs: ['get', 'list', 'watch'] }];
    const found = views.map(({ rules: own }) =>
      (own as typeof rules).map((rule) => ({ ...rule, resources: rule.resources.toSorted() })),
    );
    expect(found).toEqual(rbac?.aggregateToView === false ? [] : [rules]);
  });

  test('is not found fault with by helm lint', async () => {
    const { code, stdout, stderr } = await helm(['lint', '--strict', chartFolder, '--namespace', namespace], {
      // lint knows no --api-versions.
      values: options.apiVersions === undefined ? (options.values ?? {}) : {},
    });
    expect({ code, words: `${stdout}${stderr}` }).toEqual({
      code: 0,
      words: expect.stringContaining('0 chart(s) failed'),
    });
  });
});

describe('a value', () => {
  const image = async (values: object): Promise<string> => {
    const [first] = containersOf(await render({ values }));
    return first!.container.image;
  };
  const inKind = async (kind: string, options: RenderOptions): Promise<string[]> => names(await render(options), kind);

  test('says which image is run', async () => {
    const { version } = JSON.parse(readFileSync(join(chartFolder, '../../package.json'), 'utf8')) as {
      version: string;
    };
    const chart = parse(readFileSync(join(chartFolder, 'Chart.yaml'), 'utf8')) as {
      version: string;
      appVersion: string;
    };
    expect([chart.version, chart.appVersion]).toEqual([version, version]);
    expect(await image({})).toBe(`ghcr.io/ovpn-operator/ovpn-operator:${version}`);
    const digest = `sha256:${'a'.repeat(64)}`;
    expect(await image({ image: { registry: 'r.example', repository: 'x/y', tag: 'v9', digest } })).toBe(
      `r.example/x/y:v9@${digest}`,
    );
  });

  test('leaves out what is not wanted', async () => {
    const all = await render();
    expect(names(all, 'CustomResourceDefinition')).toHaveLength(4);
    expect(await inKind('CustomResourceDefinition', { values: { crds: { install: false } } })).toEqual([]);
    expect(names(all, 'DaemonSet')).toEqual(['ovpn-agent', 'ovpn-holder']);
    const alone = await render({ values: { holder: { enabled: false } } });
    expect(names(alone, 'DaemonSet')).toEqual(['ovpn-agent']);
    expect(containersOf(alone).flatMap(({ container }) => container.args ?? [])).toContain('--holder=none');
    expect(await inKind('PodDisruptionBudget', {})).toEqual([]);
    expect(await inKind('PodDisruptionBudget', { values: { controller: { replicas: 2 } } })).toEqual([
      'ovpn-controller',
    ]);
    const containers = async (mode: string): Promise<string[]> =>
      containersOf(await render({ values: { cni: { mode } } })).map(({ container }) => container.name);
    expect(await containers('file')).toContain('install-cni');
    expect(await containers('none')).not.toContain('install-cni');
    expect(await containers('remove')).toEqual(expect.arrayContaining(['remove-cni', 'agent']));
  });

  test('keeps what must outlive an uninstall, and nothing else', async () => {
    const kept = (await render()).filter(
      ({ metadata }) => metadata.annotations?.['helm.sh/resource-policy'] === 'keep',
    );
    expect(kept.map(({ kind }) => kind).sort()).toEqual([
      ...Array<string>(4).fill('CustomResourceDefinition'),
      'Namespace',
    ]);
  });

  test('does not change the CRDs on their way', async () => {
    const objects = await render();
    for (const name of names(objects, 'CustomResourceDefinition')) {
      const file = parse(
        readFileSync(join(chartFolder, `../../crds/${name.split('.')[0]}.ovpn-operator.io.yaml`), 'utf8'),
      ) as Rendered;
      const found = objects.find(({ kind, metadata }) => kind === 'CustomResourceDefinition' && metadata.name === name);
      expect(found?.['spec']).toEqual(file['spec']);
    }
  });

  test('of the agent and the controller is an option that they have', async () => {
    const cli = join(chartFolder, '../../operator/src/cli');
    for (const values of [everything, { cni: { mode: 'remove' }, holder: { enabled: false } }]) {
      for (const { container } of containersOf(await render({ values, apiVersions: monitoring }))) {
        const [program, ...command] = container.command;
        const help = await run(process.execPath, join(cli, `${program}.ts`), ...command, '--help');
        for (const argument of container.args ?? []) {
          expect(help).toMatch(new RegExp(`${argument.split('=')[0]}[ \\n]`));
        }
      }
    }
  });

  test('has an entry in the schema and a comment, and nothing else has', () => {
    interface Schema {
      readonly $ref?: string;
      readonly additionalProperties?: unknown;
      readonly required?: readonly string[];
      readonly properties?: Readonly<Record<string, Schema>>;
    }
    const schema = JSON.parse(readFileSync(join(chartFolder, 'values.schema.json'), 'utf8')) as Schema & {
      $defs: Record<string, Schema>;
    };
    const text = readFileSync(join(chartFolder, 'values.yaml'), 'utf8');
    const document = parseDocument(text);
    const isExplained = (path: string): boolean => {
      const keys = path.split('/').slice(1);
      const parent = (
        keys.length === 1 ? document.contents : document.getIn(keys.slice(0, -1), true)
      ) as YAMLMap<Scalar>;
      const start = parent.items.find((pair) => pair.key.value === keys.at(-1))!.key.range![0];
      return text.slice(0, start).split('\n').at(-2)!.trimStart().startsWith('# ');
    };
    const resolve = (found: Schema): Schema =>
      found.$ref === undefined ? found : schema.$defs[found.$ref.replace('#/$defs/', '')]!;
    // Others are maps, and objects of Kubernetes.
    const isClosed = ({ properties, required }: Schema): boolean => properties !== undefined && required !== undefined;
    const unexplained: string[] = [];
    const compare = (found: Schema, value: Record<string, unknown>, path: string): void => {
      const { properties = {}, additionalProperties, required = [] } = found;
      const known = Object.keys(properties).filter((key) => path !== '' || key !== 'global');
      expect({ path, keys: Object.keys(value).sort() }).toEqual({ path, keys: known.sort() });
      expect({ path, additionalProperties, required: [...required].sort() }).toEqual({
        path,
        additionalProperties: false,
        required: known.sort(),
      });
      for (const key of known) {
        const inner = resolve(properties[key]!);
        if (isClosed(inner)) compare(inner, value[key] as Record<string, unknown>, `${path}/${key}`);
        else if (!isExplained(`${path}/${key}`)) unexplained.push(`${path}/${key}`);
      }
    };
    compare(schema, parse(text) as Record<string, unknown>, '');
    expect(unexplained).toEqual([]);
  });
});

describe('a mistake is refused by name:', () => {
  test.each<[object, RegExp]>([
    [{ replicas: 2 }, /'replicas'/],
    [{ controller: { replicas: '2' } }, /\/controller\/replicas.*integer/],
    [{ logLevel: 'verbose' }, /\/logLevel.*'debug', 'info', 'warn', 'error', 'silent'/],
    [{ cni: { mode: 'yes' } }, /\/cni\/mode.*'file', 'chain', 'none', 'remove'/],
    [{ cni: { binDir: 'opt/cni/bin' } }, /\/cni\/binDir/],
    [{ image: { tag: 'latest' } }, /\/image\/tag/],
    [{ image: { digest: 'sha256:abc' } }, /\/image\/digest/],
    [{ image: { registry: 'https://ghcr.io' } }, /\/image\/registry/],
    [{ metrics: { port: 99_999 } }, /\/metrics\/port.*65,?535/],
    [{ agent: { resources: { limits: { memory: '1 GB' } } } }, /\/agent\/resources\/limits\/memory/],
    [{ agent: { tolerations: [{ effect: 'NoRun' }] } }, /\/agent\/tolerations\/0\/effect/],
    [{ agent: { extraArgs: ['resync=30'] } }, /\/agent\/extraArgs\/0/],
    [{ agent: null }, /'agent'/],
    [{ bindAddress: '::' }, /\/bindAddress/],
    [{ listenerServices: [{ name: 'vpn', ports: [] }] }, /\/listenerServices\/0\/ports/],
    [
      { listenerServices: [{ name: 'vpn', ports: [{ name: 'u', protocol: 'udp', port: 1194 }] }] },
      /ports\/0\/protocol/,
    ],
    [{ agent: { serviceAccount: { create: false } } }, /agent\.serviceAccount\.name is empty/],
    [{ metrics: { podMonitor: { enabled: true } } }, /metrics\.podMonitor\.enabled.*monitoring\.coreos\.com/],
  ])('%j', async (values, message) => {
    const { code, stderr } = await tryRender({ values });
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(message) });
  });

  test('an older Kubernetes', async () => {
    const { code, stderr } = await helm(['template', 'ovpn', chartFolder, '--kube-version', '1.30.9']);
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('requires kubeVersion: >=1.31') });
  });

  test('metrics that nobody can scrape', async () => {
    const { stderr } = await tryRender({
      values: { metrics: { podMonitor: { enabled: true } } },
      apiVersions: monitoring,
    });
    expect(stderr).toContain('metrics.enabled is false');
  });
});

test('monitoring comes whole: the alerts, the dashboard, and jobs by the names that the alerts ask for', async () => {
  const metrics = {
    enabled: true,
    ...{ podMonitor: { enabled: true }, prometheusRule: { enabled: true }, dashboard: { enabled: true } },
  };
  const all = await render({ values: { metrics }, apiVersions: monitoring });
  const file = (name: string): string => readFileSync(join(chartFolder, 'files', name), 'utf8');
  const alerts = parse(file('alerts.yaml')) as object;
  expect(all.find(({ kind }) => kind === 'PrometheusRule')?.['spec']).toEqual(alerts);
  const dashboard = all.find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === 'ovpn-dashboard');
  const [text] = Object.values(dashboard?.['data'] as Record<string, string>);
  expect(JSON.parse(text ?? '')).toEqual(JSON.parse(file('dashboard.json')));
  const { podMetricsEndpoints: [endpoint] = [] } = all.find(({ kind }) => kind === 'PodMonitor')?.['spec'] as {
    podMetricsEndpoints?: { relabelings: { targetLabel: string; replacement?: string }[] }[];
  };
  const job = endpoint?.relabelings.find(({ targetLabel }) => targetLabel === 'job')?.replacement ?? '';
  const jobs = workloadsOf(all).map(({ spec: { template } }) =>
    job.replace('$1', template.metadata.labels['app.kubernetes.io/component'] ?? ''),
  );
  for (const [, name = ''] of file('alerts.yaml').matchAll(/job="([^"]+)"/g)) expect(jobs).toContain(name);
});

test('what is rendered is the same every time', async () => {
  expect(await renderText()).toBe(await renderText());
});
