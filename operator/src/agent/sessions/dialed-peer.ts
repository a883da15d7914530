import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { formatRef, type ObjectRef } from '../../api/types.ts';
import { describe, OvpnError } from '../../errors.ts';
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
import type { PushedOptions } from '../../openvpn/negotiate/push.ts';
import type { Established } from '../../openvpn/session/session-event.ts';
import type { DataCipher, DataKeys } from '../../openvpn/static-key.ts';
import { tlsClient, type TlsFactory } from '../../openvpn/tls/tls-endpoint.ts';
import { version } from '../../version.ts';
import { type KernelConnection, kernelConnector } from './connector.ts';
import type { DesiredDialOut } from './desired-session.ts';
import { KeyUsage } from './key-usage.ts';
import type { LivePeer } from './live-peers.ts';
import { revisionOf } from './materials.ts';
import type { SessionServices } from './network-server.ts';
import { isWithin } from './plan-sessions.ts';
import type { Tunnels } from './tunnel-facts.ts';
import { TunnelKeys } from './tunnel-keys.ts';

/** The device of the remote, as the network makes it. */
export interface TunnelDevice {
  /** @throws OvpnError or NetlinkError */
  ensure(ref: ObjectRef, mtu: number): number;
  /** The MTU inside the network. */
  mtu(): number;
  setAddresses(index: number, addresses: readonly string[]): void;
  /** Removes it; one that is not there is no error. */
  remove(ref: ObjectRef): void;
}

interface Tunnel {
  readonly dialed: DialedTunnel;
  readonly cipher: DataCipher;
  readonly peer: LivePeer;
  readonly keys: TunnelKeys;
  readonly usage: KeyUsage;
}

/** One remote that is dialled, and its device. */
export class DialedPeer implements DialerOwner {
  readonly ref: ObjectRef;
  readonly #services: SessionServices;
  readonly #device: TunnelDevice;
  readonly #facts: Tunnels;
  readonly #dialer: Dialer;
  readonly #connections = new WeakMap<object, KernelConnection>();
  #desired: DesiredDialOut;
  #credentials: { readonly revision: string; readonly tls: TlsFactory };
  #tunnel: Tunnel | undefined;

