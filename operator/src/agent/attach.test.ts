import { afterEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseResource } from '../api/parse.ts';
import type { VpnNetwork } from '../api/types.ts';
import { networkManifest } from '../cluster/testing/objects.ts';
import { recordingLog } from '../cluster/testing/log.ts';
import { OvpnError } from '../errors.ts';
import type { Link } from '../kernel/rtnetlink/links.ts';
import type { PodFacts } from '../api/attach-rules.ts';
import { type AttachAgent, Attacher, type AttachNetwork, type AttachNode } from './attach.ts';
import {
  type AddRequest,
  type Attachment,
  type CheckRequest,
  type DelRequest,
  type GcRequest,
  protocolVersion,
} from './attach-protocol.ts';
import { type AttachmentRecord, AttachmentStore } from './attachment-store.ts';
import type { DesiredNetwork } from './desired.ts';
import type { LeftDetach } from './left-detaches.ts';
import { vethName } from './names.ts';
import type { SandboxLinks } from './sandbox.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

const link = (name: string, mac: string, index: number): Link => ({
  index,
  name,
  up: true,
  mtu: 1416,
  mac,
  kind: 'veth',
  ovpnMode: undefined,
  alias: undefined,
  peerIndex: undefined,
  carrier: true,
  loopback: false,
});

/** A network whose sandboxes are a set. */
class FakeAgent implements AttachAgent {
  readonly attached = new Set<string>();
  readonly calls: string[] = [];
  failAttach: Error | undefined;
  failDetach: Error | undefined;
  deviations: string[] = [];
  /** Addresses that the kernel has a route to. */
  readonly routed = new Set<string>();
  collect = (): number => 0;
  kernel = undefined;
  device: Link | undefined = link('ovpn0', '', 0x100000);
  destinations: ReadonlySet<string> = new Set(['10.80.0.0/24', 'fd80::/64', '192.168.7.0/24', '0.0.0.0/0']);
  desired: DesiredNetwork | undefined = {
    name: 'corp',
    mtu: 1416,
    addresses: ['10.80.0.1/24'],
    podBlocks: ['10.81.0.0/24', 'fd81::/64'],
    listeners: [],
    pools: [],
  };

  attach(record: AttachmentRecord): SandboxLinks {
    this.calls.push(`attach ${record.containerId}`);
    if (this.failAttach !== undefined) throw this.failAttach;
    this.attached.add(record.containerId);
    return { inside: link(record.ifname, record.mac, 2), far: link(vethName(record), '02:ff:00:00:00:01', 9) };
  }

  check(record: AttachmentRecord): string[] {
    return this.attached.has(record.containerId) ? this.deviations : ['vpn0 is not there'];
  }

  collectGone(): number {
    this.calls.push('collect');
    return this.collect();
  }

  hasRouteTo(address: string): boolean {
    return this.routed.has(address);
  }

  detach(record: AttachmentRecord): void {
    this.calls.push(`detach ${record.containerId}`);
    if (this.failDetach !== undefined) throw this.failDetach;
    this.attached.delete(record.containerId);
  }
}

class Scene {
  readonly agent = new FakeAgent();
  /** Further networks, by name. */
  readonly others = new Map<string, AttachNetwork>();
  readonly pods = new Map<string, Partial<PodFacts>>();
  readonly folder: string;
  readonly log = recordingLog();
  readonly left: LeftDetach[] = [];
  store: AttachmentStore;
  attacher: Attacher;
  started = true;
  selected = true;
  /** Which namespace the paths name. */
  sandbox = 'first';
  readonly #network: VpnNetwork;

  constructor(attach: object = { namespaces: { from: 'Names', names: ['shop'] } }) {
    this.folder = mkdtempSync(join(tmpdir(), 'attach-'));
    cleanups.push(() => rmSync(this.folder, { recursive: true, force: true }));
    this.#network = parsed('corp', attach);
    this.store = this.#open();
    this.attacher = this.#attacher();
  }

  restart(): void {
    this.store = this.#open();
    this.attacher = this.#attacher();
  }

  /** Adds a network beside `corp`, with addresses of its own. */
  other(name: string, attach: object, third: number): FakeAgent {
    const agent = new FakeAgent();
    agent.destinations = new Set([`10.${third}.0.0/16`, '0.0.0.0/0']);
    this.others.set(name, { network: parsed(name, attach), agent });
    return agent;
  }

