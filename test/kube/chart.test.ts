import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { baseManifests } from '../../operator/src/api/rule-cases.ts';
import { chartFolder, helm, render, renderText } from '../support/kube/chart.ts';
import { type Container, type PodTemplate, workloadsOf } from '../support/kube/chart-objects.ts';
import { monitoringCrds } from '../programs/monitoring.ts';
import { ControlPlane, systemNamespace } from '../support/kube/control-plane.ts';
import type { Answer } from '../support/kube/kube-user.ts';
import { placesOf } from '../support/kube/paths.ts';
import { eventually, type Finished } from '../support/run.ts';

/** The chart on a real API server, by the real Helm. */

let plane: ControlPlane;
beforeAll(async () => {
  plane = await ControlPlane.start({ bare: true, controllers: true });
  await plane.namespace(systemNamespace);
  for (const file of monitoringCrds) await plane.admin.applyYaml(readFileSync(file, 'utf8'));
  await plane.admin.kubectl('wait', '--for=condition=Established', 'crd', '--all', '--timeout=60s');
}, 180_000);
afterAll(() => plane.stop());

/** All that the chart has for Prometheus and Grafana. */
const monitoring = {
  enabled: true,
  podMonitor: { enabled: true, labels: { release: 'prometheus' }, interval: '1m' },
  prometheusRule: { enabled: true, labels: { release: 'prometheus' } },
  dashboard: { enabled: true, labels: { grafana_dashboard: '1' } },
};

describe('the API server', () => {
  const apply = (manifests: string): Promise<Finished> =>
    plane.admin.tryKubectl(['apply', '--server-side', '--dry-run=server', '--validate=strict', '-f', '-'], manifests);

  test.each([
    ['as it comes', {}],
    [
      'with all that Kubernetes itself has kinds for',
      {
        controller: { replicas: 2, networkPolicy: { enabled: true, apiServerCidrs: ['10.0.0.1/32'] } },
        cni: { mode: 'chain' },
        listenerServices: [{ name: 'vpn', ports: [{ name: 'udp', protocol: 'UDP', port: 1194 }] }],
        metrics: { enabled: true },
      },
    ],
    ['with the plugin being removed', { cni: { mode: 'remove' }, agent: { maxUnavailable: '25%' } }],
  ])('takes all of it %s, with no field that it does not know', async (_, values) => {
    await plane.namespace('dry');
    // A dry run makes no namespace for what comes after it.
    await plane.namespace('dry-ca');
    const manifests = await renderText({ values, namespace: 'dry' });
    const { code, stderr } = await apply(manifests);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  });

  test.each([
    ['PodMonitor', /^(\s+)relabelings:$/m, '$1relabeling:', '[0].relabeling: field not declared in schema'],
    ['PodMonitor', 'interval: 1m', 'interval: 1 m', 'spec.podMetricsEndpoints[0].interval in body should match'],
    ['PrometheusRule', /^(\s+)expr: /m, '$1expression: ', '.rules[0].expression: field not declared in schema'],
  ])("takes a %s as Prometheus Operator's own definition has it, and no other", async (kind, from, to, words) => {
    const options = {
      values: { metrics: monitoring },
      templates: ['monitoring'],
      apiVersions: ['monitoring.coreos.com/v1'],
    };
    const manifests = (await renderText(options)).split(/^---$/m).filter((text) => text.includes(`kind: ${kind}\n`));
    expect(manifests).toHaveLength(1);
    const [manifest = ''] = manifests;
    const { code, stderr } = await apply(manifest);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const broken = manifest.replace(from, to);
    expect(broken).not.toBe(manifest);
    expect(await apply(broken)).toMatchObject({ code: 1, stderr: expect.stringContaining(words) });
  });
});

