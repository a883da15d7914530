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
import { type AttachAgent, Attacher } from './attach.ts';
import { type AddRequest, type Attachment, type DelRequest, protocolVersion } from './attach-protocol.ts';
import { type AttachmentRecord, AttachmentStore } from './attachment-store.ts';
import type { DesiredNetwork } from './desired.ts';
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

  detach(record: AttachmentRecord): void {
    this.calls.push(`detach ${record.containerId}`);
    if (this.failDetach !== undefined) throw this.failDetach;
    this.attached.delete(record.containerId);
  }
}

class Scene {
  readonly agent = new FakeAgent();
  readonly folder: string;
  readonly log = recordingLog();
  store: AttachmentStore;
  attacher: Attacher;
  selected = true;
  readonly #network: VpnNetwork;

  constructor(namespaces: object = { from: 'Names', names: ['shop'] }) {
    this.folder = mkdtempSync(join(tmpdir(), 'attach-'));
    cleanups.push(() => rmSync(this.folder, { recursive: true, force: true }));
    const parsed = parseResource(networkManifest('corp', { attach: { namespaces } }), 'test');
    if (!parsed.ok) throw parsed.errors[0] ?? new Error('refused');
    this.#network = parsed.resource as VpnNetwork;
    this.store = this.#open();
    this.attacher = this.#attacher();
  }

  restart(): void {
    this.store = this.#open();
    this.attacher = this.#attacher();
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
    const find = (name: string) =>
      name === 'corp' && this.selected ? { network: this.#network, agent: this.agent } : undefined;
    return new Attacher({ find }, this.store, this.log.log);
  }
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
    expect(scene.agent.calls).toEqual([]);
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