  #open(): AttachmentStore {
    return new AttachmentStore(this.folder, () => undefined);
  }

  /** ADD of a single network. */
  async add(request: AddRequest): Promise<Attachment> {
    const { attachments } = await this.attacher.add(request);
    expect(attachments).toHaveLength(1);
    return attachments[0]!;
  }

  #attacher(): Attacher {
    const isStarted = (): boolean => this.started;
    const corp = { network: this.#network, agent: this.agent };
    const node: AttachNode = {
      get started() {
        return isStarted();
      },
      find: (name) => (name === 'corp' && this.selected ? corp : this.others.get(name)),
      all: () => [this.#network, ...[...this.others.values()].map(({ network }) => network)],
      settled: () => Promise.resolve(),
      findPod: ({ namespace, name }) => {
        const found = this.pods.get(`${namespace}/${name}`);
        if (found === undefined) throw new OvpnError('PodUnknown', 'not there');
        return Promise.resolve({ namespace, name, labels: {}, annotations: {}, namespaceLabels: {}, ...found });
      },
      identifySandbox: () => this.sandbox,
      leftDetaches: () => this.left,
    };
    return new Attacher(node, this.store, this.log.log);
  }
}

function parsed(name: string, attach: object): VpnNetwork {
  const pools = { peers: ['10.80.0.0/16'], pods: ['10.81.0.0/16', 'fd81::/56'] };
  const nodes = [
    { name: 'n1', addresses: ['10.80.0.1'], podBlocks: ['10.81.0.0/24', 'fd81::/64'] },
    { name: 'n2', addresses: ['10.80.0.2'], podBlocks: ['10.81.2.0/24'] },
  ];
  const result = parseResource(networkManifest(name, { pools, nodes, attach }), 'test');
  if (!result.ok) throw result.errors[0] ?? new Error('refused');
  return result.resource as VpnNetwork;
}

const add = (containerId = 'abc', fields: Partial<AddRequest> = {}): AddRequest => ({
  version: protocolVersion,
  op: 'add',
  config: 'ovpn',
  network: 'corp',
  containerId,
  cniIfname: 'eth0',
  ifname: 'vpn0',
  netns: `/run/netns/${containerId}`,
  pod: { namespace: 'shop', name: 'web-0' },
  ...fields,
});
const del = (containerId = 'abc', fields: Partial<DelRequest> = {}): DelRequest => ({
  version: protocolVersion,
  op: 'del',
  config: 'ovpn',
  containerId,
  cniIfname: 'eth0',
  ...fields,
});
const named = (name: string) => expect.objectContaining({ name }) as unknown as Error;

