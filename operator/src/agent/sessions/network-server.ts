import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { normaliseFingerprint } from '../../api/certificate-names.ts';
import { formatRef, type ObjectRef } from '../../api/types.ts';
import { describe, OvpnError } from '../../errors.ts';
import type { Notification, Peer } from '../../kernel/ovpn/codec.ts';
import type { ReadinessPoller } from '../../kernel/poller.ts';
import { formatEndpoint } from '../../kernel/transport-socket.ts';
import { addressKey, type Path, type PeerAddress } from '../../openvpn/endpoint/path.ts';
import type { RemoteNames } from '../../openvpn/endpoint/remote-names.ts';
import { OpenvpnServer } from '../../openvpn/endpoint/server.ts';
import type { ClientEnd, ServedClient, ServerOwner, ServerSettings } from '../../openvpn/endpoint/server-settings.ts';
import { printable } from '../../openvpn/negotiate/protocol-fault.ts';
import type { Scheduler } from '../../openvpn/session/scheduler.ts';
import type { AuthenticatedClient, Established } from '../../openvpn/session/session-event.ts';
import type { DataCipher, DataKeys } from '../../openvpn/static-key.ts';
import type { PeerIdentity } from '../../openvpn/tls/peer-identity.ts';
import { tlsServer } from '../../openvpn/tls/tls-endpoint.ts';
import type { Log } from '../../telemetry/log.ts';
import { peerRoutes } from '../diff.ts';
import { Admission } from './admission.ts';
import type { DesiredDialIn, DesiredServer } from './desired-session.ts';
import { Farewells } from './farewells.ts';
import type { HandshakeFailure, HandshakeFigures } from './handshake-counts.ts';
import { KeyUsage } from './key-usage.ts';
import { ListenerSockets, type OpenListener } from './listener-sockets.ts';
import { type LivePeer, LivePeers, type NewLivePeer, type SessionKey } from './live-peers.ts';
import { revisionOf } from './materials.ts';
import { isOfMesh, nodeRef, parseIntroduction } from './neighbour.ts';
import { offerTo } from './offer.ts';
import { type SessionMemory, type SessionRecord, withKernelKeys, wrapFits, wrapRevision } from './session-memory.ts';
import { type TunnelFacts, Tunnels } from './tunnel-facts.ts';
import { withKeyAge } from './key-age.ts';
import { TunnelKeys } from './tunnel-keys.ts';

/** What the control channels of a network need from the rest of the agent. */
export interface SessionServices {
  readonly network: string;
  readonly live: LivePeers;
  /** What outlives this process. */
  readonly memory: SessionMemory;
  /** The network's P2MP device, by its index. */
  readonly device: () => number | undefined;
  readonly poller: ReadinessPoller;
  readonly scheduler: Scheduler;
  /** Addresses of remotes that are named. */
  readonly names: Pick<RemoteNames, 'resolve'>;
  /** Milliseconds since 1970. */
  readonly clock: () => number;
  readonly log: Log;
  /** The status of a VpnPeer has something new to say. */
  readonly changed: (ref: ObjectRef) => void;
  /** Why a peer that several nodes could dial is not to be dialled here now; undefined when it may be. Never rejects. */
  readonly refusal?: (ref: ObjectRef) => Promise<string | undefined>;
}

/**
 * Handshakes on their way. One costs some 100 kB for a few round trips; a whole site may come back at once from
 * behind one address.
 */
const limits = { halfOpen: 1024, halfOpenPerSource: 256, repliesPerSecond: 1000 };

/**
 * A session of an earlier process renegotiates soon: without its TLS session, it hears no farewell. Not at once, since
 * an agent that fails over and over must not fail in the middle of handshakes; and not all together, as a handshake
 * costs some milliseconds.
 */
const firstRekeyMs = 5_000;
const rekeyEveryMs = 20;

/** From its keys to its place in the kernel: over TCP a client can draw this out, by half a packet. */
const handOverMs = 10_000;

/** A client that has authenticated. */
interface Tunnel {
  readonly client: ServedClient;
  readonly dialIn: DesiredDialIn;
  readonly id: number;
  readonly cipher: DataCipher;
  /** The name of its socket in the holder, over TCP. */
  readonly socket: string | undefined;
  /** Once the kernel has it. */
  peer: LivePeer | undefined;
  keys: TunnelKeys | undefined;
  usage: KeyUsage | undefined;
  tlsVersion: string;
  since: number;
  lastHandshake: number;
  cancelRekey: () => void;
  cancelHandOver: () => void;
  /** Certificates have to be looked at again, because the PKI changed: a renegotiation for it is to come, or runs. */
  recheck: 'none' | 'wanted' | 'running';
  /** The session of which this one takes the kernel's peer over, once it has a key. */
  former: Tunnel | undefined;
}

/** The clients of one network: who may come in, and what the kernel has of them. */
export class NetworkServer implements ServerOwner {
  readonly #services: SessionServices;
  readonly #log: Log;
  readonly #admission = new Admission();
  readonly #facts: Tunnels;
  readonly #tunnels = new Map<ServedClient, Tunnel>();
  /** Of each VpnPeer, the client that the kernel has. */
  readonly #byPeer = new Map<string, Tunnel>();
  readonly #byId = new Map<number, Tunnel>();
  /** Of each VpnPeer, the client that has authenticated and is not in the kernel yet. */
  readonly #pending = new Map<string, Tunnel>();
  /** The session of the client that is about to authenticate anew from the same address; its peer is there still. */
  #vacated: Tunnel | undefined;
  /**
   * Peers that an earlier process left in the kernel without a state of their session: their data goes on until their
   * client comes anew.
   */
  readonly #orphans = new Map<string, LivePeer>();
  readonly #sockets: ListenerSockets;
  readonly #farewells: Farewells;
  #server: OpenvpnServer | undefined;
  /** Renegotiations that brought a key, and those that did not. */
  #renewed = 0;
  #notRenewed = 0;
  #desired: DesiredServer | undefined;
  /** Of the nodes, the newest certificate first, and the one before: not all have the newest at the same moment. */
  #meshCertificates: readonly string[] = [];
  #revision = '';
  #pkiRevision = '';
  /** VpnPeers of which nothing is known before the kernel has been looked at. */
  readonly #fresh = new Map<string, ObjectRef>();
  #looked = false;

