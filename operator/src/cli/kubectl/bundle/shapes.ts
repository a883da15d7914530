import { customResourceDefinition } from '../../../api/crd.ts';
import { definitions } from '../../../api/definitions.ts';
import type { CustomKind } from '../../../api/types.ts';
import { asRecord } from '../../../cluster/json.ts';

/**
 * What of an object goes into a support bundle: named fields and no others. Annotations, environment variables and the
 * contents of Secrets and ConfigMaps are in none of them, so whatever stands there cannot get in.
 */
export type Shape = true | readonly [Shape] | { readonly [field: string]: Shape };

/** The fields of a value that a shape names; `true` takes texts, numbers, truth values, and lists of these. */
export function pick(value: unknown, shape: Shape): unknown {
  if (shape === true)
    return isPlain(value) ? value : Array.isArray(value) ? (value as unknown[]).filter(isPlain) : undefined;
  if (isList(shape)) return Array.isArray(value) ? (value as unknown[]).map((item) => pick(item, shape[0])) : undefined;
  const fields = asRecord(value);
  if (fields === undefined) return undefined;
  const every = shape['*'];
  const names = every === undefined ? Object.keys(shape) : Object.keys(fields);
  return Object.fromEntries(
    names.flatMap((name) => {
      const taken = name in fields ? pick(fields[name], shape[name] ?? every ?? true) : undefined;
      return taken === undefined ? [] : [[name, taken]];
    }),
  );
}

function isPlain(value: unknown): boolean {
  return ['string', 'number', 'boolean'].includes(typeof value);
}

function isList(shape: Shape): shape is readonly [Shape] {
  return Array.isArray(shape);
}

/** Fields that are taken as they are. */
function plain(...names: readonly string[]): Readonly<Record<string, true>> {
  return Object.fromEntries(names.map((name) => [name, true]));
}

const metadata = {
  ...plain('namespace', 'name', 'uid', 'generation', 'creationTimestamp', 'deletionTimestamp'),
  labels: { '*': true },
  ownerReferences: [{ kind: true, name: true }],
} as const;
const conditions = [
  { type: true, status: true, reason: true, message: true, observedGeneration: true, lastTransitionTime: true },
] as const;
const state = {
  running: { startedAt: true },
  waiting: { reason: true, message: true },
  terminated: { reason: true, message: true, exitCode: true, signal: true, startedAt: true, finishedAt: true },
} as const;
const containerStatuses = [
  { name: true, image: true, imageID: true, ready: true, restartCount: true, state, lastState: state },
] as const;
const resources = { requests: { '*': true }, limits: { '*': true } } as const;
/** Of variables the names alone. */
const containers = [{ name: true, image: true, resources, env: [{ name: true }] }] as const;
const podSpec = {
  ...plain('nodeName', 'serviceAccountName', 'hostNetwork', 'priorityClassName'),
  nodeSelector: { '*': true },
  containers,
  initContainers: containers,
  tolerations: [{ key: true, operator: true, value: true, effect: true }],
} as const;

/** Objects of Kubernetes. */
export const shapes = {
  pod: {
    metadata,
    spec: podSpec,
    status: {
      ...plain('phase', 'reason', 'message', 'hostIP', 'podIP', 'startTime'),
      conditions,
      ...plain(),
      containerStatuses,
      initContainerStatuses: containerStatuses,
    },
  },
  workload: {
    metadata,
    spec: { replicas: true, updateStrategy: { type: true }, template: { spec: podSpec } },
    status: {
      ...plain('observedGeneration', 'replicas', 'readyReplicas', 'updatedReplicas'),
      conditions,
      ...plain('desiredNumberScheduled', 'updatedNumberScheduled', 'numberReady', 'numberAvailable'),
      ...plain('currentNumberScheduled', 'numberMisscheduled', 'numberUnavailable'),
    },
  },
  node: {
    metadata,
    spec: { podCIDRs: true, unschedulable: true, taints: [{ key: true, value: true, effect: true }] },
    status: {
      nodeInfo: {
        ...plain('kernelVersion', 'osImage', 'operatingSystem', 'architecture'),
        ...plain('containerRuntimeVersion', 'kubeletVersion'),
      },
      addresses: [{ type: true, address: true }],
      allocatable: { '*': true },
      conditions,
    },
  },
  event: {
    metadata: { namespace: true, creationTimestamp: true },
    ...plain('type', 'reason', 'action', 'note', 'eventTime', 'reportingController'),
    ...plain('deprecatedCount', 'deprecatedFirstTimestamp', 'deprecatedLastTimestamp'),
    series: { count: true, lastObservedTime: true },
    regarding: { kind: true, namespace: true, name: true },
    related: { kind: true, namespace: true, name: true },
  },
  lease: {
    metadata: { namespace: true, name: true },
    spec: {
      holderIdentity: true,
      leaseDurationSeconds: true,
      acquireTime: true,
      renewTime: true,
      leaseTransitions: true,
    },
  },
  /** The names alone. */
  configMap: { metadata: { namespace: true, name: true, creationTimestamp: true } },
  definition: {
    metadata: { name: true, generation: true, creationTimestamp: true },
    spec: { versions: [{ name: true, served: true, storage: true }] },
    status: { storedVersions: true, conditions },
  },
} as const satisfies Readonly<Record<string, Shape>>;

/** What an agent says of its node (agent/report.ts). */
export const reportShape = {
  ...plain('node', 'sourcesComplete'),
  netlink: { writes: true, rounds: true },
  rejections: [{ origin: true, object: true, errors: true }],
  networks: [
    {
      ...plain('name', 'namespace', 'netns', 'device', 'mtu', 'addresses', 'listeners'),
      problem: true,
      peers: [
        {
          ...plain('name', 'kind', 'peerId', 'addresses', 'endpoint', 'cipher'),
          keys: { primary: true, secondary: true },
          ...plain('keyGeneration', 'routes', 'claims', 'rxBytes', 'txBytes', 'rxPackets'),
          ...plain('txPackets', 'ready', 'reason', 'message'),
        },
      ],
      neighbours: [{ node: true, peerId: true, endpoint: true, podBlocks: true, connected: true, message: true }],
      attachments: [{ containerId: true, ifname: true, netns: true, pod: true, addresses: true }],
    },
  ],
} as const satisfies Shape;

/** The fields of one of our kinds that its schema knows. None of them holds a secret: material is named, never inline. */
export function shapeOf(kind: CustomKind): Shape {
  const definition = definitions.find((one) => one.kind === kind);
  if (definition === undefined) throw new Error(`no definition of ${kind}`);
  const { spec } = customResourceDefinition(definition);
  const [version] = (asRecord(spec)?.['versions'] ?? []) as readonly unknown[];
  const schema = asRecord(asRecord(asRecord(version)?.['schema'])?.['openAPIV3Schema']);
  const fields = asRecord(schema?.['properties']);
  return { kind: true, metadata, spec: fromSchema(fields?.['spec']), status: fromSchema(fields?.['status']) };
}

function fromSchema(schema: unknown): Shape {
  const { properties, items, additionalProperties } = asRecord(schema) ?? {};
  const fields = asRecord(properties);
  if (fields !== undefined)
    return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, fromSchema(field)]));
  if (items !== undefined) return [fromSchema(items)];
  return additionalProperties === undefined ? true : { '*': fromSchema(additionalProperties) };
}