describe('ADD', () => {
  test('says what stands in the sandbox', async () => {
    const scene = new Scene();
    const attachment = await scene.add(add());
    const mac = scene.store.get(add())?.mac;
    expect(attachment).toEqual({
      containerId: 'abc',
      ifname: 'vpn0',
      network: 'corp',
      netns: '/run/netns/abc',
      mac,
      mtu: 1416,
      hostInterface: { name: vethName(add()), mac: '02:ff:00:00:00:01', netns: '' },
      addresses: [
        { address: '10.81.0.2/32', gateway: '10.81.0.1' },
        { address: 'fd81::2/128', gateway: 'fd81::1' },
      ],
      // A peer's default route stays out of the pod.
      routes: [
        { dst: '10.80.0.0/24', gw: '10.81.0.1' },
        { dst: '192.168.7.0/24', gw: '10.81.0.1' },
        { dst: 'fd80::/64', gw: 'fd81::1' },
      ],
    });
    // Unicast and locally administered.
    expect(mac).toMatch(/^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/);
  });

  test('is the same a second time, also after a restart', async () => {
    const scene = new Scene();
    const first = await scene.add(add());
    expect(await scene.add(add())).toEqual(first);
    scene.restart();
    expect(await scene.add(add())).toEqual(first);
    expect(scene.agent.calls).toEqual(['attach abc', 'attach abc', 'attach abc']);
    expect(scene.log.events().filter((event) => event === 'attachment.added')).toHaveLength(1);
  });

  test('gives every pod an address of its own, also side by side', async () => {
    const scene = new Scene();
    const ids = Array.from({ length: 20 }, (_, i) => `pod${i}`);
    const all = await Promise.all(ids.map((id) => scene.add(add(id))));
    expect(new Set(all.flatMap(({ addresses }) => addresses.map(({ address }) => address))).size).toBe(40);
  });

  test('writes the attachment down before the kernel is told', async () => {
    const scene = new Scene();
    const attach = scene.agent.attach.bind(scene.agent);
    scene.agent.attach = (record) => {
      expect(new AttachmentStore(scene.folder, () => undefined).get(record)).toEqual(record);
      return attach(record);
    };
    await scene.add(add());
  });

  test('of a pod without a name of its own is let in', async () => {
    const request: Record<string, unknown> = { ...add() };
    delete request['pod'];
    expect(await new Scene().add(request as unknown as AddRequest)).toMatchObject({
      containerId: 'abc',
    });
  });

  test.each<[string, (scene: Scene) => void, Partial<AddRequest>, string]>([
    ['an unknown network', () => undefined, { network: 'lab' }, 'NetworkNotReady'],
    ['a network that leaves this node out', (scene) => (scene.selected = false), {}, 'NetworkNotReady'],
    ['a network without a device yet', (scene) => (scene.agent.device = undefined), {}, 'NetworkNotReady'],
    ['a network that was never planned', (scene) => (scene.agent.desired = undefined), {}, 'NetworkNotReady'],
    ['a namespace that is not named', () => undefined, { pod: { namespace: 'other', name: 'x' } }, 'AttachNotAllowed'],
    ['no pod blocks', ({ agent }) => (agent.desired = { ...agent.desired!, podBlocks: [] }), {}, 'PoolExhausted'],
    [
      'a full block',
      ({ agent }) => (agent.desired = { ...agent.desired!, podBlocks: ['10.81.0.0/32'] }),
      {},
      'PoolExhausted',
    ],
    [
      'one full block of two',
      ({ agent }) => (agent.desired = { ...agent.desired!, podBlocks: ['10.81.0.0/24', 'fd81::/128'] }),
      {},
      'PoolExhausted',
    ],
  ])('is refused with %s, and changes nothing', async (_name, arrange, fields, name) => {
    const scene = new Scene();
    arrange(scene);
    await expect(scene.add(add('abc', fields))).rejects.toThrow(named(name));
    expect([...scene.store.all()]).toEqual([]);
    expect(scene.store.isTaken('corp', '10.81.0.2')).toBe(false);
    expect(scene.agent.attached.size).toBe(0);
  });

  test.each<[string, Partial<AddRequest>]>([
    ['another sandbox', { netns: '/run/netns/other' }],
    ['another network', { network: 'lab' }],
  ])('is refused when the interface is attached in %s', async (_name, fields) => {
    const scene = new Scene();
    await scene.add(add());
    await expect(scene.add(add('abc', fields))).rejects.toThrow();
    expect(scene.store.get(add())?.netns).toBe('/run/netns/abc');
    expect(scene.agent.attached).toEqual(new Set(['abc']));
  });

  test('takes back what it began when the kernel refuses', async () => {
    const scene = new Scene();
    scene.agent.failAttach = new OvpnError('NamespaceUnusable', 'not there');
    await expect(scene.add(add())).rejects.toThrow(named('NamespaceUnusable'));
    expect(scene.agent.calls).toEqual(['attach abc', 'detach abc']);
    expect([...scene.store.all()]).toEqual([]);
    scene.agent.failAttach = undefined;
    expect((await scene.add(add('next'))).addresses[0]?.address).toBe('10.81.0.2/32');
  });

  test('leaves an attachment that stood before alone when the kernel refuses', async () => {
    const scene = new Scene();
    await scene.add(add());
    scene.agent.failAttach = new OvpnError('KernelRefused', 'busy');
    await expect(scene.add(add())).rejects.toThrow(named('KernelRefused'));
    expect(scene.store.get(add())).toBeDefined();
    expect(scene.agent.calls).not.toContain('detach abc');
  });

  test('tells the first error when taking back fails, too, and keeps what may be left over written down', async () => {
    const scene = new Scene();
    scene.agent.failAttach = new OvpnError('NamespaceUnusable', 'not there');
    scene.agent.failDetach = new Error('kernel away');
    await expect(scene.add(add())).rejects.toThrow(named('NamespaceUnusable'));
    expect(scene.store.isTaken('corp', '10.81.0.2')).toBe(true);
    expect(scene.log.events()).toContain('attachment.left-over');
    scene.agent.failDetach = undefined;
    await scene.attacher.del(del());
    expect(scene.store.isTaken('corp', '10.81.0.2')).toBe(false);
  });
});

