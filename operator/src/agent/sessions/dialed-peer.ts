import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { formatRef, type ObjectRef } from '../../api/types.ts';
import { firstMeshPeerId } from '../../api/vpn-peer.ts';
import { describe, OvpnError } from '../../errors.ts';
import { hostPrefix } from '../../kernel/address.ts';
import { close } from '../../kernel/libc.ts';
import type { Notification, Peer } from '../../kernel/ovpn/codec.ts';
import { effectiveMetric, type Route } from '../../kernel/rtnetlink/routes.ts';
import { formatEndpoint } from '../../kernel/transport-socket.ts';
import {
  type DialedTunnel,
  Dialer,
  type DialerOwner,
  type DialerSettings,
  type Remote,
} from '../../openvpn/endpoint/dialer.ts';
import type { TryEnd } from '../../openvpn/endpoint/remotes.ts';
import type { PushedOptions } from '../../openvpn/negotiate/push.ts';
import type { Established } from '../../openvpn/session/session-event.ts';
import type { DataCipher, DataKeys } from '../../openvpn/static-key.ts';
import { tlsClient, type TlsFactory } from '../../openvpn/tls/tls-endpoint.ts';
import { version } from '../../version.ts';
import { type KernelConnection, kernelConnector, resumedConnection } from './connector.ts';
import type { DesiredDialOut } from './desired-session.ts';
import { KeyUsage } from './key-usage.ts';
import type { LivePeer } from './live-peers.ts';
import { introduction } from './neighbour.ts';
import { revisionOf } from './materials.ts';
import type { HandshakeCounts } from './handshake-counts.ts';
import type { SessionServices } from './network-server.ts';
import { isWithin } from './plan-sessions.ts';
import { type SessionRecord, withKernelKeys, wrapFits, wrapRevision } from './session-memory.ts';
import { tunnelDeviceName } from './tunnel-devices.ts';
import type { Tunnels } from './tunnel-facts.ts';
import { TunnelKeys } from './tunnel-keys.ts';

/** The device of the remote, as the network makes it. */
export interface TunnelDevice {
  /** @throws OvpnError or NetlinkError */
  ensure(ref: ObjectRef, mtu: number): number;
  /** The MTU inside the network. */
  mtu(): number;
  /** What pods reach through the network, over whichever peer. */
  destinations(): Iterable<string>;
  setAddresses(index: number, addresses: readonly string[]): void;
  /** The network's own device, on which the nodes of a mesh have their place. @throws OvpnError NetworkNotReady */
  shared(): number;
  /** Removes it; one that is not there is no error. */
  remove(ref: ObjectRef): void;
}

interface Tunnel {
  readonly dialed: DialedTunnel;
  readonly cipher: DataCipher;
  readonly peer: LivePeer;
  /** Routes to the remote's own addresses. */
  readonly gateways: readonly Route[];
  readonly keys: TunnelKeys;
  readonly usage: KeyUsage;
  readonly tlsVersion: string;
  readonly since: number;
  readonly lastHandshake: number;
  readonly cancelRekey: () => void;
}

/** A tunnel of an earlier process renegotiates soon: without its TLS session, it hears no farewell. */
const firstRekeyMs = 5_000;

/** One remote that is dialled, and its device; or a node of the mesh, on the network's own. */
export class DialedPeer implements DialerOwner {
  readonly ref: ObjectRef;
  readonly #services: SessionServices;
  readonly #device: TunnelDevice;
  readonly #facts: Tunnels;
  readonly #handshakes: HandshakeCounts;
  readonly #dialer: Dialer;
  readonly #connections = new WeakMap<object, KernelConnection>();
  #desired: DesiredDialOut;
  #credentials: { readonly revision: string; readonly tls: TlsFactory };
  #tunnel: Tunnel | undefined;