describe('pods', () => {
  const dryRun = '?dryRun=All';
  let templates: Map<string, PodTemplate>;

  beforeAll(async () => {
    templates = new Map(workloadsOf(await render()).map(({ metadata, spec }) => [metadata.name, spec.template]));
    for (const level of ['restricted', 'baseline', 'privileged']) {
      await plane.namespace(level, { 'pod-security.kubernetes.io/enforce': level });
      for (const name of ['default', 'ovpn-agent', 'ovpn-controller']) {
        const metadata = { name, namespace: level };
        await plane.admin.apply(`/api/v1/namespaces/${level}/serviceaccounts/${name}`, {
          apiVersion: 'v1',
          kind: 'ServiceAccount',
          metadata,
        });
      }
    }
  });

  const start = (level: string, { metadata, spec }: PodTemplate): Promise<Answer> =>
    plane.admin.send('POST', `/api/v1/namespaces/${level}/pods${dryRun}`, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { ...metadata, name: 'one' },
      spec,
    });

  const changed = (template: PodTemplate, change: (container: Container) => object): PodTemplate => ({
    ...template,
    spec: { ...template.spec, containers: template.spec.containers.map((each) => ({ ...each, ...change(each) })) },
  });

  test('of the controller start where pods have to be restricted', async () => {
    expect((await start('restricted', templates.get('ovpn-controller')!)).status).toBe(201);
  });

  test.each(['ovpn-agent', 'ovpn-holder'])('of %s need a namespace that admits privileged ones', async (name) => {
    expect((await start('baseline', templates.get(name)!)).status).toBe(403);
    expect((await start('privileged', templates.get(name)!)).status).toBe(201);
  });

  test('of the agent are privileged because Kubernetes lets nobody else mount for the node', async () => {
    const capabilities = { add: ['NET_ADMIN', 'SYS_ADMIN'], drop: ['ALL'] };
    const unprivileged = changed(templates.get('ovpn-agent')!, ({ name, securityContext }) =>
      name === 'agent' ? { securityContext: { ...securityContext, privileged: false, capabilities } } : {},
    );
    const { status, body } = await start('privileged', unprivileged);
    expect([status, body['message']]).toEqual([
      422,
      expect.stringContaining('Bidirectional mount propagation is available only to privileged containers'),
    ]);
  });
});