describe('DEL', () => {
  test('detaches, forgets, and is no error a second time', async () => {
    const scene = new Scene();
    await scene.add(add());
    await scene.attacher.del(del());
    await scene.attacher.del(del());
    expect(scene.agent.calls).toEqual(['attach abc', 'detach abc']);
    scene.restart();
    expect(scene.store.get(add())).toBeUndefined();
  });

  test('of an attachment that nobody knows is no error', async () => {
    const scene = new Scene();
    await scene.attacher.del(del('never'));
    await scene.attacher.del(del('never', { config: 'no-such-config' }));
    expect(scene.agent.calls).toEqual([]);
  });

  test.each<[string, Partial<DelRequest>]>([
    ['another interface of the runtime', { cniIfname: 'net1' }],
    ['another configuration', { config: 'other' }],
  ])('of %s takes nothing of this one', async (_name, fields) => {
    const scene = new Scene();
    await scene.add(add());
    await scene.attacher.del(del('abc', fields));
    expect(scene.agent.calls).toEqual(['attach abc']);
  });

  test('of a network that is gone gives the address free', async () => {
    const scene = new Scene();
    await scene.add(add());
    scene.selected = false;
    await scene.attacher.del(del());
    expect(scene.store.isTaken('corp', '10.81.0.2')).toBe(false);
  });

  test('that fails keeps the attachment for the next try', async () => {
    const scene = new Scene();
    await scene.add(add());
    scene.agent.failDetach = new Error('busy');
    await expect(scene.attacher.del(del())).rejects.toThrow('busy');
    expect(scene.store.get(add())).toBeDefined();
    scene.agent.failDetach = undefined;
    await scene.attacher.del(del());
    expect(scene.store.get(add())).toBeUndefined();
  });

  test('during an ADD of the same interface waits for it', async () => {
    const scene = new Scene();
    const [attachment] = await Promise.all([scene.add(add()), scene.attacher.del(del())]);
    expect(attachment.containerId).toBe('abc');
    expect(scene.agent.calls).toEqual(['attach abc', 'detach abc']);
    expect([...scene.store.all()]).toEqual([]);
  });
});

test('calls that come at once leave room for other work between them', async () => {
  const scene = new Scene();
  const containers = ['a', 'b', 'c', 'd'];
  await Promise.all(containers.map((id) => scene.attacher.add(add(id))));
  const order = scene.agent.calls;
  order.length = 0;
  const turn = (): void => {
    order.push('turn');
    if (order.length < 100) setImmediate(turn);
  };
  setImmediate(turn);
  await Promise.all(containers.map((id) => scene.attacher.del(del(id))));
  for (const [index, id] of containers.entries()) {
    if (index > 0) expect(order[order.indexOf(`detach ${id}`) - 1]).toBe('turn');
  }
});

