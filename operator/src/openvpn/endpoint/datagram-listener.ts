import type { SessionState } from '../session/session-state.ts';
import { clearHeaderBytes } from '../wire/packet.ts';
import type { FirstContact } from '../wrap/stateless-start.ts';
import { firstPacketWords } from './first-packet-words.ts';
import { addressKey, type Path, type PeerAddress } from './path.ts';
import { resumedWrapper } from './resumed-wrapper.ts';
import { type Link, ServedSession } from './served-session.ts';
import { evictedWords, type ServerHost, turnedAway } from './server-host.ts';
import type { ClientEnd, ServedClient } from './server-settings.ts';

const maxHandshakesPerPath = 2;
/** Who is not where its packets come from is asked about this often. */
const askAgainMs = 1000;

/**
 * Any number of clients on one UDP socket. A packet belongs to a session by its source and by the session id of its
 * sender, which every wrapping leaves readable. By both, because a client that was started again sends from where its
 * former self did, and anybody can forge such a packet: the former session goes on until the new one, begun
 * by the stateless start like every other, has authenticated.
 *
 * A session keeps its address until the kernel says that it moved (`moved`): the kernel goes by data packets, which
 * are newer than any a forger can have. When control packets come from elsewhere the owner is asked whether it did;
 * those that come before any data are dropped and come again.
 */
export class DatagramListener {
  readonly #host: ServerHost;
  readonly #name: string;
  readonly #shared: Shared;
  /** By address and client's session id. */
  readonly #sessions = new Map<string, DatagramLink>();
  /** The same by the client's session id alone: mostly one, as it is chosen at random. */
  readonly #senders = new Map<string, Set<DatagramLink>>();
  /** The same by address: mostly one, two while a client begins anew or when clients have moved. */
  readonly #paths = new Map<string, Set<DatagramLink>>();
  #closed = false;