  constructor(services: SessionServices) {
    this.#services = services;
    this.#log = services.log;
    this.#facts = new Tunnels(services.clock, services.changed);
    this.#sockets = new ListenerSockets(services.poller);
    this.#farewells = new Farewells(services.scheduler);
  }

  /**
   * Takes the server's settings, and the sockets to serve on. Sessions that are there go on; when the PKI changed,
   * they have to show their certificates again.
   */
  configure(desired: DesiredServer | undefined, listeners: readonly OpenListener[]): void {
    if (desired === undefined) {
      this.#stopServing();
      return;
    }
    this.#desired = desired;
    const { meshCertificate } = desired;
    if (meshCertificate !== undefined && meshCertificate !== this.#meshCertificates[0])
      this.#meshCertificates = [meshCertificate, ...this.#meshCertificates.slice(0, 1)];
    const revision = revisionOf({ ...desired, push: desired.push.mtu });
    if (this.#server === undefined) {
      const { scheduler, clock } = this.#services;
      this.#server = new OpenvpnServer(this.#settings(desired), this, { scheduler, random: randomBytes, clock });
    } else if (revision !== this.#revision) {
      this.#server.configure(this.#settings(desired));
      this.#log.info({ event: 'server.configured' }, 'new handshakes go by the new settings');
    }
    this.#revision = revision;
    // A new certificate of ours changes nothing about those of clients.
    const pkiRevision = revisionOf([desired.credentials.ca, desired.credentials.crl]);
    if (this.#pkiRevision !== '' && pkiRevision !== this.#pkiRevision) this.#recheckAll();
    this.#pkiRevision = pkiRevision;
    this.#sockets.serve(this.#server, listeners);
  }

  /** Takes the sockets to serve on, while the settings cannot be had. */
  listen(listeners: readonly OpenListener[]): void {
    if (this.#server !== undefined) this.#sockets.serve(this.#server, listeners);
  }

  /** Takes a VpnPeer or its new version; what does not fit it any more ends. */
  setPeer(ref: ObjectRef, desired: DesiredDialIn | undefined): void {
    const name = formatRef(ref);
    const before = this.#admission.get(ref);
    if (desired === undefined) {
      this.#admission.delete(ref);
      this.#endOf(name, 'its VpnPeer may not connect here any more');
      this.#fresh.delete(name);
      this.#facts.delete(ref);
      return;
    }
    this.#admission.set(desired);
    if (before === undefined) {
      this.#fresh.set(name, ref);
      if (this.#looked) this.#waitForClients();
      return;
    }
    if (!isDeepStrictEqual(addressing(before), addressing(desired))) {
      this.#endOf(name, 'its VpnPeer was changed');
      return;
    }
    if (!isDeepStrictEqual(before.certificates, desired.certificates)) this.#endRevoked(name, desired);
    this.#changeRoutes(name, desired);
  }

  /** Ends what a VpnPeer has here without a word to its client, which is connected elsewhere. */
  movedAway(ref: ObjectRef): void {
    const name = formatRef(ref);
    const tunnel = this.#byPeer.get(name);
    if (tunnel === undefined) {
      this.#endOf(name, movedWords);
      return;
    }
    this.#forget(tunnel, movedWords);
    tunnel.client.close();
  }

  /** What status says of a peer. */
  facts(ref: ObjectRef): TunnelFacts | undefined {
    return this.#facts.get(ref);
  }

  /** How handshakes went. The protocol's own server counts all but renewals; a server that is made anew begins at 0. */
  get handshakes(): HandshakeFigures {
    const counters = this.#server?.counters;
    const failures = new Map<HandshakeFailure, number>([
      ['failed', (counters?.failed ?? 0) + this.#notRenewed],
      ['limit', (counters?.refusedFull ?? 0) + (counters?.refusedRate ?? 0)],
      ['source-limit', (counters?.refusedSourceFull ?? 0) + (counters?.refusedSourceRate ?? 0)],
      ['evicted', counters?.evicted ?? 0],
      ['superseded', counters?.superseded ?? 0],
      ['silent', counters?.silentConnections ?? 0],
    ]);
    return { established: counters?.established ?? 0, renewed: this.#renewed, failures };
  }

  /** Packets passed over, by the reason. */
  get dropped(): ReadonlyMap<string, number> {
    return this.#server?.counters.dropped ?? new Map<string, number>();
  }

  /** The kernel's peer of a VpnPeer. */
  livePeer(ref: ObjectRef): LivePeer | undefined {
    const name = formatRef(ref);
    return this.#byPeer.get(name)?.peer ?? this.#orphans.get(name);
  }

  /** Looks at a peer's counters: a key that has protected enough is replaced. */
  used(ref: ObjectRef, observed: Peer): void {
    const tunnel = this.#byPeer.get(formatRef(ref));
    const rekey = this.#desired?.rekey;
    if (tunnel?.usage === undefined || rekey === undefined) return;
    if (tunnel.usage.isSpent(observed, rekey) && tunnel.client.rekey())
      this.#log.info({ event: 'session.rekey', peer: formatRef(ref) }, 'the data key has protected enough');
  }

  /** What the kernel says of one of our peers. */
  notified(notification: Notification): void {
    const tunnel = this.#byId.get(notification.peerId);
    if (tunnel?.peer === undefined) {
      this.#notifiedOrphan(notification);
      return;
    }
    switch (notification.kind) {
      case 'peer-deleted':
        this.#lost(tunnel, notification.reason);
        return;
      case 'key-exhausted':
        tunnel.keys?.exhausted();
        tunnel.client.rekey();
        return;
      case 'peer-floated':
        this.#follow(tunnel, notification.remote);
        return;
    }
  }

  /**
   * Compares with what the kernel has on the device: sessions whose peer is gone end, and peers of an earlier process
   * are taken over.
   *
   * @param ownerOf whom a peer id of an earlier process stands for
   * @returns ids that stay; all others above the first session id may be removed
   */
  reconcile(observed: ReadonlyMap<number, Peer>, ownerOf: (id: number) => string | undefined): ReadonlySet<number> {
    const { live, device } = this.#services;
    const ifindex = device();
    for (const tunnel of [...this.#byId.values()]) {
      if (tunnel.peer === undefined) continue;
      const peer = observed.get(tunnel.id);
      // One that has come since the look at the kernel is not in it.
      if (peer === undefined && live.read(tunnel.peer) === undefined) this.#lost(tunnel, 'unknown');
      else if (peer?.remote !== undefined) this.#follow(tunnel, peer.remote);
    }
    for (const [name, orphan] of this.#orphans) {
      if (observed.has(orphan.id)) continue;
      live.gone(orphan);
      this.#orphans.delete(name);
    }
    if (ifindex !== undefined) {
      if (!this.#looked) live.inUse(observed.keys());
      this.#resumeAll(observed, ifindex);
      for (const peer of observed.values()) this.#adopt(peer, ifindex, ownerOf(peer.id));
    }
    this.#looked = true;
    this.#waitForClients();
    const stay = new Set<number>();
    for (const peer of live.values()) if (peer.ifindex === ifindex) stay.add(peer.id);
    return stay;
  }

  /**
   * Ends everything here and in the kernel, once the clients were told to go to their next server. Takes some seconds
   * when one of them does not listen; until then their data goes on, and nobody is let in any more.
   */
  async stop(): Promise<void> {
    this.#desired = undefined;
    const reason = 'this gateway serves the network no more';
    await this.#farewells.say(this.#tunnels.keys(), (client) => client.restart(reason, { nextRemote: true }));
    for (const name of [...this.#byPeer.keys(), ...this.#orphans.keys()]) this.#endOf(name, 'the server stops');
    this.#stopServing();
  }

  /** Begins and answers no renegotiation any more; those that are on their way come to their end soon. */
  pause(): void {
    for (const { client, keys } of this.#tunnels.values()) {
      client.pause();
      keys?.hurry();
    }
  }

  /** Whether a renegotiation is on its way, or its key does not send yet. */
  get renegotiating(): boolean {
    return [...this.#tunnels.values()].some(({ client, keys }) => client.renegotiating || keys?.switching === true);
  }

  /** Leaves the kernel as it is: for a restart of this process. */
  close(): void {
    this.#farewells.cancel();
    // The server first, as it is silent about it: clients whose listener closes would be ended in the kernel, too.
    this.#server?.close();
    this.#sockets.close();
    for (const { keys, cancelRekey, cancelHandOver } of this.#tunnels.values()) {
      cancelHandOver();
      keys?.close();
      cancelRekey();
    }
  }

  // What the server tells, as ServerOwner.

  authenticated(client: ServedClient, who: AuthenticatedClient): void {
    const ifindex = this.#services.device();
    const neighbour = this.#isNode(who.identity) ? parseIntroduction(who) : undefined;
    const dialIn =
      neighbour === undefined ? this.#owner(who.identity, undefined) : this.#admission.get(nodeRef(neighbour.node));
    const former = this.#takeVacated(client, neighbour === undefined ? dialIn : undefined);
    if (dialIn === undefined || ifindex === undefined || this.#desired === undefined) {
      client.refuse('this gateway is not ready', { temporary: true, backoffSeconds: 5 });
      return;
    }
    if (neighbour !== undefined && this.#services.live.get(ifindex, neighbour.peerId) !== undefined) {
      client.refuse('this node needs another peer id', { temporary: true, backoffSeconds: 1 });
      return;
    }
    const name = formatRef(dialIn.ref);
    const id = neighbour?.peerId ?? former?.id ?? this.#services.live.freeId(ifindex);
    const now = this.#services.clock();
    const earlier = this.#pending.get(name);
    if (earlier !== undefined) {
      this.#forget(earlier, 'its client began anew');
      earlier.client.close();
    }
    const tunnel: Tunnel = {
      ...{ client, dialIn, id, cipher: who.cipher, tlsVersion: '', since: now, lastHandshake: now },
      socket: client.transport === 'tcp' ? socketOf(id) : undefined,
      ...{ peer: undefined, keys: undefined, usage: undefined, recheck: 'none', former },
      ...{ cancelRekey: () => undefined, cancelHandOver: () => undefined },
    };
    this.#tunnels.set(client, tunnel);
    this.#pending.set(name, tunnel);
    this.#facts.connecting(dialIn.ref, formatEndpoint(client.path.remote));
    if (who.foreignFraming.length > 0) {
      const options = who.foreignFraming.join(' and ');
      this.#problem(dialIn.ref, `take ${options} out of the client's configuration: no data may pass with it`);
    }
    for (const { ref } of this.#admission.all(who.identity).slice(1))
      this.#facts.failed(ref, `its client is taken for ${name}, which is older and has the same certificate`);
    try {
      client.accept(offerTo(dialIn, this.#desired.push, id));
    } catch (error) {
      this.#problem(dialIn.ref, describe(error));
      client.refuse('this gateway has settings that cannot be pushed');
    }
  }

  /**
   * The session that a client goes on from which authenticates anew from the same address. An OpenVPN whose
   * renegotiation came to nothing begins a session without restarting: it keeps its peer id, sends with its old key for
   * up to `--hand-window`, and has both keys to receive with (openvpn(8); its log says TM_LAME_DUCK). One that was
   * started again has the new key only, and that is what it gets. Any other session of before ends here.
   */
  #takeVacated(client: ServedClient, dialIn: DesiredDialIn | undefined): Tunnel | undefined {
    const former = this.#vacated;
    if (former === undefined || dialIn === undefined || !this.#goesOn(former, client, dialIn)) {
      this.#giveUpVacated();
      return undefined;
    }
    this.#vacated = undefined;
    return former;
  }

  #giveUpVacated(): void {
    const former = this.#vacated;
    this.#vacated = undefined;
    if (former !== undefined) this.#forget(former, 'the client connected anew from the same address');
  }

  /** Whether the kernel's peer of a session can stay for the next one of its client. */
  #goesOn(former: Tunnel, client: ServedClient, dialIn: DesiredDialIn): boolean {
    const { live, device } = this.#services;
    const { peer, dialIn: before } = former;
    if (peer === undefined || peer.ifindex !== device() || this.#desired === undefined) return false;
    const settings = ({ ref, vpnIpv4, vpnIpv6, keepalive }: DesiredDialIn) => [ref, vpnIpv4, vpnIpv6, keepalive];
    if (!isDeepStrictEqual(settings(before), settings(dialIn))) return false;
    // What a certificate brought about that is not the client's any more must not be received.
    if (former.client.identity.fingerprint !== client.identity.fingerprint) return false;
    if (former.client.listener !== client.listener || former.client.path.local !== client.path.local) return false;
    // A session begins with key id 0; of two keys with one id the kernel would find the one that sends only.
    const sending = live.look(peer.ifindex, peer.id)?.keys.primary?.keyId;
    return sending !== undefined && sending !== 0;
  }

  /**
   * Gives the kernel's peer of the session before the first key of this one: it receives with both, and soon sends with it.
   *
   * @throws OvpnError KernelRefused; nothing of the peer is left in the kernel then
   */
  #succeed(former: Tunnel, peer: LivePeer, key: SessionKey): LivePeer {
    const { live } = this.#services;
    try {
      live.addKey(peer, key);
      const desired = this.#admission.get(former.dialIn.ref) ?? former.dialIn;
      const changed = live.setRoutes(peer, peerRoutes(desired, peer.ifindex));
      former.keys?.close();
      former.cancelRekey();
      former.cancelHandOver();
      former.peer = undefined;
      this.#tunnels.delete(former.client);
      return changed;
    } catch (error) {
      this.#forget(former, describe(error));
      throw error;
    }
  }

  established(client: ServedClient, established: Established): void {
    const tunnel = this.#tunnels.get(client);
    if (tunnel === undefined) return;
    tunnel.cancelHandOver = this.#services.scheduler.after(handOverMs, () =>
      this.#end(tunnel, 'the kernel could not take its connection over in the middle of a packet'),
    );
    client.handOver(() => this.#takeOver(client, established));
  }

  rekeyed(client: ServedClient, keyId: number, keys: DataKeys, skipsKey: boolean): void {
    const tunnel = this.#tunnels.get(client);
    if (tunnel?.keys === undefined) return;
    this.#renewed += 1;
    tunnel.keys.add({ keyId, cipher: tunnel.cipher, keys }, { skipsKey });
    tunnel.usage?.renew();
    tunnel.lastHandshake = this.#services.clock();
    this.#facts.update(tunnel.dialIn.ref, { lastHandshake: tunnel.lastHandshake });
    this.#log.debug({ event: 'session.rekeyed', peer: formatRef(tunnel.dialIn.ref), keyId }, 'a further data key');
    // Of a resumed session: what it was to renegotiate for has come about.
    tunnel.cancelRekey();
    if (tunnel.recheck === 'running') tunnel.recheck = 'none';
    else if (tunnel.recheck === 'wanted') this.#recheck(tunnel);
    this.#save(tunnel);
  }

  rekeying(client: ServedClient): void {
    const tunnel = this.#tunnels.get(client);
    // Whoever began it: certificates are verified as of now.
    if (tunnel?.recheck === 'wanted') tunnel.recheck = 'running';
    tunnel?.keys?.rekeying();
    // The key id is used up, also if this process ends before the key is there.
    if (tunnel !== undefined && this.#tunnels.get(client) === tunnel) this.#save(tunnel);
  }

  keyConfirmed(client: ServedClient): void {
    const tunnel = this.#tunnels.get(client);
    if (tunnel?.keys === undefined) return;
    tunnel.keys.confirmed();
    // The next process may send with it, unless the kernel refused to.
    if (this.#tunnels.get(client) === tunnel) this.#save(tunnel);
  }

  rekeyFailed(client: ServedClient, _keyId: number, reason: string): void {
    const tunnel = this.#tunnels.get(client);
    if (tunnel === undefined) return;
    this.#notRenewed += 1;
    // The key id is used up all the same.
    this.#save(tunnel);
    this.#problem(tunnel.dialIn.ref, reason);
    if (tunnel.recheck === 'running') this.#end(tunnel, `it did not pass the present PKI: ${reason}`);
    else if (tunnel.recheck === 'wanted') this.#recheck(tunnel);
  }

  displaced(client: ServedClient): void {
    const tunnel = this.#tunnels.get(client);
    if (tunnel?.peer === undefined) return;
    try {
      const remote = this.#services.live.read(tunnel.peer)?.remote;
      if (remote !== undefined) this.#follow(tunnel, remote);
    } catch (error) {
      const fields = { event: 'session.not-found', peer: formatRef(tunnel.dialIn.ref), error: describe(error) };
      this.#log.warn(fields, 'the kernel does not tell where a client is');
    }
  }

  ended(client: ServedClient, { cause, reason }: ClientEnd): void {
    this.#farewells.over(client);
    const tunnel = this.#tunnels.get(client);
    if (tunnel === undefined) return;
    if (cause === 'failed') this.#problem(tunnel.dialIn.ref, reason);
    if (cause === 'replaced-path' && tunnel.peer !== undefined) {
      this.#giveUpVacated();
      this.#vacated = tunnel;
      return;
    }
    this.#forget(tunnel, reason);
  }

  failed(path: Path, listener: string, reason: string, identity: PeerIdentity | undefined): void {
    const remote = formatEndpoint(path.remote);
    const name = identity === undefined ? undefined : printable(identity.commonName);
    const dialIn = identity === undefined ? undefined : this.#admission.find(identity);
    const who = {
      ...(dialIn === undefined ? {} : { peer: formatRef(dialIn.ref) }),
      ...(name === undefined ? {} : { name }),
    };
    this.#log.warn({ event: 'session.refused', ...who, listener, remote, reason }, 'a client did not get in');
    if (dialIn !== undefined) this.#facts.failed(dialIn.ref, `a client at ${remote} did not get in: ${reason}`);
  }

  recheck(identity: PeerIdentity, client: ServedClient): string | undefined {
    const present = this.#tunnels.get(client)?.dialIn.ref;
    // Which node it is, it says when it has authenticated.
    if (present === undefined && this.#isNode(identity)) return undefined;
    const found = this.#owner(identity, present === undefined ? undefined : formatRef(present));
    const name = printable(identity.commonName === '' ? identity.subject : identity.commonName);
    if (found === undefined) return `no VpnPeer of network ${this.#services.network} has the identity "${name}"`;
    if (!isGood(found, identity)) return `the certificate of "${name}" is revoked, or not the one that was issued`;
    if (present === undefined || formatRef(present) === formatRef(found.ref)) return undefined;
    return `its certificate "${name}" is that of another VpnPeer now`;
  }

  #isNode(identity: PeerIdentity): boolean {
    const { meshName, meshCertificate } = this.#desired ?? {};
    return isOfMesh(identity, meshName, meshCertificate === undefined ? undefined : this.#meshCertificates);
  }

  /**
   * Whom a certificate stands for. All nodes of the mesh have the same one: which of them it is stands fast from the
   * beginning of their session.
   *
   * @param name who it was before, if anybody
   */
  #owner(identity: PeerIdentity, name: string | undefined): DesiredDialIn | undefined {
    if (!this.#isNode(identity)) return this.#admission.find(identity);
    const known = name === undefined ? undefined : this.#admission.named(name);
    return known?.ref.kind === 'Node' ? known : undefined;
  }

  /** The handshake is done: makes the peer in the kernel, and only then lets the client begin. */
  #takeOver(client: ServedClient, established: Established): boolean {
    const tunnel = this.#tunnels.get(client);
    const ifindex = this.#services.device();
    if (tunnel === undefined) return false;
    const { dialIn, id } = tunnel;
    const name = formatRef(dialIn.ref);
    const connection = client.transport === 'tcp' ? this.#sockets.connectionOf(client) : undefined;
    const key = { keyId: established.keyId, cipher: established.cipher, keys: established.keys };
    const { former } = tunnel;
    tunnel.former = undefined;
    // It may have lost it meanwhile.
    const inherited = former?.peer;
    try {
      const socket = connection?.fd ?? this.#sockets.fdOf(client.listener);
      if (ifindex === undefined || socket === undefined)
        throw new OvpnError('NetworkNotReady', 'its device or socket is not there', {
          object: `VpnNetwork ${this.#services.network}`,
        });
      if (former !== undefined && inherited !== undefined) {
        tunnel.peer = this.#succeed(former, inherited, key);
      } else {
        this.#replace(name, tunnel);
        if (connection !== undefined && tunnel.socket !== undefined)
          this.#services.memory.keepSocket(tunnel.socket, connection.fd);
        tunnel.peer = this.#services.live.create(this.#newPeer(tunnel, ifindex, socket), key);
      }
    } catch (error) {
      if (tunnel.socket !== undefined) this.#services.memory.dropSocket(tunnel.socket);
      this.#problem(dialIn.ref, describe(error));
      client.refuse('this gateway cannot serve you now', { temporary: true, backoffSeconds: 10 });
      return false;
    }
    connection?.handedOver();
    tunnel.tlsVersion = established.tlsVersion;
    tunnel.since = tunnel.lastHandshake = this.#services.clock();
    tunnel.keys = this.#keysOf(tunnel, tunnel.peer);
    tunnel.usage = new KeyUsage(established.cipher);
    if (inherited !== undefined) {
      tunnel.keys.succeed();
      // The peer's counters go on.
      tunnel.usage.renew();
    }
    tunnel.cancelHandOver();
    this.#pending.delete(name);
    this.#byPeer.set(name, tunnel);
    this.#byId.set(id, tunnel);
    this.#save(tunnel);
    client.confirm();
    this.#connected(tunnel, established);
    return true;
  }

  #newPeer({ client, dialIn, id }: Tunnel, ifindex: number, socket: number): NewLivePeer {
    const { ref, vpnIpv4, vpnIpv6, keepalive } = dialIn;
    const { local } = client.path;
    const path =
      client.transport === 'tcp' ? {} : { remote: remoteOf(client.path), ...(local === undefined ? {} : { local }) };
    return {
      ref,
      ifindex,
      settings: {
        ...{ id, socket, ...path, vpnIpv4, vpnIpv6 },
        // The client restarts first, as with OpenVPN's server (openvpn(8), "--keepalive").
        keepalive: { interval: keepalive.interval, timeout: 2 * keepalive.timeout },
      },
      // It may have changed since the client authenticated.
      routes: peerRoutes(this.#admission.get(ref) ?? dialIn, ifindex),
    };
  }

  #keysOf(tunnel: Tunnel, peer: LivePeer): TunnelKeys {
    return new TunnelKeys({
      live: this.#services.live,
      peer,
      scheduler: this.#services.scheduler,
      transitionMs: () => this.#desired?.rekey.transitionMs ?? 0,
      log: this.#log,
      refused: (reason) => {
        this.#problem(tunnel.dialIn.ref, reason);
        this.#end(tunnel, 'the kernel did not take its next key');
      },
    });
  }

  /** Keeps the session's present state for a process after this one. */
  #save(tunnel: Tunnel): void {
    const { client, dialIn, id, peer, socket, tlsVersion, since, lastHandshake, recheck } = tunnel;
    const session = client.exportState();
    if (session === undefined || peer === undefined || this.#desired === undefined) return;
    const { listener, transport, path } = client;
    this.#services.memory.save(keyOf(id), {
      version: 1,
      peer: dialIn.ref,
      ifindex: peer.ifindex,
      ...{ id, transport, path, listener, socket, tlsVersion, since, lastHandshake, session },
      wrap: wrapRevision(this.#desired.wrap),
      credentials: recheck === 'none' ? this.#pkiRevision : '',
    });
  }

  #resumeAll(observed: ReadonlyMap<number, Peer>, ifindex: number): void {
    const { memory, live } = this.#services;
    let count = 0;
    for (const [key, record] of [...memory.waiting]) {
      if (record.remote !== undefined) continue;
      const peer = observed.get(record.id);
      const name = formatRef(record.peer);
      if (peer === undefined || record.ifindex !== ifindex || this.#byPeer.has(name)) {
        memory.forget(key, record.socket);
        continue;
      }
      const dialIn = this.#admission.named(name);
      if (dialIn === undefined || !hasAddresses(peer, dialIn)) continue;
      const owner = this.#owner(record.session.identity, name);
      if (owner === undefined || formatRef(owner.ref) !== name || !isGood(owner, record.session.identity)) {
        // As if it had been changed while we were there.
        this.#log.info({ event: 'session.ended', peer: name }, 'the client is not the one that its VpnPeer names now');
        live.remove({ ref: dialIn.ref, ifindex, id: record.id, routes: peerRoutes(dialIn, ifindex) });
        memory.forget(key, record.socket);
        continue;
      }
      if (this.#server === undefined || this.#desired === undefined) {
        // Its Secret is faulty perhaps. The session can wait for it, as the client does not notice.
        this.#adopt(peer, ifindex, name);
        continue;
      }
      try {
        this.#resume(this.#server, record, dialIn, count);
        count++;
      } catch (error) {
        if (error instanceof OvpnError) throw error;
        this.#log.warn(
          { event: 'session.not-resumed', peer: name, error: describe(error) },
          'the data of a client goes on until it renegotiates; then it has to come anew',
        );
        memory.forget(key, record.socket);
        this.#adopt(peer, ifindex, name);
      }
    }
    memory.dropLeftovers();
    if (count > 0) this.#log.info({ event: 'server.resumed', sessions: count }, 'sessions of an earlier process go on');
  }

  /**
   * @param place how many others renegotiate before
   * @throws Error when the session cannot go on; OvpnError HolderUnreachable when that is not known
   */
  #resume(server: OpenvpnServer, record: SessionRecord, dialIn: DesiredDialIn, place: number): void {
    const { live, scheduler } = this.#services;
    const { ref } = dialIn;
    const { id, ifindex } = record;
    const name = formatRef(ref);
    if (this.#desired === undefined || !wrapFits(record, this.#desired.wrap))
      throw new Error('the key of the control channel has changed');
    const found = live.look(ifindex, id);
    if (found === undefined) throw new Error('the kernel has it no more');
    const session = withKernelKeys(record.session, found.keys);
    const path = {
      remote: (record.transport === 'udp' ? found.peer.remote : undefined) ?? record.path.remote,
      local: found.peer.local ?? record.path.local,
    };
    const client = this.#sockets.resume(server, { ...record, path }, session, () =>
      record.socket === undefined ? undefined : this.#services.memory.takeSocket(record.socket),
    );
    const orphan = this.#orphans.get(name);
    this.#orphans.delete(name);
    const peer = orphan ?? { ref, ifindex, id, routes: peerRoutes(dialIn, ifindex) };
    if (orphan === undefined) live.adopt(peer);
    const { cipher } = session.negotiated;
    const { socket, tlsVersion, since, lastHandshake } = record;
    const tunnel: Tunnel = {
      ...{ client, dialIn, id, cipher, socket, tlsVersion, since, lastHandshake, peer },
      keys: undefined,
      usage: new KeyUsage(cipher),
      recheck: record.credentials === this.#pkiRevision ? 'none' : 'wanted',
      cancelHandOver: () => undefined,
      former: undefined,
      cancelRekey: scheduler.after(firstRekeyMs + place * rekeyEveryMs, () => {
        if (tunnel.recheck === 'wanted') this.#recheck(tunnel);
        else client.rekey();
      }),
    };
    tunnel.keys = this.#keysOf(tunnel, peer);
    this.#tunnels.set(client, tunnel);
    this.#byPeer.set(name, tunnel);
    this.#byId.set(id, tunnel);
    this.#save(tunnel);
    this.#facts.connected(
      ref,
      { endpoint: formatEndpoint(path.remote), addresses: addressesOf(dialIn), cipher, tlsVersion },
      { since, lastHandshake },
    );
    this.#log.debug({ event: 'session.resumed', peer: name, peerId: id }, 'the session of a client goes on');
    tunnel.keys.resume(found.keys, session, this.#services.clock() - lastHandshake);
  }

  /** The kernel knows best where a client is by now. */
  #follow({ client, dialIn }: Tunnel, remote: PeerAddress): void {
    if (client.transport !== 'udp' || addressKey(remote) === addressKey(client.path.remote)) return;
    client.moved(remote);
    this.#log.info(
      { event: 'session.floated', peer: formatRef(dialIn.ref), remote: formatEndpoint(remote) },
      'the client has another address now',
    );
    this.#facts.update(dialIn.ref, { endpoint: formatEndpoint(remote) });
  }

  /** What the kernel has no peer of has no client. */
  #waitForClients(): void {
    for (const ref of this.#fresh.values()) {
      if (this.#facts.get(ref) === undefined) this.#facts.idle(ref, 'WaitingForClient', 'no client has connected yet');
    }
    this.#fresh.clear();
  }

  #connected({ client, dialIn, id }: Tunnel, { cipher, tlsVersion, identity }: Established): void {
    const endpoint = formatEndpoint(client.path.remote);
    this.#facts.connected(dialIn.ref, {
      endpoint,
      addresses: addressesOf(dialIn),
      cipher,
      tlsVersion,
    });
    this.#log.info(
      {
        event: 'session.connected',
        peer: formatRef(dialIn.ref),
        peerId: id,
        remote: endpoint,
        transport: client.transport,
        cipher,
        tlsVersion,
        fingerprint: identity.fingerprint,
      },
      'a client is connected',
    );
  }

  /** One VPN address, one client: the newest counts, as with OpenVPN's server without --duplicate-cn. */
  #replace(name: string, by: Tunnel): void {
    const old = this.#byPeer.get(name);
    if (old !== undefined && old !== by) {
      const [from, to] = [old.client.path.remote, by.client.path.remote].map(formatEndpoint);
      // One client that lost its connection comes anew from another port, too, and after more than its keepalive.
      const soon = this.#services.clock() - old.since < 2 * old.dialIn.keepalive.timeout * 1000;
      if (from !== to && soon)
        this.#problem(
          old.dialIn.ref,
          `the client came anew from ${to} while it was connected from ${from}; if these are two clients, give each a certificate and a VpnPeer of its own`,
        );
      this.#forget(old, 'another client with the same identity took its place');
      old.client.close();
    }
    const orphan = this.#orphans.get(name);
    if (orphan !== undefined) {
      this.#orphans.delete(name);
      this.#services.live.remove(orphan);
    }
  }