describe('ADD without a network', () => {
  const chosen = (fields: Partial<AddRequest> = {}): AddRequest => {
    const { version, op, config, containerId, cniIfname, netns, pod } = add();
    return {
      version,
      op,
      config,
      containerId,
      cniIfname,
      netns,
      ...(pod === undefined ? {} : { pod }),
      ifname: 'vpn',
      ...fields,
    };
  };
  const all = { namespaces: { from: 'All' } };
  const ask = async (scene: Scene, fields: Partial<AddRequest> = {}): Promise<string[]> =>
    (await scene.attacher.add(chosen(fields))).attachments.map(({ ifname, network }) => `${ifname} ${network}`);

  function annotated(networks?: string, labels: Record<string, string> = {}): Scene {
    const scene = new Scene();
    scene.other('lab', { ...all, podSelector: { matchLabels: { lab: 'yes' } } }, 20);
    scene.other('attic', { ...all, podSelector: { matchExpressions: [{ key: 'lab', operator: 'Exists' }] } }, 30);
    const annotations: Record<string, string> = networks === undefined ? {} : { 'ovpn-operator.io/networks': networks };
    scene.pods.set('shop/web-0', { labels, annotations });
    return scene;
  }

  test.each<[string, string | undefined, Record<string, string>, string[]]>([
    ['the networks of the annotation, in its order', 'lab, corp', { lab: 'yes' }, ['vpn0 lab', 'vpn1 corp']],
    ['those whose selectors take the pod, by name', undefined, { lab: 'yes' }, ['vpn0 attic', 'vpn1 lab']],
    ['only those whose selectors take it', undefined, { lab: 'no' }, ['vpn0 attic']],
    ['none for a pod that nothing chooses, though it might join one', undefined, {}, []],
    ['none for a pod that says so, whatever selects it', '', { lab: 'yes' }, []],
  ])('attaches %s', async (_name, networks, labels, expected) => {
    const scene = annotated(networks, labels);
    expect(await ask(scene)).toEqual(expected);
    expect(await ask(scene)).toEqual(expected);
    expect([...scene.store.all()]).toHaveLength(expected.length);
    await scene.attacher.del(del());
    expect([...scene.store.all()]).toEqual([]);
  });

  test('keeps names when it is repeated for a pod that has changed its mind', async () => {
    const scene = annotated('attic,lab', { lab: 'yes' });
    expect(await ask(scene)).toEqual(['vpn0 attic', 'vpn1 lab']);
    scene.pods.set('shop/web-0', { labels: { lab: 'yes' }, annotations: { 'ovpn-operator.io/networks': 'corp,lab' } });
    expect(await ask(scene)).toEqual(['vpn2 corp', 'vpn1 lab']);
    expect(scene.store.ofNetwork('attic')).toEqual([]);
  });

  test('gives interfaces of two chains names of their own', async () => {
    const scene = annotated('corp');
    expect(await ask(scene)).toEqual(['vpn0 corp']);
    scene.pods.set('shop/web-0', { annotations: { 'ovpn-operator.io/networks': 'attic' }, labels: { lab: '' } });
    expect(await ask(scene, { config: 'second' })).toEqual(['vpn1 attic']);
  });

  test('attaches nothing outside of Kubernetes', async () => {
    const { pod, ...request } = chosen();
    expect(pod).toBeDefined();
    expect(await annotated('corp').attacher.add(request)).toEqual({ attachments: [] });
  });

  test.each<[string, string, string]>([
    ['names what is no name', 'corp,,lab', 'InvalidField'],
    ['names a network twice', 'corp, corp', 'InvalidField'],
    ['names a network that is not here', 'corp,moon', 'NetworkNotReady'],
    ['names a network that does not let it in', 'corp,lab', 'AttachNotAllowed'],
  ])('is refused when the annotation %s, and attaches none of the others', async (_name, networks, name) => {
    const scene = annotated(networks);
    await expect(scene.attacher.add(chosen())).rejects.toThrow(named(name));
    expect([...scene.store.all()]).toEqual([]);
  });

  test('is refused while the networks are not known, or the pod', async () => {
    const scene = annotated('corp');
    scene.started = false;
    await expect(scene.attacher.add(chosen())).rejects.toThrow(named('NetworkNotReady'));
    scene.started = true;
    scene.pods.clear();
    await expect(scene.attacher.add(chosen())).rejects.toThrow(named('PodUnknown'));
    expect([...scene.store.all()]).toEqual([]);
  });

  test('takes all back when one of several cannot stand', async () => {
    const scene = annotated('corp,lab', { lab: 'yes' });
    const lab = scene.others.get('lab')?.agent as FakeAgent;
    lab.failAttach = new OvpnError('KernelRefused', 'busy');
    await expect(scene.attacher.add(chosen())).rejects.toThrow(named('KernelRefused'));
    expect([...scene.store.all()]).toEqual([]);
    expect(scene.agent.attached.size + lab.attached.size).toBe(0);
  });

  test.each([
    ['10.80.0.0/24', '10.80.0.0/24'],
    ['10.80.0.0/25', '10.80.0.0/24'],
    ['10.0.0.0/8', '10.80.0.0/24'],
    ['fd80::/48', 'fd80::/64'],
    ['192.168.0.0/16', '192.168.7.0/24'],
  ])('refuses two networks of which one has %s and the other %s', async (theirs, mine) => {
    const scene = annotated('lab,corp', { lab: 'yes' });
    (scene.others.get('lab')!.agent as FakeAgent).destinations = new Set(['10.20.0.0/16', theirs, '0.0.0.0/0']);
    await expect(scene.attacher.add(chosen())).rejects.toThrow(
      expect.objectContaining({
        name: 'RouteConflict',
        problem: `${mine} meets ${theirs}, which is reached in this sandbox by vpn0 already, of VpnNetwork lab`,
      }),
    );
    expect([...scene.store.all()]).toEqual([]);
  });

  test('refuses a stem that leaves no room for the number', async () => {
    const scene = annotated('corp');
    const failed = scene.attacher.add(chosen({ ifname: 'a'.repeat(15) }));
    await expect(failed).rejects.toThrow(named('CniConfigInvalid'));
  });
});