describe('the life of an installation', () => {
  const crd = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/vpnkeys.ovpn-operator.io';
  const deployment = `/apis/apps/v1/namespaces/${systemNamespace}/deployments/ovpn-controller`;
  const key = { ...baseManifests.tlsKey, metadata: { namespace: 'default', name: 'kept' } };
  const ca = `/api/v1/namespaces/${systemNamespace}-ca`;
  let next: string;
  let before: string[];

  beforeAll(() => {
    // The chart's next version: a kind has a column more.
    next = join(mkdtempSync(join(tmpdir(), 'ovpn-chart-')), 'ovpn-operator');
    cpSync(chartFolder, next, { recursive: true });
    const edit = (file: string, from: string, to: string): void => {
      const text = readFileSync(join(next, file), 'utf8');
      expect(text).toContain(from);
      writeFileSync(join(next, file), text.replace(from, to));
    };
    const column = '      additionalPrinterColumns:\n';
    edit('Chart.yaml', 'version: 0.', 'version: 9.');
    edit(
      'files/crds/vpnkeys.ovpn-operator.io.yaml',
      column,
      `${column}        - { name: New, type: string, jsonPath: .metadata.name }\n`,
    );
  });
  afterAll(() => rmSync(join(next, '..'), { recursive: true, force: true }));

  const call = async (args: readonly string[], values?: object): Promise<string> => {
    const { code, stdout, stderr } = await helm([...args, '--namespace', systemNamespace], {
      kubeconfig: plane.admin.kubeconfig,
      ...(values === undefined ? {} : { values }),
    });
    if (code !== 0) throw new Error(`helm ${args.join(' ')} exited with ${code}:\n${stderr}${stdout}`);
    return stdout;
  };

  const columns = async (): Promise<string[]> => {
    const { spec } = await plane.admin.get<{
      spec: { versions: { additionalPrinterColumns: { name: string }[] }[] };
    }>(crd);
    return spec.versions[0]!.additionalPrinterColumns.map(({ name }) => name);
  };
  const replicas = async (): Promise<number> =>
    (await plane.admin.get<{ spec: { replicas: number } }>(deployment)).spec.replicas;

  /** What Prometheus Operator finds of the installation. */
  const watched = async (): Promise<string[]> => {
    const kinds = 'podmonitors,prometheusrules';
    const found = await plane.admin.kubectl('get', kinds, '--namespace', systemNamespace, '-o', 'name');
    return found.split('\n').filter((name) => name !== '');
  };

  /** The names of all objects there are, but for what Kubernetes writes for itself. */
  const everything = async (): Promise<string[]> => {
    const kinds = (await plane.admin.kubectl('api-resources', '--verbs=list', '-o', 'name')).trim().split('\n');
    const own = /^(events|leases|apiservices|flowschemas|prioritylevelconfigurations|ipaddresses)\b/;
    const wanted = kinds.filter((kind) => !own.test(kind)).join(',');
    return (await plane.admin.kubectl('get', wanted, '-A', '-o', 'name')).trim().split('\n').sort();
  };

  test('begins', async () => {
    before = await everything();
    const notes = await call(['install', 'ovpn', chartFolder], { cni: { mode: 'chain' } });
    expect(notes).toContain(`kubectl -n ${systemNamespace} rollout status`);
    expect(notes).toContain('BEFORE `helm uninstall`');
    await eventually('the kinds are served', async () =>
      (await plane.admin.send('GET', placesOf(key).collection)).status === 200 ? true : undefined,
    );
    await plane.admin.apply(placesOf(key).path, key);
    await plane.admin.apply(`${ca}/secrets/corp`, {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'corp', namespace: `${systemNamespace}-ca` },
      stringData: { 'tls.key': 'a CA' },
    });
    expect(await replicas()).toBe(1);
  });

  test('goes on with a newer version, whose CRDs come along', async () => {
    expect(await columns()).not.toContain('New');
    await call(['upgrade', 'ovpn', next], {
      cni: { mode: 'chain' },
      controller: { replicas: 2 },
      metrics: monitoring,
    });
    expect(await columns()).toContain('New');
    expect(await replicas()).toBe(2);
    expect(await watched()).toEqual([
      'podmonitor.monitoring.coreos.com/ovpn',
      'prometheusrule.monitoring.coreos.com/ovpn',
    ]);
    expect((await plane.admin.send('GET', placesOf(key).path)).status).toBe(200);
  });

  test('goes back', async () => {
    await call(['rollback', 'ovpn', '1']);
    expect(await columns()).not.toContain('New');
    expect(await replicas()).toBe(1);
    expect(await watched()).toEqual([]);
    expect((await plane.admin.send('GET', placesOf(key).path)).status).toBe(200);
  });

  test('leaves the CRDs as they are when somebody else brings them from now on', async () => {
    await call(['upgrade', 'ovpn', next]);
    await call(['upgrade', 'ovpn', chartFolder], { crds: { install: false } });
    expect(await columns()).toContain('New');
    expect((await plane.admin.send('GET', placesOf(key).path)).status).toBe(200);
    await call(['upgrade', 'ovpn', chartFolder]);
  });

  test('ends with nothing left but the kinds, their objects and the CAs', async () => {
    await call(['upgrade', 'ovpn', chartFolder], { cni: { mode: 'remove' } });
    await call(['uninstall', 'ovpn']);
    const left = await eventually('what was installed is gone', async () => {
      const found = (await everything()).filter((name) => !before.includes(name));
      return found.some((name) => name.startsWith('pod/') || name.includes('.apps/')) ? undefined : found;
    });
    expect(left).toEqual([
      ...['vpnallocations', 'vpnkeys', 'vpnnetworks', 'vpnpeers'].map(
        (plural) => `customresourcedefinition.apiextensions.k8s.io/${plural}.ovpn-operator.io`,
      ),
      `namespace/${systemNamespace}-ca`,
      'secret/corp',
      'vpnkey.ovpn-operator.io/kept',
    ]);
  });

  test('begins anew with what was left', async () => {
    await call(['install', 'ovpn', chartFolder]);
    expect((await plane.admin.send('GET', placesOf(key).path)).status).toBe(200);
    expect((await plane.admin.send('GET', `${ca}/secrets/corp`)).status).toBe(200);
    await call(['uninstall', 'ovpn']);
  });
});
