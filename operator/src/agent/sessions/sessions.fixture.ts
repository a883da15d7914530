import type { Claimant } from '../../api/claims.ts';
import { mkdtempSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { FakeClock } from '../../cluster/testing/clock.ts';
import { NetlinkError } from '../../kernel/netlink/error.ts';
import type { Outcome, Request } from '../../kernel/netlink/socket.ts';
import type { NewKey, NewPeer, Peer, PeerSettings } from '../../kernel/ovpn/codec.ts';
import { OvpnRequests } from '../../kernel/ovpn/family.ts';
import type { KeySlot } from '../../kernel/ovpn/uapi.ts';
import type { Scheduler } from '../../openvpn/session/scheduler.ts';
import type { DataKeys } from '../../openvpn/static-key.ts';
import { silentLog } from '../../telemetry/log.ts';
import type { KeySlots } from '../key-slots.ts';
import { PeerMemory } from '../peer-memory.ts';
import type { DesiredServer } from './desired-session.ts';
import { type LiveKernel, LivePeers } from './live-peers.ts';

/** A driver, a clock and names for the tests of sessions. Not for other code than tests. */

export const refOfPeer = (name: string): Claimant['ref'] => ({ kind: 'VpnPeer', namespace: 'team-a', name });

/** A peer as one that claims its identity. */
export const claimantNamed = (name: string, created = Infinity): Claimant => ({
  ...{ ref: refOfPeer(name), key: `team-a/${name}`, created },
});

export class FakeScheduler extends FakeClock implements Scheduler {
  soon(task: () => void): void {
    this.after(0, task);
  }
}

type Op =
  | { readonly op: 'peer-new'; readonly ifindex: number; readonly settings: NewPeer }
  | { readonly op: 'peer-set'; readonly ifindex: number; readonly settings: PeerSettings }
  | { readonly op: 'peer-del'; readonly ifindex: number; readonly id: number }
  | { readonly op: 'key-new'; readonly ifindex: number; readonly key: NewKey }
  | { readonly op: 'key-swap'; readonly ifindex: number; readonly id: number }
  | { readonly op: 'key-del'; readonly ifindex: number; readonly id: number; readonly slot: KeySlot };

/** Requests that remember what they ask for. */
class OpenRequests extends OvpnRequests {
  readonly ops = new Map<Request, Op>();
  override peerNew(ifindex: number, settings: NewPeer): Request {
    return this.#note(super.peerNew(ifindex, settings), { op: 'peer-new', ifindex, settings });
  }
  override peerSet(ifindex: number, settings: PeerSettings): Request {
    return this.#note(super.peerSet(ifindex, settings), { op: 'peer-set', ifindex, settings });
  }
  override peerDel(ifindex: number, id: number): Request {
    return this.#note(super.peerDel(ifindex, id), { op: 'peer-del', ifindex, id });
  }
  override keyNew(ifindex: number, key: NewKey): Request {
    return this.#note(super.keyNew(ifindex, key), { op: 'key-new', ifindex, key });
  }
  override keySwap(ifindex: number, id: number): Request {
    return this.#note(super.keySwap(ifindex, id), { op: 'key-swap', ifindex, id });
  }
  override keyDel(ifindex: number, id: number, slot: KeySlot): Request {
    return this.#note(super.keyDel(ifindex, id, slot), { op: 'key-del', ifindex, id, slot });
  }
  #note(request: Request, op: Op): Request {
    this.ops.set(request, op);
    return request;
  }
}

interface InKernel {
  settings: NewPeer | PeerSettings;
  primary: NewKey | undefined;
  secondary: NewKey | undefined;
  /** Octets on the wire, both ways. */
  sent: { bytes: bigint; packets: bigint };
}

/** Answers like the driver (drivers/net/ovpn/netlink.c and peer.c of Linux 7.3). */
export class FakeLiveKernel implements LiveKernel {
  readonly requests = new OpenRequests({ id: 30, groups: new Map() });
  /** P2MP or P2P, by index. Others are not there. */
  readonly devices = new Map<number, 'mp' | 'p2p'>([
    [7, 'mp'],
    [8, 'mp'],
    [20, 'p2p'],
  ]);
  readonly peers = new Map<string, InKernel>();
  readonly routes = new Set<string>();
  /** What was asked, in words, accepted or not. */
  readonly calls: string[] = [];
  /** How often each key was put in. */
  readonly installed = new Map<string, number>();
  /** A refusal for what it is asked, by the words of the request. */
  refuse: (call: string) => keyof typeof constants.errno | undefined = () => undefined;
  /** The socket is of no use: every call throws. */
  broken = false;

