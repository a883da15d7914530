import { type ChildProcessByStdio, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import {
  accept,
  AF_INET,
  bind,
  connect,
  getsockname,
  listen,
  SOCK_STREAM,
  socket,
} from '../../operator/src/kernel/libc.ts';
import { NetlinkError } from '../../operator/src/kernel/netlink/error.ts';
import { genericHeader } from '../../operator/src/kernel/netlink/generic.ts';
import type { RequestWriter } from '../../operator/src/kernel/netlink/message.ts';
import { NotificationSocket } from '../../operator/src/kernel/netlink/notifications.ts';
import {
  NETLINK_GENERIC,
  NETLINK_ROUTE,
  NetlinkSocket,
  type Request,
} from '../../operator/src/kernel/netlink/socket.ts';
import { createNamespace, defaultNetnsFolder, deleteNamespace, inNamespace } from '../../operator/src/kernel/netns.ts';
import { type Notification, parseNotification } from '../../operator/src/kernel/ovpn/codec.ts';
import { OvpnFamily } from '../../operator/src/kernel/ovpn/family.ts';
import type { NewKey } from '../../operator/src/kernel/ovpn/codec.ts';
import { ReadinessPoller } from '../../operator/src/kernel/poller.ts';
import { setAddress } from '../../operator/src/kernel/rtnetlink/addresses.ts';
import {
  deleteLink,
  getLinkByName,
  type Link,
  newOvpnLink,
  newVeth,
  type OvpnMode,
  setLink,
} from '../../operator/src/kernel/rtnetlink/links.ts';
import { writeSysctls } from '../../operator/src/kernel/sysctl.ts';
import { boundAddress, openUdpSocket } from '../../operator/src/kernel/transport-socket.ts';
import { slowness } from '../support/slowness.ts';

const run = promisify(execFile);

/** A short name that no other test uses, in whatever worker process it runs. */
export function uniqueName(prefix: string): string {
  return `${prefix}${randomBytes(4).toString('hex')}`;
}

/**
 * Makes the release of peers fast: each waits for an RCU grace period, some 30 ms in user-mode Linux, which
 * this turns into 0.1 ms (measure-release.ts). For tests that release hundreds. It stays on until the kernel
 * of the lab is gone, since test files run beside each other.
 */
export function expediteGracePeriods(): void {
  const path = '/sys/kernel/rcu_expedited';
  if (existsSync(path)) writeFileSync(path, '1');
}

/** What drivers of different age do differently, by what this kernel answers. docs/kernels.md has the whole list. */
export interface Driver {
  /** Whether a peer may be sent to by another id than it is received by. The same drivers tell when a peer floats (7.1). */
  readonly transmitIds: boolean;
  /** Whether values are looked at: VPN addresses that are none or taken, keepalives of over a day (7.2). */
  readonly checks: boolean;
}

let driver: Driver | undefined;

/** Tries out what this kernel's driver does. */
export function driverHere(): Driver {
  if (driver !== undefined) return driver;
  const namespace = new Namespace();
  const socket = inNamespace(namespace.path, () => openUdpSocket({ address: '0.0.0.0', port: 0 }));
  try {
    const device = namespace.device('mp');
    const takes = (settings: object): boolean => {
      const peer = { id: 1, socket, remote: { address: '127.0.0.1', port: 9 }, vpnIpv4: '10.80.0.2', ...settings };
      const [made] = namespace.ovpn.batch([namespace.ovpn.requests.peerNew(device, peer)]);
      namespace.ovpn.batch([namespace.ovpn.requests.peerDel(device, 1)]);
      return made?.ok === true;
    };
    driver = { transmitIds: takes({ txId: 2 }), checks: !takes({ vpnIpv4: '224.0.0.1' }) };
    return driver;
  } finally {
    closeSync(socket);
    namespace.close();
  }
}

/** One network namespace with its netlink sockets. */
export class Namespace {
  readonly name = uniqueName('kt-');
  readonly path = join(defaultNetnsFolder, this.name);
  readonly rt: NetlinkSocket;
  readonly ovpn: OvpnFamily;

  constructor() {
    createNamespace(this.name);
    this.rt = NetlinkSocket.open(NETLINK_ROUTE, this.path);
    this.ovpn = OvpnFamily.open(this.path);
    this.rt.request(setLink(this.link('lo').index, { up: true }));
    // Devices send nothing that a test did not ask for.
    writeSysctls(this.path, new Map([['net.ipv6.conf.default.router_solicitations', '0']]));
  }

  link(name: string): Link {
    const link = getLinkByName(this.rt, name);
    if (link === undefined) throw new Error(`no interface ${name} in ${this.name}`);
    return link;
  }

  /** Makes an ovpn device that is up, and returns its index. */
  device(mode: OvpnMode, addresses: readonly string[] = [], name = uniqueName('ov')): number {
    this.rt.request(newOvpnLink({ name, mode }));
    const { index } = this.link(name);
    for (const address of addresses) this.rt.request(setAddress(index, address));
    this.rt.request(setLink(index, { up: true }));
    return index;
  }

  deleteDevice(index: number): void {
    this.rt.request(deleteLink(index));
  }

  /** Runs a program inside; rejects when it fails. */
  async exec(...argv: readonly string[]): Promise<string> {
    const { stdout } = await run('ip', ['netns', 'exec', this.name, ...argv], { timeout: 60_000 * slowness });
    return stdout;
  }

  spawn(...argv: readonly string[]): ChildProcessByStdio<Writable, Readable, null> {
    return spawn('ip', ['netns', 'exec', this.name, ...argv], { stdio: ['pipe', 'pipe', 'inherit'] });
  }

  /** Packets lost of `count` sent. */
  async ping(address: string, count = 1, interval = '0.02'): Promise<number> {
    const argv = ['ping', '-q', '-c', `${count}`, '-i', interval, '-W', '2', address];
    const output = await this.exec(...argv).catch((error: unknown) =>
      // ping fails when nothing at all came back.
      typeof error === 'object' && error !== null && 'stdout' in error ? String(error.stdout) : '',
    );
    const found = /(\d+) packets transmitted, (\d+) received/.exec(output);
    if (found === null) throw new Error(`ping ${address} said ${JSON.stringify(output)}`);
    return Number(found[1]) - Number(found[2]);
  }

  close(): void {
    this.rt.close();
    this.ovpn.close();
    deleteNamespace(this.name);
  }
}

/** Everything one test made, closed together: namespaces, descriptors, notification sockets. */
export class Scene {
  readonly #closers: (() => void | Promise<void>)[] = [];
  #poller: ReadinessPoller | undefined;

  namespace(): Namespace {
    const namespace = new Namespace();
    this.onClose(() => {
      namespace.close();
    });
    return namespace;
  }

  onClose(closer: () => void | Promise<void>): void {
    this.#closers.push(closer);
  }

  /** A UDP socket bound inside a namespace, on a free port unless one is given. */
  udp(namespace: Namespace, address = '0.0.0.0', port = 0): { readonly fd: number; readonly port: number } {
    const fd = inNamespace(namespace.path, () => openUdpSocket({ address, port }));
    this.ownFd(fd);
    return { fd, port: boundAddress(fd).port };
  }

  /** Closes `fd` at the end unless {@link closeFd} did before. */
  ownFd(fd: number): number {
    this.#fds.add(fd);
    return fd;
  }
  readonly #fds = new Set<number>();

  closeFd(fd: number): void {
    this.#fds.delete(fd);
    closeSync(fd);
  }

  get poller(): ReadinessPoller {
    this.#poller ??= new ReadinessPoller();
    return this.#poller;
  }

  /** Two namespaces with a veth pair between them: 192.0.2.1 and .2, 2001:db8::1 and ::2. */
  pair(): { readonly a: Namespace; readonly b: Namespace } {
    const a = this.namespace();
    const b = this.namespace();
    const fd = openSync(b.path, 'r');
    try {
      a.rt.request(newVeth({ name: 'under', mtu: 1500, peer: { name: 'under', namespaceFd: fd } }));
    } finally {
      closeSync(fd);
    }
    for (const [namespace, host] of [
      [a, 1],
      [b, 2],
    ] as const) {
      const { index } = namespace.link('under');
      namespace.rt.request(setAddress(index, `192.0.2.${host}/24`));
      namespace.rt.request(setAddress(index, `2001:db8::${host}/64`));
      namespace.rt.request(setLink(index, { up: true }));
    }
    return { a, b };
  }

  listen(namespace: Namespace, bufferBytes?: number): Listener {
    const listener = new Listener(namespace, this.poller, bufferBytes);
    this.onClose(() => {
      listener.socket.close();
    });
    return listener;
  }

  async close(): Promise<void> {
    for (const closer of this.#closers.reverse()) await closer();
    for (const fd of this.#fds) closeSync(fd);
    await this.#poller?.close();
  }
}

/** An established TCP connection inside a namespace, as two descriptors. */
export function tcpPair(scene: Scene, namespace: Namespace): { readonly client: number; readonly server: number } {
  const { listener, client } = inNamespace(namespace.path, () => ({
    listener: socket(AF_INET, SOCK_STREAM, 0),
    client: scene.ownFd(socket(AF_INET, SOCK_STREAM, 0)),
  }));
  // 127.0.0.1, a port of the kernel's choice.
  bind(listener, Buffer.from([AF_INET, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
  listen(listener, 1);
  connect(client, getsockname(listener));
  const server = scene.ownFd(accept(listener));
  closeSync(listener);
  return { client, server };
}

/** Collects the notifications of a namespace's `peers` group. */
export class Listener {
  readonly socket: NotificationSocket;
  readonly seen: Notification[] = [];
  overruns = 0;

  constructor(namespace: Namespace, poller: ReadinessPoller, bufferBytes?: number) {
    this.socket = NotificationSocket.open(NETLINK_GENERIC, [namespace.ovpn.notificationGroup], poller, {
      namespace: namespace.path,
      ...(bufferBytes === undefined ? {} : { bufferBytes }),
    });
    this.socket.on('message', ({ payload }) => {
      const notification = parseNotification(payload);
      if (notification !== undefined) this.seen.push(notification);
    });
    this.socket.on('overrun', () => {
      this.overruns++;
    });
  }

  /** Waits until a notification fits. */
  async wait(matches: (notification: Notification) => boolean, timeoutMs = 60_000): Promise<Notification> {
    return eventually(
      () => this.seen.find(matches),
      timeoutMs,
      () => `notification; there were ${JSON.stringify(this.seen)}`,
    );
  }
}

/** Polls until `probe` gives a value that is not undefined or false, longer where processors are slow. */
export async function eventually<T>(
  probe: () => T | undefined | false,
  timeoutMs = 60_000,
  what: () => string = () => 'condition',
): Promise<T> {
  const deadline = Date.now() + timeoutMs * slowness;
  for (;;) {
    const value = probe();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > deadline) throw new Error(`timed out waiting for ${what()}`);
    await sleep(10);
  }
}

/** Sends a request that must be refused. */
export function refusal(namespace: Namespace, request: Request): NetlinkError {
  return refusalOf(() => {
    namespace.ovpn.send(request);
  });
}

export function refusalOf(call: () => void): NetlinkError {
  try {
    call();
  } catch (error) {
    if (error instanceof NetlinkError) return error;
    throw error;
  }
  throw new Error('the kernel accepted what it should refuse');
}

/** A request of the ovpn family with any attributes, for what the codec would not write. */
export function rawRequest(namespace: Namespace, command: number, write: (writer: RequestWriter) => void): Request {
  return {
    type: namespace.ovpn.familyId,
    describe: () => `raw command ${command}`,
    write: (writer) => {
      writer.raw(genericHeader(command));
      write(writer);
    },
  };
}

/** Two directions of fresh key material: what one end encrypts with, the other decrypts with. */
export function keyPair(
  options: {
    readonly keyId?: number;
    readonly slot?: NewKey['slot'];
    readonly bytes?: number;
    readonly cipher?: NewKey['cipher'];
  } = {},
): { readonly here: Omit<NewKey, 'peerId'>; readonly there: Omit<NewKey, 'peerId'> } {
  const { keyId = 0, slot = 'primary', bytes = 32, cipher = 'AES-GCM' } = options;
  const direction = (): NewKey['encrypt'] => ({ cipherKey: randomBytes(bytes), nonceTail: randomBytes(8) });
  const first = direction();
  const second = direction();
  return {
    here: { keyId, slot, cipher, encrypt: first, decrypt: second },
    there: { keyId, slot, cipher, encrypt: second, decrypt: first },
  };
}

/** Two namespaces with a P2P device each, connected by peers, without keys. */
export interface Tunnel {
  readonly a: Namespace;
  readonly b: Namespace;
  readonly deviceA: number;
  readonly deviceB: number;
  readonly socketA: { readonly fd: number; readonly port: number };
  readonly socketB: { readonly fd: number; readonly port: number };
}

export const tunnelPeer = 7;

/** An MP device (10.80.0.1) in namespace a and a P2P one (10.80.0.2) in b, peers of each other. */
export function tunnel(scene: Scene, underlay: 4 | 6 = 4): Tunnel {
  const { a, b } = scene.pair();
  const host = (end: 1 | 2): string => (underlay === 4 ? `192.0.2.${end}` : `2001:db8::${end}`);
  const socketA = scene.udp(a, host(1));
  const socketB = scene.udp(b, host(2));
  const deviceA = a.device('mp', ['10.80.0.1/24', 'fd80::1/64']);
  const deviceB = b.device('p2p', ['10.80.0.2/24', 'fd80::2/64']);
  a.ovpn.send(
    a.ovpn.requests.peerNew(deviceA, {
      id: tunnelPeer,
      socket: socketA.fd,
      remote: { address: host(2), port: socketB.port },
      vpnIpv4: '10.80.0.2',
      vpnIpv6: 'fd80::2',
    }),
  );
  b.ovpn.send(
    b.ovpn.requests.peerNew(deviceB, {
      id: tunnelPeer,
      socket: socketB.fd,
      remote: { address: host(1), port: socketA.port },
    }),
  );
  return { a, b, deviceA, deviceB, socketA, socketB };
}

/** Installs a fresh key on both ends of a tunnel. */
export function installKeys({ a, b, deviceA, deviceB }: Tunnel, options: Parameters<typeof keyPair>[0] = {}): void {
  const keys = keyPair(options);
  b.ovpn.send(b.ovpn.requests.keyNew(deviceB, { peerId: tunnelPeer, ...keys.there }));
  a.ovpn.send(a.ovpn.requests.keyNew(deviceA, { peerId: tunnelPeer, ...keys.here }));
}