  constructor(desired: DesiredDialOut, services: SessionServices, device: TunnelDevice, facts: Tunnels) {
    this.ref = desired.ref;
    this.#desired = desired;
    this.#services = services;
    this.#device = device;
    this.#facts = facts;
    this.#credentials = credentialsOf(desired);
    const connector = kernelConnector(services.poller, (connection) => this.#connections.set(connection, connection));
    const { scheduler, clock } = services;
    this.#dialer = new Dialer(this.#settings(), this, connector, { scheduler, random: randomBytes, clock });
    facts.idle(this.ref, 'Connecting', 'not dialled yet');
  }

  start(): void {
    this.#dialer.start();
  }

  get livePeer(): LivePeer | undefined {
    return this.#tunnel?.peer;
  }

  configure(desired: DesiredDialOut): void {
    const before = this.#desired;
    this.#desired = desired;
    if (credentialsRevision(desired) !== this.#credentials.revision) this.#credentials = credentialsOf(desired);
    this.#dialer.configure(this.#settings());
    const tunnel = this.#tunnel;
    if (tunnel === undefined || isDeepStrictEqual(before.routes, desired.routes)) return;
    try {
      const gateways = tunnel.peer.routes.slice(0, tunnel.peer.routes.length - before.routes.length);
      const routes = [...gateways, ...desired.routes.map((route) => routeOver(route, tunnel.peer.ifindex))];
      this.#tunnel = { ...tunnel, peer: this.#services.live.setRoutes(tunnel.peer, routes) };
    } catch (error) {
      this.#facts.failed(this.ref, describe(error));
    }
  }

  notified(notification: Notification): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined || notification.peerId !== tunnel.peer.id) return;
    switch (notification.kind) {
      case 'peer-deleted':
        this.gone(notification.reason);
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
    this.#device.remove(this.ref);
    void this.#dialer.stop();
  }

  /** Lets go of everything in this process. A dialled tunnel does not outlive it: its socket is ours alone. */
  close(): void {
    this.#tunnel?.keys.close();
    this.#dialer.close();
  }

  // What the dialer tells, as DialerOwner.

  connecting(remote: Remote, address: string): void {
    this.#facts.connecting(this.ref, formatEndpoint({ address, port: remote.port }));
  }

  established(tunnel: DialedTunnel, established: Established): void {
    tunnel.handOver(() => this.#takeOver(tunnel, established));
  }

  rekeyed(_tunnel: DialedTunnel, keyId: number, keys: DataKeys): void {
    if (this.#tunnel === undefined) return;
    this.#tunnel.keys.add({ keyId, cipher: this.#tunnel.cipher, keys });
    this.#tunnel.usage.renew();
    this.#facts.update(this.ref, { lastHandshake: this.#services.clock() });
  }

  rekeyFailed(_tunnel: DialedTunnel, _keyId: number, reason: string): void {
    this.#facts.failed(this.ref, reason);
  }

  lost(reason: string, retryInMs: number): void {
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
      const addresses = [push.ifconfig?.address, push.ifconfigIpv6?.address].filter((text) => text !== undefined);
      if (addresses.length === 0) {
        throw new OvpnError('RemoteUnsuitable', 'the remote assigned no address', { object: formatRef(this.ref) });
      }
      // A pushed MTU is what the remote can take; ours is what the path here can.
      const index = this.#device.ensure(this.ref, Math.min(push.tunMtu ?? this.#device.mtu(), this.#device.mtu()));
      this.#device.setAddresses(index, addresses);
      const peer = this.#services.live.create(
        {
          ref: this.ref,
          ifindex: index,
          settings: {
            id: peerId,
            socket: connection.fd,
            ...(transport === 'udp' ? { remote: connection.path.remote as { address: string; port: number } } : {}),
            keepalive: keepaliveOf(push, this.#desired),
          },
          routes: this.#routes(push, index),
        },
        { keyId: established.keyId, cipher, keys: established.keys },
      );
      socket.handedOver();
      this.#tunnel = { dialed, cipher, peer, keys: this.#keysOf(peer), usage: new KeyUsage(cipher) };
      this.#connected(established, addresses, connection.path.remote);
      return true;
    } catch (error) {
      // Not from inside of the dialer's own call.
      queueMicrotask(() => this.#dialer.lostInKernel(describe(error)));
      return false;
    }
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

  /** The remote's own addresses, and what the VpnPeer says is behind it; never what the remote would like to have. */
  #routes(push: PushedOptions, index: number): Route[] {
    const gateways = [push.routeGateway, push.ifconfigIpv6?.gateway].filter(
      (address) => address !== undefined && !isWithin(address, this.#desired.ownRanges),
    );
    return [
      ...gateways.map((address) => routeOver(`${address ?? ''}/${address?.includes(':') === true ? 128 : 32}`, index)),
      ...this.#desired.routes.map((destination) => routeOver(destination, index)),
    ];
  }

  #release(): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined) return;
    this.#tunnel = undefined;
    tunnel.keys.close();
    this.#services.live.remove(tunnel.peer);
  }

  #settings(): DialerSettings {
    const { remotes, wrap, ciphers, rekey } = this.#desired;
    const mtu = this.#device.mtu();
    if (wrap.kind === 'tls-crypt-v2-server') throw new Error('a client has no server key');
    return {
      ...{ remotes, wrap, ciphers },
      tls: this.#credentials.tls,
      version: `ovpn-operator-${version}`,
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

function routeOver(destination: string, index: number): Route {
  return { destination, type: 'unicast', index, metric: effectiveMetric(destination, 0) };
}

/** The remote's wish counts, as for any client (openvpn(8), "--keepalive"). */
function keepaliveOf({ pingSeconds, pingRestartSeconds }: PushedOptions, { keepalive }: DesiredDialOut) {
  if (pingSeconds === undefined || pingRestartSeconds === undefined) return keepalive;
  return { interval: pingSeconds, timeout: pingRestartSeconds };
}