  ovpnBatch(requests: readonly Request[]): Outcome[] {
    return requests.map((request) => {
      const op = this.requests.ops.get(request);
      return this.#answer(request.describe().replace(/^ovpn /, ''), () =>
        op === undefined ? 'EOPNOTSUPP' : this.#do(op),
      );
    });
  }

  tryChange(requests: readonly Request[]): Outcome[] {
    return requests.map((request) => {
      const words = request.describe();
      return this.#answer(words, () => {
        const route = words.replace(/^(set|delete) route /, '');
        if (words.startsWith('set ')) this.routes.add(route);
        else return this.routes.delete(route) ? undefined : 'ESRCH';
        return undefined;
      });
    });
  }

  getPeer(ifindex: number, id: number): Peer | undefined {
    if (this.broken) throw new Error('EBADF');
    if (!this.devices.has(ifindex)) throw refusalOf('PEER_GET', 'ENODEV');
    const found = this.peers.get(`${ifindex}/${id}`);
    return found === undefined ? undefined : peerOf(found);
  }

  observePeers(
    ifindex: number,
    ids: readonly number[],
  ): Map<number, { readonly peer: Peer | undefined; readonly keys: KeySlots }> {
    return new Map(
      ids.map((id) => {
        const found = this.peers.get(`${ifindex}/${id}`);
        return [
          id,
          {
            peer: found === undefined ? undefined : peerOf(found),
            keys: { primary: slotOf(found?.primary), secondary: slotOf(found?.secondary) },
          },
        ];
      }),
    );
  }

  /** What a dump of a device says. */
  observed(ifindex: number): Map<number, Peer> {
    const peers = [...this.peers].filter(([key]) => key.startsWith(`${ifindex}/`)).map(([, peer]) => peerOf(peer));
    return new Map(peers.map((peer) => [peer.id, peer]));
  }

  /** The device goes, and everything on it. */
  removeDevice(ifindex: number): void {
    this.devices.delete(ifindex);
    for (const key of [...this.peers.keys()]) if (key.startsWith(`${ifindex}/`)) this.peers.delete(key);
    for (const route of [...this.routes]) if (route.includes(`${ifindex}`)) this.routes.delete(route);
  }

  /** Key ids in the slots: "primary/secondary". */
  slots(ifindex: number, id: number): string {
    const peer = this.peers.get(`${ifindex}/${id}`);
    return `${peer?.primary?.keyId ?? '-'}/${peer?.secondary?.keyId ?? '-'}`;
  }

  /** The calls since the last time. */
  takeCalls(): string[] {
    return this.calls.splice(0).map((call) => call.replace(/ on interface index \d+$/, ''));
  }

  #answer(words: string, act: () => keyof typeof constants.errno | undefined): Outcome {
    if (this.broken) throw new Error('EBADF');
    this.calls.push(words);
    const code = this.refuse(words) ?? act();
    return code === undefined ? { ok: true, replies: [] } : { ok: false, error: refusalOf(words, code) };
  }

  #do(op: Op): keyof typeof constants.errno | undefined {
    const mode = this.devices.get(op.ifindex);
    if (mode === undefined) return 'ENODEV';
    if (op.op === 'peer-new') return this.#new(op.ifindex, mode, op.settings);
    const id = op.op === 'key-new' ? op.key.peerId : op.op === 'peer-set' ? op.settings.id : op.id;
    const peer = this.peers.get(`${op.ifindex}/${id}`);
    if (peer === undefined) return 'ENOENT';
    switch (op.op) {
      case 'peer-set':
        peer.settings = { ...peer.settings, ...op.settings };
        return undefined;
      case 'peer-del':
        this.peers.delete(`${op.ifindex}/${id}`);
        return undefined;
      case 'key-new': {
        peer[op.key.slot] = op.key;
        const text = op.key.encrypt.cipherKey.toString();
        this.installed.set(text, (this.installed.get(text) ?? 0) + 1);
        return undefined;
      }
      case 'key-swap':
        [peer.primary, peer.secondary] = [peer.secondary, peer.primary];
        return undefined;
      case 'key-del':
        peer[op.slot] = undefined;
        return undefined;
    }
  }

  #new(ifindex: number, mode: 'mp' | 'p2p', settings: NewPeer): keyof typeof constants.errno | undefined {
    const { id, vpnIpv4, vpnIpv6 } = settings;
    if (mode === 'p2p') {
      if (vpnIpv4 !== undefined || vpnIpv6 !== undefined) return 'EINVAL';
      for (const key of [...this.peers.keys()]) if (key.startsWith(`${ifindex}/`)) this.peers.delete(key);
    } else {
      if (this.peers.has(`${ifindex}/${id}`)) return 'EEXIST';
      for (const other of this.observed(ifindex).values()) {
        const taken = (one: string | undefined, two: string | undefined): boolean => one !== undefined && one === two;
        if (taken(other.vpnIpv4, vpnIpv4) || taken(other.vpnIpv6, vpnIpv6)) return 'EADDRINUSE';
      }
    }
    const sent = { bytes: 0n, packets: 0n };
    this.peers.set(`${ifindex}/${id}`, { settings, primary: undefined, secondary: undefined, sent });
    return undefined;
  }
}