describe('what the network demands of a pod', () => {
  const selector = { matchLabels: { vpn: 'corp' } };
  test.each<[string, object, Partial<PodFacts> | undefined, string | undefined]>([
    ['all', { namespaces: { from: 'All' } }, undefined, undefined],
    [
      'labels that it has',
      { namespaces: { from: 'All' }, podSelector: selector },
      { labels: { vpn: 'corp' } },
      undefined,
    ],
    [
      'labels that it lacks',
      { namespaces: { from: 'All' }, podSelector: selector },
      { labels: {} },
      'AttachNotAllowed',
    ],
    ['labels, of a pod nobody knows', { namespaces: { from: 'All' }, podSelector: selector }, undefined, 'PodUnknown'],
    [
      'a namespace with labels that it has',
      { namespaces: { from: 'Selector', selector } },
      { namespaceLabels: { vpn: 'corp' } },
      undefined,
    ],
    [
      'a namespace with labels that it lacks',
      { namespaces: { from: 'Selector', selector } },
      { labels: { vpn: 'corp' } },
      'AttachNotAllowed',
    ],
    [
      'another namespace, whatever its labels',
      { namespaces: {}, podSelector: selector },
      { labels: { vpn: 'corp' } },
      'AttachNotAllowed',
    ],
  ])('also where the call names it: %s', async (_name, attach, pod, refusal) => {
    const scene = new Scene(attach);
    if (pod !== undefined) scene.pods.set('shop/web-0', pod);
    const result = scene.attacher.add(add());
    if (refusal === undefined) await expect(result).resolves.toMatchObject({ attachments: [{ network: 'corp' }] });
    else await expect(result).rejects.toThrow(named(refusal));
  });
});