  constructor(host: ServerHost, name: string, send: (packet: Buffer, path: Path) => void) {
    this.#host = host;
    this.#name = name;
    this.#shared = {
      send: (packet, path) => {
        if (!this.#closed) {
          send(packet, path);
        }
      },
      claim: (link) => this.#claim(link),
      move: (link, remote) => this.#move(link, remote),
      forget: (link) => this.#forget(link),
    };
  }

  /** Takes a datagram in, whatever is in it. The buffer may be used again afterwards. */
  receive(packet: Buffer, path: Path): void {
    if (this.#closed) {
      return;
    }
    const known = this.#known(path.remote, senderOf(packet));
    if (known !== undefined) {
      // Authentic, so the client calls us there now: the address of before may be gone from this host.
      if (known.session.receive(packet) === undefined) {
        known.calledAt(path.local);
      }
      return;
    }
    const { address, port, scopeId } = path.remote;
    const source = { address: scopeId === undefined ? address : `${address}%${scopeId}`, port };
    const contact = this.#host.start.receive(packet, source);
    switch (contact.kind) {
      case 'reply':
        this.#host.counters.replies += 1;
        this.#shared.send(contact.bytes, path);
        return;
      case 'session':
        this.#begin(contact, path);
        return;
      case 'drop': {
        this.#host.counters.drop(contact.reason);
        const words = firstPacketWords(this.#host.settings.wrap.kind, contact.reason, packet);
        if (words !== undefined) {
          this.#host.failed(path, this.#name, words, false);
        }
        return;
      }
    }
  }

  /** The session that a packet is of. One whose client is elsewhere, by what was known so far, is asked about. */
  #known(remote: PeerAddress, sender: Buffer): DatagramLink | undefined {
    const key = sessionKey(remote, sender);
    const known = this.#sessions.get(key);
    const links = known === undefined ? this.#senders.get(senderKey(sender)) : undefined;
    if (links === undefined) {
      return known;
    }
    const now = this.#host.scheduler.now();
    for (const link of [...links]) {
      // Not one that lingers after its end.
      if (this.#host.clients.has(link.session) && now - link.askedAt >= askAgainMs) {
        link.askedAt = now;
        this.#host.owner.displaced(link.session);
      }
    }
    return this.#sessions.get(key);
  }

  /**
   * Goes on with a client of an earlier program.
   *
   * @throws RangeError when the state is none of a server's session
   */
  resume(state: SessionState, path: Path): ServedClient {
    const { settings, clock } = this.#host;
    const wrapper = resumedWrapper(settings.wrap, { role: 'server', transport: 'udp', clock }, state);
    const link: DatagramLink = new DatagramLink(
      this.#shared,
      this.#name,
      path,
      Buffer.from(state.peerSessionId, 'hex'),
      (made) => new ServedSession(this.#host, made, { kind: 'state', state }, wrapper),
    );
    this.#remember(link);
    return link.session;
  }

  /** Closes the listener. Its clients hear nothing; their owner does. */
  close(end?: ClientEnd): void {
    this.#closed = true;
    for (const { session } of [...this.#sessions.values()]) {
      if (end === undefined) {
        session.close();
      } else {
        session.abandon(end);
      }
    }
  }

  #begin({ packet, sessionId, wrapper }: Extract<FirstContact, { kind: 'session' }>, path: Path): void {
    const { begins, halfOpen, counters, start } = this.#host;
    const refusal = begins.refusal(path.remote.address);
    if (refusal !== undefined) {
      turnedAway(this.#host, path, this.#name, refusal);
      return;
    }
    this.#dropOldest(path.remote);
    const place = halfOpen.take(path.remote.address, () => {
      counters.evicted += 1;
      link.session.abandon({ cause: 'failed', reason: evictedWords });
    });
    if (typeof place === 'string') {
      turnedAway(this.#host, path, this.#name, place);
      return;
    }
    const link: DatagramLink = new DatagramLink(this.#shared, this.#name, path, packet.sessionId, (made) => {
      return new ServedSession(this.#host, made, { kind: 'stateless', sessionId }, wrapper, place);
    });
    this.#remember(link);
    begins.count(path.remote.address);
    start.begun(sessionId);
    link.session.receivePacket(packet);
  }

  /**
   * A client that begins anew again and again leaves a handshake each time. Two may be there, so that a late packet
   * of a former self does not end the handshake that goes on.
   */
  #dropOldest(remote: PeerAddress): void {
    const handshakes = [...(this.#paths.get(addressKey(remote)) ?? [])].filter(({ session }) => !session.authenticated);
    if (handshakes.length >= maxHandshakesPerPath) {
      this.#host.counters.superseded += 1;
      handshakes[0]?.session.close();
    }
  }

  /** The session of this link has authenticated; others on its path are of clients that are not there any more. */
  #claim(link: DatagramLink): void {
    for (const other of [...(this.#paths.get(addressKey(link.path.remote)) ?? [])]) {
      if (other === link) {
        continue;
      }
      if (other.session.authenticated) {
        other.session.abandon({ cause: 'replaced-path', reason: 'the client connected anew from the same address' });
      } else {
        this.#host.counters.superseded += 1;
        other.session.close();
      }
    }
  }

  #move(link: DatagramLink, remote: PeerAddress): void {
    if (!this.#knows(link)) {
      // It is over; another client may be there with its session id by now.
      return;
    }
    if (this.#sessions.has(sessionKey(remote, link.clientSessionId))) {
      // Two clients chose one session id, on purpose surely; or it is there already.
      return;
    }
    this.#forget(link);
    link.path = { remote, local: link.path.local };
    // Who else is on that path is left alone: data is no proof that the client receives there.
    this.#remember(link);
  }

  #remember(link: DatagramLink): void {
    const at = addressKey(link.path.remote);
    this.#sessions.set(sessionKey(link.path.remote, link.clientSessionId), link);
    addTo(this.#paths, at, link);
    addTo(this.#senders, senderKey(link.clientSessionId), link);
  }

  #knows(link: DatagramLink): boolean {
    return this.#sessions.get(sessionKey(link.path.remote, link.clientSessionId)) === link;
  }

  #forget(link: DatagramLink): void {
    const at = addressKey(link.path.remote);
    if (this.#knows(link)) {
      this.#sessions.delete(sessionKey(link.path.remote, link.clientSessionId));
    }
    removeFrom(this.#paths, at, link);
    removeFrom(this.#senders, senderKey(link.clientSessionId), link);
  }
}

/** What all links of a listener do by it. */
interface Shared {
  send(packet: Buffer, path: Path): void;
  claim(link: DatagramLink): void;
  move(link: DatagramLink, remote: PeerAddress): void;
  forget(link: DatagramLink): void;
}

class DatagramLink implements Link {
  readonly transport = 'udp';
  readonly listener: string;
  readonly session: ServedSession;
  readonly clientSessionId: Buffer;
  readonly #shared: Shared;
  path: Path;
  /** When the owner was last asked where it is, in the scheduler's time. */
  askedAt = -Infinity;

  constructor(
    shared: Shared,
    listener: string,
    path: Path,
    clientSessionId: Buffer,
    makeSession: (link: DatagramLink) => ServedSession,
  ) {
    this.#shared = shared;
    this.listener = listener;
    this.path = path;
    this.clientSessionId = clientSessionId;
    this.session = makeSession(this);
  }

  send(packet: Buffer): void {
    this.#shared.send(packet, this.path);
  }

  /** Our address that the client's latest packet was sent to. */
  calledAt(local: string | undefined): void {
    if (local !== this.path.local) {
      this.path = { remote: this.path.remote, local };
    }
  }

  claim(): void {
    this.#shared.claim(this);
  }

  moved(remote: PeerAddress): void {
    this.#shared.move(this, remote);
  }

  handOver(take: () => boolean): void {
    take();
  }

  over(): void {
    this.#shared.forget(this);
  }
}

function sessionKey(remote: PeerAddress, clientSessionId: Buffer): string {
  return `${addressKey(remote)}/${senderKey(clientSessionId)}`;
}

function senderKey(clientSessionId: Buffer): string {
  return clientSessionId.toString('latin1');
}

function addTo(links: Map<string, Set<DatagramLink>>, key: string, link: DatagramLink): void {
  const there = links.get(key);
  if (there === undefined) {
    links.set(key, new Set([link]));
  } else {
    there.add(link);
  }
}

function removeFrom(links: Map<string, Set<DatagramLink>>, key: string, link: DatagramLink): void {
  const there = links.get(key);
  there?.delete(link);
  if (there?.size === 0) {
    links.delete(key);
  }
}

/** The session id of who sent a packet; something that fits none when it has none. */
function senderOf(packet: Buffer): Buffer {
  return packet.subarray(1, clearHeaderBytes);
}