  constructor(
    desired: DesiredDialOut,
    services: SessionServices,
    device: TunnelDevice,
    facts: Tunnels,
    handshakes: HandshakeCounts,
  ) {
    this.ref = desired.ref;
    this.#desired = desired;
    this.#services = services;
    this.#device = device;
    this.#facts = facts;
    this.#handshakes = handshakes;
    this.#credentials = credentialsOf(desired);
    const { poller, names, scheduler, clock } = services;
    const connector = kernelConnector(poller, names, (connection) => this.#connections.set(connection, connection));
    this.#dialer = new Dialer(this.#settings(), this, connector, { scheduler, random: randomBytes, clock });
  }

  /** Goes on with the tunnel of an earlier process, or dials. @throws OvpnError HolderUnreachable */
  start(): void {
    if (this.#resume()) return;
    this.#facts.idle(this.ref, 'Connecting', 'not dialled yet');
    this.#dialer.start();
  }

  get livePeer(): LivePeer | undefined {
    return this.#tunnel?.peer;
  }

  configure(desired: DesiredDialOut): void {
    this.#desired = desired;
    if (credentialsRevision(desired) !== this.#credentials.revision) this.#credentials = credentialsOf(desired);
    this.#dialer.configure(this.#settings());
    this.#changeRoutes();
  }

  /** Also tries again what the kernel refused. */
  #changeRoutes(): void {
    const { live } = this.#services;
    const tunnel = this.#tunnel;
    if (tunnel === undefined) return;
    const { gateways, peer } = tunnel;
    const routes = [...gateways, ...this.#routesBehind(peer.ifindex)];
    if (isDeepStrictEqual(peer.routes, routes)) return;
    try {
      live.setRoutes(peer, routes);
    } catch (error) {
      this.#facts.failed(this.ref, describe(error));
    }
    this.#tunnel = { ...tunnel, peer: live.get(peer.ifindex, peer.id) ?? peer };
  }

  notified(notification: Notification): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined || notification.peerId !== tunnel.peer.id) return;
    switch (notification.kind) {
      case 'peer-deleted':
        // A remote gives the same id again and again: this may be late news of the peer before.
        if (this.#services.live.read(tunnel.peer) === undefined) this.gone(notification.reason);
        return;
      case 'key-exhausted':
        tunnel.keys.exhausted();
        tunnel.dialed.rekey();
        return;
      case 'peer-floated':
        this.#facts.update(this.ref, { endpoint: formatEndpoint(notification.remote) });
        return;
    }
  }

  /** The kernel has the peer no more. */
  gone(reason: keyof typeof deletionWords): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined) return;
    this.#services.live.gone(tunnel.peer);
    this.#release();
    this.#dialer.lostInKernel(deletionWords[reason]);
  }