  /** The kernel has no such peer any more. */
  #lost(tunnel: Tunnel, reason: Extract<Notification, { kind: 'peer-deleted' }>['reason'] | 'unknown'): void {
    const { peer, client, dialIn } = tunnel;
    if (peer !== undefined) this.#services.live.gone(peer);
    tunnel.peer = undefined;
    const words = deletionWords[reason];
    this.#log.info(
      { event: 'session.lost', peer: formatRef(dialIn.ref), reason },
      `the kernel's peer is gone: ${words}`,
    );
    this.#forget(tunnel, words);
    if (reason === 'expired' || reason === 'transport-error' || reason === 'transport-disconnect') client.close();
    // Somebody else took it away: the client is still there, and can come anew at once.
    else client.restart(words);
  }

  /** Ends what a VpnPeer has here, and tells its client to come anew. */
  #endOf(name: string, reason: string): void {
    for (const tunnel of [this.#byPeer.get(name), this.#pending.get(name)])
      if (tunnel !== undefined) this.#end(tunnel, reason);
    const orphan = this.#orphans.get(name);
    if (orphan === undefined) return;
    this.#orphans.delete(name);
    this.#services.live.remove(orphan);
  }

  /** Ends a client whose certificate is not, or not any more, among those that are good. */
  #endRevoked(name: string, desired: DesiredDialIn): void {
    for (const tunnel of [this.#byPeer.get(name), this.#pending.get(name)]) {
      const identity = tunnel?.client.identity;
      if (tunnel !== undefined && (identity === undefined || !isGood(desired, identity)))
        this.#end(tunnel, 'its certificate was revoked');
    }
    // Of a client without a session it is not known which certificate it has.
    if (this.#orphans.has(name)) this.#endOf(name, 'the certificates of its VpnKey changed');
  }

  #end(tunnel: Tunnel, reason: string): void {
    this.#forget(tunnel, reason);
    tunnel.client.restart(reason);
  }

  #forget(tunnel: Tunnel, reason: string): void {
    const { client, dialIn, id, peer, keys, socket, former } = tunnel;
    const name = formatRef(dialIn.ref);
    tunnel.former = undefined;
    if (former !== undefined) this.#forget(former, reason);
    keys?.close();
    tunnel.cancelRekey();
    tunnel.cancelHandOver();
    this.#tunnels.delete(client);
    this.#services.memory.forget(keyOf(id), socket);
    if (peer !== undefined) this.#services.live.remove(peer);
    tunnel.peer = undefined;
    if (this.#byId.get(id) === tunnel) this.#byId.delete(id);
    if (this.#pending.get(name) === tunnel) {
      this.#pending.delete(name);
      if (!this.#byPeer.has(name)) this.#facts.disconnected(dialIn.ref, reason);
    }
    if (this.#byPeer.get(name) !== tunnel) return;
    this.#byPeer.delete(name);
    this.#facts.disconnected(dialIn.ref, reason);
    this.#log.info({ event: 'session.ended', peer: formatRef(dialIn.ref), reason }, 'a client is gone');
  }

  /** Also tries again what the kernel refused. */
  #changeRoutes(name: string, desired: DesiredDialIn): void {
    const { live } = this.#services;
    const tunnel = this.#byPeer.get(name);
    const peer = tunnel?.peer ?? this.#orphans.get(name);
    if (peer === undefined) return;
    const wanted = peerRoutes(desired, peer.ifindex);
    if (isDeepStrictEqual(peer.routes, wanted)) return;
    try {
      live.setRoutes(peer, wanted);
    } catch (error) {
      this.#problem(desired.ref, describe(error));
    }
    const changed = live.get(peer.ifindex, peer.id) ?? peer;
    if (tunnel !== undefined) tunnel.peer = changed;
    else this.#orphans.set(name, changed);
  }

  #adopt(observed: Peer, ifindex: number, owner: string | undefined): void {
    const { live } = this.#services;
    if (owner === undefined || live.get(ifindex, observed.id) !== undefined) return;
    const dialIn = this.#admission.named(owner);
    if (dialIn === undefined || this.#byPeer.has(owner) || this.#orphans.has(owner)) return;
    if (!hasAddresses(observed, dialIn)) return;
    const orphan = { ref: dialIn.ref, ifindex, id: observed.id, routes: peerRoutes(dialIn, ifindex) };
    live.adopt(orphan);
    this.#orphans.set(owner, orphan);
    this.#facts.connected(dialIn.ref, {
      endpoint: observed.remote === undefined ? undefined : formatEndpoint(observed.remote),
      addresses: addressesOf(dialIn),
      ...{ cipher: undefined, tlsVersion: undefined },
    });
    this.#log.info({ event: 'session.adopted', peer: owner, peerId: observed.id }, 'the data of a client goes on');
  }

  #notifiedOrphan({ kind, peerId, ...rest }: Notification): void {
    const found = [...this.#orphans].find(([, orphan]) => orphan.id === peerId);
    if (found === undefined) return;
    const [name, orphan] = found;
    if (kind === 'peer-deleted') {
      this.#orphans.delete(name);
      this.#services.live.gone(orphan);
      this.#facts.disconnected(orphan.ref, 'reason' in rest ? deletionWords[rest.reason] : deletionWords.unknown);
    } else if ('remote' in rest) this.#facts.update(orphan.ref, { endpoint: formatEndpoint(rest.remote) });
  }

  #recheckAll(): void {
    this.#log.info({ event: 'server.pki-changed' }, 'connected clients have to show their certificates again');
    for (const tunnel of [...this.#byPeer.values()]) this.#recheck(tunnel);
    for (const tunnel of [...this.#pending.values()]) this.#end(tunnel, 'the PKI changed while it connected');
    // Without a session there is nobody to ask; their clients notice by the keepalive and come anew.
    for (const name of [...this.#orphans.keys()]) this.#endOf(name, 'the PKI changed');
  }

  /** Renegotiates, for the sake of the certificate. */
  #recheck(tunnel: Tunnel): void {
    tunnel.recheck = tunnel.client.rekey() ? 'running' : 'wanted';
  }

  #problem(ref: ObjectRef, reason: string): void {
    this.#log.warn({ event: 'session.problem', peer: formatRef(ref), error: reason }, 'a client has a problem');
    this.#facts.failed(ref, reason);
  }

  #settings({ credentials, wrap, maxKeyAgeDays, ciphers, rekey, push }: DesiredServer): ServerSettings {
    return {
      wrap: maxKeyAgeDays === undefined ? wrap : withKeyAge(wrap, maxKeyAgeDays, this.#services.clock),
      ciphers,
      limits,
      tls: tlsServer(credentials, { remoteCertTls: 'client' }),
      renegotiateSeconds: rekey.seconds,
      tunMtu: push.mtu,
    };
  }

  #stopServing(): void {
    for (const tunnel of [...this.#tunnels.values()]) {
      this.#forget(tunnel, 'the network takes no clients any more');
      tunnel.client.close();
    }
    this.#server?.close();
    this.#sockets.close();
    this.#server = undefined;
    this.#desired = undefined;
    this.#revision = this.#pkiRevision = '';
  }
}

const deletionWords = {
  teardown: 'the device was torn down',
  userspace: 'somebody deleted it in the kernel',
  expired: 'nothing came from the client for the time of the keepalive',
  'transport-error': 'its socket failed',
  'transport-disconnect': 'its connection was closed',
  unknown: 'it is not in the kernel any more',
} as const;

const movedWords = 'its client is connected to another node';

/** Keys of clients' records, and names of their sockets. */
function keyOf(id: number): string {
  return `client/${id}`;
}

function socketOf(id: number): string {
  return `client-${id}`;
}

function hasAddresses({ vpnIpv4, vpnIpv6 }: Peer, dialIn: DesiredDialIn): boolean {
  return vpnIpv4 === dialIn.vpnIpv4 && vpnIpv6 === dialIn.vpnIpv6;
}

function addressesOf({ vpnIpv4, vpnIpv6 }: DesiredDialIn): string[] {
  return [vpnIpv4, vpnIpv6].filter((address) => address !== undefined);
}

function remoteOf({ remote: { address, port, scopeId } }: Path) {
  return scopeId === undefined ? { address, port } : { address, port, scopeId };
}

/** Whether a certificate is good for a client; where others than the network issue them, the CA and its CRL say so. */
function isGood({ certificates }: DesiredDialIn, { fingerprint }: PeerIdentity): boolean {
  return certificates === undefined || certificates.includes(normaliseFingerprint(fingerprint));
}

function addressing({ identity, vpnIpv4, vpnIpv6 }: DesiredDialIn): unknown {
  return { identity, vpnIpv4, vpnIpv6 };
}