describe('addresses', () => {
  const addressesOf = ({ addresses }: Attachment): string[] => addresses.map(({ address }) => address);

  test.each<[string, Partial<AddRequest>, string[]]>([
    ['static ones', { ips: ['10.81.0.77/16', 'FD81::4D'] }, ['10.81.0.77/32', 'fd81::4d/128']],
    ['a static one, and a free one of the other family', { ips: ['fd81::4d/64'] }, ['10.81.0.2/32', 'fd81::4d/128']],
    ['delegated ones, also outside of the block', { delegated: ['10.81.9.9/24'] }, ['10.81.9.9/32']],
  ])('are %s', async (_name, fields, expected) => {
    const scene = new Scene();
    expect(addressesOf(await scene.add(add('abc', fields)))).toEqual(expected);
    expect(addressesOf(await scene.add(add('abc', fields)))).toEqual(expected);
    // They stay the pod's own.
    await expect(scene.add(add('other', fields))).rejects.toThrow(named('AddressConflict'));
    await scene.attacher.del(del());
    expect(addressesOf(await scene.add(add('other', fields)))).toEqual(expected);
  });

  test('have a next hop also where the node has no block', async () => {
    const scene = new Scene();
    scene.agent.desired = { ...scene.agent.desired!, podBlocks: [] };
    const { addresses, routes } = await scene.add(add('abc', { delegated: ['10.81.9.9/24'] }));
    expect(addresses).toEqual([{ address: '10.81.9.9/32', gateway: '10.80.0.1' }]);
    expect(routes).toContainEqual({ dst: '192.168.7.0/24', gw: '10.80.0.1' });
  });

  test.each<[string, Partial<AddRequest>, string, string]>([
    ['static, of another node', { ips: ['10.81.2.5'] }, 'AddressOutsidePool', 'node n2'],
    ['static, of no node', { ips: ['10.81.7.5'] }, 'AddressOutsidePool', '10.81.0.0/24'],
    ['static, of no pool', { ips: ['192.0.2.5'] }, 'AddressOutsidePool', '10.81.0.0/24'],
    ['static, the gateway', { ips: ['10.81.0.1'] }, 'AddressConflict', 'gateway'],
    ['static, the broadcast address', { ips: ['10.81.0.255'] }, 'AddressConflict', 'broadcast'],
    ['static, two of a family', { ips: ['10.81.0.5', '10.81.0.6'] }, 'CniConfigInvalid', 'each IP family'],
    ['delegated, of no pool', { delegated: ['10.99.0.5/24'] }, 'AddressOutsidePool', '10.81.0.0/16'],
    ['delegated, the gateway', { delegated: ['10.81.0.1/24'] }, 'AddressConflict', 'the node itself'],
    ['delegated, none', { delegated: [] }, 'AddressOutsidePool', 'no address'],
    ['delegated, of a family without a next hop', { delegated: ['fd81:0:0:5::5/64'] }, 'AddressOutsidePool', 'family'],
  ])('are refused: %s', async (_name, fields, name, says) => {
    const scene = new Scene();
    if (name === 'AddressOutsidePool' && says === 'family')
      scene.agent.desired = { ...scene.agent.desired!, podBlocks: ['10.81.0.0/24'] };
    await expect(scene.add(add('abc', fields))).rejects.toThrow(
      expect.objectContaining({ name, problem: expect.stringContaining(says) }),
    );
    expect([...scene.store.all()]).toEqual([]);
  });

  test('that the kernel has a route to are in use, whether a record says so or not', async () => {
    const scene = new Scene();
    scene.agent.routed.add('10.81.0.2');
    expect(addressesOf(await scene.add(add()))).toEqual(['10.81.0.3/32', 'fd81::2/128']);
    await expect(scene.add(add('b', { ips: ['10.81.0.2'] }))).rejects.toThrow(named('AddressConflict'));
  });

  test.each<[string, Partial<AddRequest>]>([
    ['the pool is empty', {}],
    ['a static address is asked for', { ips: ['10.81.0.6'] }],
  ])('of sandboxes that are gone are given free when %s', async (_name, fields) => {
    const scene = new Scene();
    scene.agent.desired = { ...scene.agent.desired!, podBlocks: ['10.81.0.4/30'] };
    await scene.add(add('old'));
    await expect(scene.add(add('new', fields))).rejects.toThrow();
    scene.agent.collect = () => {
      for (const record of [...scene.store.all()]) scene.store.remove(record);
      return 1;
    };
    expect(addressesOf(await scene.add(add('new', fields)))).toEqual(['10.81.0.6/32']);
  });

  test('a MAC address that is asked for is the interface’s', async () => {
    const scene = new Scene();
    expect((await scene.add(add('abc', { mac: '02:00:00:00:00:42' }))).mac).toBe('02:00:00:00:00:42');
    await expect(scene.add(add('abc', { mac: '02:00:00:00:00:43' }))).rejects.toThrow(named('NamespaceUnusable'));
    for (const mac of ['01:00:5e:00:00:01', 'ff:ff:ff:ff:ff:ff', '00:00:00:00:00:00'])
      await expect(scene.add(add('other', { mac }))).rejects.toThrow(named('CniConfigInvalid'));
  });
});

describe('a sandbox that was made anew', () => {
  test('under the path of the old one is attached anew', async () => {
    const scene = new Scene();
    await scene.add(add());
    scene.sandbox = 'second';
    await scene.add(add());
    expect(scene.agent.calls).toEqual(['attach abc', 'detach abc', 'attach abc']);
    expect(scene.store.get(add())?.sandbox).toBe('second');
  });

  test('is not kept from networks that only the old one had', async () => {
    const scene = new Scene();
    await scene.add(add());
    scene.other('lab', { namespaces: { from: 'All' } }, 80);
    scene.sandbox = 'second';
    const other = add('next', { network: 'lab', netns: add().netns });
    await expect(scene.add(other)).resolves.toMatchObject({ network: 'lab' });
  });
});