  used(observed: Peer): void {
    const tunnel = this.#tunnel;
    if (tunnel?.usage.isSpent(observed, this.#desired.rekey) === true) tunnel.dialed.rekey();
  }

  /** Leaves the remote with a word, and the kernel without a trace. */
  stop(): void {
    this.#release();
    try {
      if (this.#desired.neighbour === undefined) this.#device.remove(this.ref);
    } catch (error) {
      // A whole round removes it later; the dialer must not make it anew.
      const fields = { event: 'device.delete-failed', peer: formatRef(this.ref), error: describe(error) };
      this.#services.log.warn(fields, 'the device of a remote stays for now');
    }
    void this.#dialer.stop();
  }

  /** Begins and answers no renegotiation any more; one that is on its way comes to its end soon. */
  pause(): void {
    this.#tunnel?.dialed.pause();
    this.#tunnel?.keys.hurry();
  }

  /** Whether a renegotiation is on its way, or its key does not send yet. */
  get renegotiating(): boolean {
    return this.#tunnel?.dialed.renegotiating === true || this.#tunnel?.keys.switching === true;
  }

  /** Lets go of everything in this process; the tunnel goes on in the kernel. */
  close(): void {
    this.#tunnel?.keys.close();
    this.#tunnel?.cancelRekey();
    this.#dialer.close();
  }

  // What the dialer asks and tells, as DialerOwner.

  mayDial(): Promise<boolean> | undefined {
    return this.#desired.placed === true ? this.#ask() : undefined;
  }

  async #ask(): Promise<boolean> {
    const refusal = await this.#services.refusal?.(this.ref);
    const facts = this.#facts.get(this.ref);
    // It may have been given up meanwhile.
    if (refusal === undefined || facts === undefined || facts.message === refusal) return refusal === undefined;
    this.#services.log.warn({ event: 'dial.held', peer: formatRef(this.ref), reason: refusal }, 'not dialled for now');
    this.#facts.update(this.ref, { message: refusal, lastError: refusal });
    return false;
  }

  connecting(remote: Remote, address: string): void {
    this.#facts.connecting(this.ref, formatEndpoint({ address, port: remote.port }));
  }

  established(tunnel: DialedTunnel, established: Established): void {
    this.#handshakes.established += 1;
    tunnel.handOver(() => this.#takeOver(tunnel, established));
  }

  rekeyed(_tunnel: DialedTunnel, keyId: number, keys: DataKeys): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined) return;
    this.#handshakes.renewed += 1;
    // Of a resumed tunnel: what it was to renegotiate for has come about.
    tunnel.cancelRekey();
    tunnel.keys.add({ keyId, cipher: tunnel.cipher, keys });
    // The kernel may have refused it.
    if (this.#tunnel !== tunnel) return;
    tunnel.usage.renew();
    const lastHandshake = this.#services.clock();
    this.#tunnel = { ...tunnel, lastHandshake };
    this.#save(this.#tunnel);
    this.#facts.update(this.ref, { lastHandshake });
  }

  rekeying(): void {
    const tunnel = this.#tunnel;
    tunnel?.keys.rekeying();
    // The key id is used up, also if this process ends before the key is there.
    if (tunnel !== undefined && this.#tunnel === tunnel) this.#save(tunnel);
  }

  keyConfirmed(): void {
    const tunnel = this.#tunnel;
    tunnel?.keys.confirmed();
    // The kernel may have refused to send with it.
    if (tunnel !== undefined && this.#tunnel === tunnel) this.#save(tunnel);
  }

  rekeyFailed(_tunnel: DialedTunnel, _keyId: number, reason: string): void {
    // The key id is used up all the same.
    if (this.#tunnel !== undefined) this.#save(this.#tunnel);
    this.#handshakes.fail('failed');
    this.#facts.failed(this.ref, reason);
  }

  lost(reason: string, retryInMs: number, how: TryEnd['kind']): void {
    if (how !== 'lost') this.#handshakes.fail(how === 'failed' ? 'failed' : 'refused');
    this.#release();
    this.#services.log.warn(
      { event: 'dial.lost', peer: formatRef(this.ref), reason, retryInMs: Math.round(retryInMs) },
      'no tunnel to the remote',
    );
    this.#facts.failed(this.ref, reason);
    this.#facts.disconnected(this.ref, `${reason}; trying again in ${Math.ceil(retryInMs / 1000)} s`);
  }

  #takeOver(dialed: DialedTunnel, established: Established): boolean {
    const { connection, transport } = dialed;
    const { push, peerId, cipher } = established;
    const socket = this.#connections.get(connection);
    try {
      if (socket === undefined) throw new Error('the connection is not one of the kernel');
      const { index, addresses, gateways } = this.#place(push);
      this.#checkMeshId(peerId, index);
      this.#services.memory.keepSocket(this.#socketName, connection.fd);
      const peer = this.#services.live.create(
        {
          ref: this.ref,
          ifindex: index,
          settings: {
            id: peerId,
            socket: connection.fd,
            ...(transport === 'udp' ? { remote: connection.path.remote as { address: string; port: number } } : {}),
            ...this.#addressesInside(),
            keepalive: keepaliveOf(push, this.#desired),
          },
          routes: [...gateways, ...this.#routesBehind(index)],
        },
        { keyId: established.keyId, cipher, keys: established.keys },
      );
      const now = this.#services.clock();
      // From here on, whatever fails takes the peer along.
      this.#tunnel = {
        ...{ dialed, cipher, peer, gateways, keys: this.#keysOf(peer), usage: new KeyUsage(cipher) },
        ...{ tlsVersion: established.tlsVersion, since: now, lastHandshake: now, cancelRekey: () => undefined },
      };
      socket.handedOver();
      this.#save(this.#tunnel);
      this.#connected(established, addresses, connection.path.remote);
      return true;
    } catch (error) {
      this.#release();
      this.#services.memory.dropSocket(this.#socketName);
      // Not from inside of the dialer's own call.
      queueMicrotask(() => this.#dialer.lostInKernel(describe(error)));
      return false;
    }
  }

  get #key(): string {
    return `dial/${formatRef(this.ref)}`;
  }

  get #socketName(): string {
    return tunnelDeviceName(this.ref);
  }

  /** Keeps the session's present state for a process after this one. */
  #save({ dialed, peer, tlsVersion, since, lastHandshake }: Tunnel): void {
    const session = dialed.exportState();
    if (session === undefined) return;
    const { remote, transport, connection } = dialed;
    this.#services.memory.save(this.#key, {
      version: 1,
      peer: this.ref,
      ifindex: peer.ifindex,
      id: peer.id,
      ...{ remote, transport, path: connection.path, tlsVersion, since, lastHandshake, session },
      socket: this.#socketName,
      wrap: wrapRevision(this.#desired.wrap),
      credentials: this.#credentials.revision,
    });
  }

  /** @throws OvpnError HolderUnreachable */
  #resume(): boolean {
    const { memory, live, log } = this.#services;
    const record = memory.waiting.get(this.#key);
    if (record === undefined) return false;
    try {
      this.#resumeFrom(record);
      log.info({ event: 'dial.resumed', peer: formatRef(this.ref) }, 'the tunnel to the remote goes on');
      return true;
    } catch (error) {
      if (error instanceof OvpnError && error.name === 'HolderUnreachable') throw error;
      const { ref } = this;
      log.info(
        { event: 'dial.not-resumed', peer: formatRef(ref), reason: describe(error) },
        'dialling the remote anew instead of going on with the tunnel of before',
      );
      const { ifindex, id } = record;
      if (live.look(ifindex, id) !== undefined) live.remove({ ref, ifindex, id, routes: [] });
      memory.forget(this.#key, this.#socketName);
      return false;
    }
  }

  #resumeFrom(record: SessionRecord): void {
    const { memory, live, poller, scheduler } = this.#services;
    const { id, remote, path, transport, tlsVersion, since, lastHandshake } = record;
    const { push, cipher } = record.session.negotiated;
    if (record.credentials !== this.#credentials.revision) throw new Error('the credentials have changed');
    if (!wrapFits(record, this.#desired.wrap)) throw new Error('the key of the control channel has changed');
    const { index, addresses, gateways } = this.#place(push);
    const found = index === record.ifindex ? live.look(index, id) : undefined;
    if (found === undefined || remote === undefined) throw new Error('the kernel has it no more');
    const session = withKernelKeys(record.session, found.keys);
    const fd = memory.takeSocket(this.#socketName);
    if (fd === undefined) throw new Error('the holder does not have its socket');
    const opened: KernelConnection[] = [];
    let dialed: DialedTunnel | undefined;
    try {
      dialed = this.#dialer.resume({ remote, address: path.remote.address }, session, (events) => {
        const connection = resumedConnection(poller, fd, { transport, path }, events);
        opened.push(connection);
        this.#connections.set(connection, connection);
        return connection;
      });
    } finally {
      if (opened.length === 0) close(fd);
    }
    if (dialed === undefined) throw new Error('its endpoint or its cipher is not among those to use any more');
    const peer = { ref: this.ref, ifindex: index, id, routes: [...gateways, ...this.#routesBehind(index)] };
    live.adopt(peer);
    const keys = this.#keysOf(peer);
    const goesOn = dialed;
    const tunnel = {
      ...{ dialed, cipher, peer, gateways, keys, usage: new KeyUsage(cipher), tlsVersion, since, lastHandshake },
      cancelRekey: scheduler.after(firstRekeyMs, () => void goesOn.rekey()),
    };
    this.#tunnel = tunnel;
    this.#save(tunnel);
    const endpoint = formatEndpoint(found.peer.remote ?? path.remote);
    this.#facts.connected(this.ref, { endpoint, addresses, cipher, tlsVersion }, { since, lastHandshake });
    keys.resume(found.keys, session, this.#services.clock() - lastHandshake);
  }

  /**
   * Makes the device ready for what the remote pushed: a remote has one for itself, with the addresses that it gives us;
   * a node of the mesh stands on the network's own.
   *
   * @throws OvpnError or NetlinkError
   */
  #place(push: PushedOptions): { index: number; addresses: string[]; gateways: Route[] } {
    if (this.#desired.neighbour !== undefined) {
      const { vpnIpv4, vpnIpv6 } = this.#desired.neighbour;
      const addresses = [vpnIpv4, vpnIpv6].filter((address) => address !== undefined);
      return { index: this.#device.shared(), addresses, gateways: [] };
    }
    const addresses = this.#addresses(push);
    const index = this.#device.ensure(this.ref, this.#mtuFor(push));
    this.#device.setAddresses(index, addresses);
    return { index, addresses, gateways: this.#gateways(push, index) };
  }

  /** By which address the driver finds a peer on a device of many; one that is alone has none. */
  #addressesInside(): { vpnIpv4?: string | undefined; vpnIpv6?: string | undefined } {
    const { neighbour } = this.#desired;
    return neighbour === undefined ? {} : { vpnIpv4: neighbour.vpnIpv4, vpnIpv6: neighbour.vpnIpv6 };
  }

  /** The other node gives the id that we asked for, unless it is an impostor or older than that. */
  #checkMeshId(id: number, index: number): void {
    if (this.#desired.neighbour === undefined) return;
    if (id >= firstMeshPeerId && this.#services.live.get(index, id) === undefined) return;
    const object = formatRef(this.ref);
    throw new OvpnError('RemoteUnsuitable', `the node gave peer id ${id}, which is not free here`, { object });
  }

  /** A pushed MTU is what the remote can take; ours is what the path here can. */
  #mtuFor({ tunMtu }: PushedOptions): number {
    return Math.min(tunMtu ?? this.#device.mtu(), this.#device.mtu());
  }

  #keysOf(peer: LivePeer): TunnelKeys {
    const { live, scheduler, log } = this.#services;
    return new TunnelKeys({
      ...{ live, peer, scheduler, log },
      transitionMs: () => this.#desired.rekey.transitionMs,
      refused: (reason) => {
        this.#services.live.remove(peer);
        this.#release();
        this.#dialer.lostInKernel(`the kernel did not take the next key: ${reason}`);
      },
    });
  }

  #connected(established: Established, addresses: readonly string[], remote: { address: string; port: number }): void {
    const { cipher, tlsVersion, peerId, ignoredOptions } = established;
    const endpoint = formatEndpoint(remote);
    this.#facts.connected(this.ref, { endpoint, addresses, cipher, tlsVersion });
    this.#services.log.info(
      {
        event: 'dial.connected',
        peer: formatRef(this.ref),
        remote: endpoint,
        peerId,
        cipher,
        tlsVersion,
        ignoredOptions,
      },
      'the tunnel to the remote stands',
    );
  }

  /**
   * Our addresses in the tunnel.
   *
   * @throws OvpnError RemoteUnsuitable: one that is another's would draw its packets to this node
   */
  #addresses(push: PushedOptions): string[] {
    const object = formatRef(this.ref);
    const addresses = assignedTo(push);
    if (addresses.length === 0) throw new OvpnError('RemoteUnsuitable', 'the remote assigned no address', { object });
    const taken = addresses.find((address) => this.#isAnothers(address));
    if (taken === undefined) return addresses;
    throw new OvpnError(
      'RemoteUnsuitable',
      `the remote assigned ${taken}, which lies in a pool of this network or behind another of its peers`,
      { object },
      { remedy: "let the remote's server use another range, or change spec.pools or the routes of the other peer" },
    );
  }

  #isAnothers(address: string): boolean {
    const own = new Set(this.#desired.routes);
    // A default route means everything else.
    const others = [...this.#device.destinations()].filter((text) => !own.has(text) && !text.endsWith('/0'));
    return isWithin(address, [...this.#desired.ownRanges, ...others]);
  }

  /** Routes to the remote's own addresses, as far as they are not those of others. */
  #gateways(push: PushedOptions, index: number): Route[] {
    const addresses = [push.routeGateway, push.ifconfigIpv6?.gateway].filter((address) => address !== undefined);
    return addresses
      .filter((address) => !this.#isAnothers(address))
      .map((address) => routeOver(hostPrefix(address), index));
  }

  /** What the VpnPeer says is behind the remote; never what the remote would like to have. */
  #routesBehind(index: number): Route[] {
    return this.#desired.routes.map((destination) => routeOver(destination, index));
  }

  #release(): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined) return;
    this.#tunnel = undefined;
    tunnel.keys.close();
    tunnel.cancelRekey();
    this.#services.live.remove(tunnel.peer);
    this.#services.memory.forget(this.#key, this.#socketName);
    if (this.#desired.neighbour !== undefined) return;
    try {
      this.#device.setAddresses(tunnel.peer.ifindex, []);
    } catch (error) {
      // With its device they are gone, too.
      const fields = { event: 'dial.addresses', peer: formatRef(this.ref), error: describe(error) };
      this.#services.log.debug(fields, 'addresses of a tunnel stay');
    }
  }

  #introduction(self: string): Record<string, string> {
    const { live, device } = this.#services;
    return introduction(self, live.freeMeshId(device() ?? 0, randomBytes));
  }

  #settings(): DialerSettings {
    const { remotes, wrap, ciphers, rekey, neighbour } = this.#desired;
    const mtu = this.#device.mtu();
    if (wrap.kind === 'tls-crypt-v2-server') throw new Error('a client has no server key');
    return {
      ...{ remotes, wrap, ciphers },
      tls: this.#credentials.tls,
      version: `ovpn-operator-${version}`,
      ...(neighbour === undefined ? {} : { peerInfo: () => this.#introduction(neighbour.self) }),
      maxTunMtu: mtu,
      tunMtu: mtu,
      renegotiateSeconds: rekey.seconds,
    };
  }
}

const deletionWords = {
  teardown: 'the device was torn down',
  userspace: 'somebody deleted the peer in the kernel',
  expired: 'nothing came from the remote for the time of the keepalive: check that it runs and that UDP passes',
  'transport-error': 'the socket failed',
  'transport-disconnect': 'the connection was closed',
  unknown: 'the peer is not in the kernel any more',
} as const;

function credentialsRevision({ credentials, checks }: DesiredDialOut): string {
  return revisionOf({ credentials, checks });
}

function credentialsOf(desired: DesiredDialOut): { revision: string; tls: TlsFactory } {
  return { revision: credentialsRevision(desired), tls: tlsClient(desired.credentials, desired.checks) };
}

/** The addresses that the remote gave us, IPv4 first. */
function assignedTo({ ifconfig, ifconfigIpv6 }: PushedOptions): string[] {
  return [ifconfig?.address, ifconfigIpv6?.address].filter((address) => address !== undefined);
}

function routeOver(destination: string, index: number): Route {
  return { destination, type: 'unicast', index, metric: effectiveMetric(destination, 0) };
}

/**
 * The remote's wish counts, as for any client (openvpn(8), "--keepalive"). 0 would switch both off in the driver
 * (drivers/net/ovpn/peer.c, ovpn_peer_keepalive_set), and a remote that is gone would never be noticed.
 */
function keepaliveOf({ pingSeconds = 0, pingRestartSeconds = 0 }: PushedOptions, { keepalive }: DesiredDialOut) {
  return { interval: pingSeconds || keepalive.interval, timeout: pingRestartSeconds || keepalive.timeout };
}