function slotOf(key: NewKey | undefined): KeySlots['primary'] {
  return key === undefined ? undefined : { keyId: key.keyId, cipher: key.cipher };
}

function refusalOf(words: string, code: keyof typeof constants.errno): NetlinkError {
  return new NetlinkError(words, constants.errno[code]);
}

function peerOf({ settings, sent }: InKernel): Peer {
  const none = { rxBytes: 0n, txBytes: 0n, rxPackets: 0n, txPackets: 0n };
  return {
    id: settings.id,
    txId: settings.id,
    remote: settings.remote,
    local: undefined,
    localPort: 1194,
    socketNetnsid: 0,
    vpnIpv4: settings.vpnIpv4,
    vpnIpv6: settings.vpnIpv6,
    keepalive: settings.keepalive ?? { interval: 0, timeout: 0 },
    vpn: none,
    link: { ...none, txBytes: sent.bytes, txPackets: sent.packets },
  };
}

/** Live peers of a network over that kernel. */
export function livePeers(kernel: () => LiveKernel | undefined): LivePeers {
  const memory = new PeerMemory(join(mkdtempSync(join(tmpdir(), 'ovpn-live-')), 'peers.json'));
  return new LivePeers({ network: 'corp', kernel, memory, log: silentLog });
}

let count = 0;

/** Keys that no other call gives. Their text says that they are secret. */
export function freshKeys(): DataKeys {
  const direction = (): DataKeys['encrypt'] => ({
    cipherKey: Buffer.from(`secret-${String(++count).padStart(25, '0')}`),
    nonceTail: Buffer.from('sec-tail'),
  });
  return { encrypt: direction(), decrypt: direction(), fingerprint: `fingerprint-${count}` };
}

/** A server's settings as the plan makes them: nothing wrapped, nothing pushed beyond the addresses. */
export const serverSettings = (
  credentials: DesiredServer['credentials'],
  change: Partial<DesiredServer> = {},
): DesiredServer => ({
  credentials,
  notAfter: Infinity,
  wrap: { kind: 'none' },
  ciphers: ['AES-256-GCM'],
  rekey: { seconds: 3600, bytes: 0, packets: 0, transitionMs: 30_000 },
  push: {
    ...{ gatewayIpv4: '10.80.0.1', gatewayIpv6: undefined, lengthIpv4: 24, lengthIpv6: 128, mtu: 1400 },
    ...{ routes: [], dnsServers: [], searchDomains: [] },
  },
  ...change,
});

/** For what dials by addresses only. */
export const noNames = {
  resolve: (host: string): Promise<never> => Promise.reject(new Error(`nobody was to ask for ${host}`)),
};