describe('CHECK', () => {
  const check = (fields: Partial<CheckRequest> = {}): CheckRequest => ({
    ...{ version: protocolVersion, op: 'check', config: 'ovpn', containerId: 'abc', cniIfname: 'eth0' },
    ...{ network: 'corp', ifname: 'vpn0', netns: '/run/netns/abc', expected: [] },
    ...fields,
  });
  const expected = { ifname: 'vpn0', mac: '02:00:00:00:00:42', addresses: ['10.81.0.2/32', 'fd81::2/128'] };
  const attached = async (): Promise<Scene> => {
    const scene = new Scene();
    await scene.add(add('abc', { mac: expected.mac }));
    return scene;
  };

  test('finds nothing wrong where nothing is', async () => {
    const scene = await attached();
    expect(() =>
      scene.attacher.check(check({ expected: [{ ifname: 'eth0', addresses: [] }, expected] })),
    ).not.toThrow();
    // A pod that was not chosen has nothing to look at.
    const { network, ...unchosen } = check({ containerId: 'other' });
    expect(network).toBe('corp');
    expect(() => scene.attacher.check(unchosen)).not.toThrow();
  });

  test.each<[string, Partial<CheckRequest>, string]>([
    ['no record', { containerId: 'other', expected: [expected] }, 'no record'],
    [
      'another sandbox',
      { netns: '/run/netns/b', expected: [expected] },
      "the agent's record is of sandbox /run/netns/abc",
    ],
    ['a result without the interface', { expected: [] }, 'no interface vpn0'],
    ['a result with another MAC', { expected: [{ ...expected, mac: '02:00:00:00:00:01' }] }, 'MAC 02:00:00:00:00:01'],
    [
      'a result with an address too few',
      { expected: [{ ...expected, addresses: ['fd81::2/128'] }] },
      'lacks address 10.81.0.2/32',
    ],
    [
      'a result with an address too many',
      { expected: [{ ...expected, addresses: [...expected.addresses, '10.9.9.9/32'] }] },
      '10.9.9.9/32',
    ],
  ])('tells of %s', async (_name, fields, says) => {
    const scene = await attached();
    expect(() => scene.attacher.check(check(fields))).toThrow(
      expect.objectContaining({ name: 'AttachmentDeviates', problem: expect.stringContaining(says) }),
    );
  });

  test('tells all that is wrong at once', async () => {
    const scene = await attached();
    scene.agent.deviations = ['vpn0 is down', 'the far end is not there'];
    expect(() => scene.attacher.check(check({ expected: [{ ...expected, addresses: [] }] }))).toThrow(
      expect.objectContaining({
        problem: [
          'VpnNetwork corp: vpn0 is down',
          'VpnNetwork corp: the far end is not there',
          'VpnNetwork corp: vpn0 in the previous result lacks address 10.81.0.2/32',
          'VpnNetwork corp: vpn0 in the previous result lacks address fd81::2/128',
        ].join('; '),
      }),
    );
  });
});

describe('GC', () => {
  const gc = (valid: string[], fields: Partial<GcRequest> = {}): GcRequest => ({
    ...{ version: protocolVersion, op: 'gc', config: 'ovpn' },
    valid: valid.map((containerId) => ({ containerId, cniIfname: 'eth0' })),
    ...fields,
  });
  const left = (scene: Scene): string[] => [...scene.store.all()].map(({ containerId }) => containerId);

  test.each<[string, GcRequest, string[]]>([
    ['what the runtime does not list', gc(['a']), ['a', 'foreign']],
    ['all, when it lists nothing', gc([]), ['foreign']],
    ['nothing of another network', gc([], { network: 'lab' }), ['a', 'b', 'foreign']],
    ['what it lists with another interface', gc([], { valid: [{ containerId: 'a', cniIfname: 'net1' }] }), ['foreign']],
    ['nothing that is listed', gc(['a', 'b', 'c']), ['a', 'b', 'foreign']],
  ])('takes %s', async (_name, request, expected) => {
    const scene = new Scene();
    for (const id of ['a', 'b']) await scene.add(add(id));
    await scene.add(add('foreign', { config: 'other' }));
    await scene.attacher.gc(request);
    expect(left(scene)).toEqual(expected);
    expect([...scene.agent.attached]).toEqual(expected);
  });
});

describe('a DEL that came while the agent was away', () => {
  test('is served before the next ADD of its container, and once', async () => {
    const scene = new Scene();
    await scene.add(add());
    let done = 0;
    scene.left.push({ request: del(), done: () => void (done += 1) });
    const again = scene.add(add());
    scene.left.length = 0;
    await again;
    expect(scene.agent.calls).toEqual(['attach abc', 'detach abc', 'attach abc']);
    expect(done).toBe(1);
  });

  test('that fails is kept, and keeps nobody else from being attached', async () => {
    const scene = new Scene();
    await scene.add(add());
    scene.agent.failDetach = new Error('busy');
    scene.left.push({ request: del(), done: () => expect('never').toBe('called') });
    await expect(scene.add(add('other'))).resolves.toMatchObject({ containerId: 'other' });
    expect(scene.log.events()).toContain('attachment.left-over');
    expect(scene.store.get(add())).toBeDefined();
  });
});
