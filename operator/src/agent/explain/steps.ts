import { contains, parseAddress, parseCidr } from '../../api/ip.ts';
import type { Way } from '../../kernel/rtnetlink/lookup.ts';
import { formatEndpoint } from '../../kernel/transport-socket.ts';
import type { PeerReport } from '../report.ts';
import type { NetworkFacts, OutFacts, PeerFacts, PodFacts, RouteFacts } from './facts.ts';

/** One part of a packet's way. */
export interface Step {
  /** `stop`: the packet, or its answer, does not get further. */
  readonly result: 'ok' | 'warn' | 'stop';
  /** What the step is about, e.g. `VpnPeer default/office`. */
  readonly object: string;
  readonly text: string;
  readonly remedy?: string;
}

/** A packet's way, and whether it and its answer get through. */
export interface Explanation {
  readonly destination: string;
  readonly reaches: boolean;
  readonly steps: readonly Step[];
}

/** Says in words which way a packet takes, up to where it stops. Pure. */
export function explain(facts: RouteFacts): Explanation {
  const steps: Step[] = [];
  for (const step of walk(facts)) {
    steps.push(step);
    if (step.result === 'stop') break;
  }
  return { destination: facts.destination, reaches: steps.every(({ result }) => result !== 'stop'), steps };
}

function* walk({ destination, pod, network }: RouteFacts): Generator<Step> {
  if (pod !== undefined) yield* inPod(pod, network, destination);
  if (network !== undefined) yield* inNetwork(network, destination);
}

function* inPod(pod: PodFacts, network: NetworkFacts | undefined, destination: string): Generator<Step> {
  const object = `pod ${pod.name}`;
  const { attachments, way, out } = pod;
  if (attachments.length === 0) {
    yield stop(object, 'is attached to no VpnNetwork on this node', remedies.attach);
    return;
  }
  if (!pod.present || way === undefined) {
    yield stop(object, 'has a network namespace that is gone, or cannot be entered', remedies.sandbox);
    return;
  }
  if (way.kind === 'local') {
    yield ok(object, `has ${destination} itself; no packet leaves it`);
    return;
  }
  if (way.kind === 'refused') {
    const names = attachments.map(({ ifname }) => ifname).join(', ');
    yield stop(object, `refuses ${destination} (${way.code}: ${way.reason})`, `see that ${names} stands and is up`);
    return;
  }
  if (network === undefined) {
    yield stop(
      object,
      `sends ${destination} out of ${out ?? `interface ${way.index}`}, not into a VPN: no network of the pod has that destination`,
      'nothing, if it is meant so; else give the destination to a VpnPeer in spec.routes',
    );
    return;
  }
  const next = way.gateway === undefined ? '' : ` by ${way.gateway}`;
  yield ok(
    object,
    `sends from ${network.source ?? '?'} out of ${out ?? '?'}${next} into VpnNetwork ${network.report.name}`,
  );
}

function* inNetwork(facts: NetworkFacts, destination: string): Generator<Step> {
  const { report, source, input, sourceOut, way, out } = facts;
  const object = `VpnNetwork ${report.name}`;
  if (report.problem !== undefined) yield warn(object, `is not ready: ${report.problem}`);
  if (!facts.filterStands) {
    yield warn(
      object,
      "has another packet filter in its namespace than the agent made; the agent's rules may not hold",
    );
  }
  if (input !== undefined && input !== sourceOut) {
    yield stop(
      object,
      `drops packets from ${source ?? '?'} that come in on ${input}: ${sourceOut === undefined ? 'nobody here has that address' : `that address is behind ${sourceOut}`}`,
      'send with an address that the pod was given; CHECK of the CNI plugin tells what differs',
    );
  } else if (source !== undefined && input !== undefined) {
    yield ok(object, `lets ${source} in on ${input}`);
  }
  if (!facts.forwards) {
    yield stop(object, 'does not forward: its sysctl is off', "look who changed it; the agent's next round mends it");
  }
  yield* routeStep(facts, object, destination);
  if (way.kind !== 'forward' || out === undefined) return;
  if (!out.up)
    yield stop(object, `has ${out.name}, which is down`, "look who took it down; the agent's next round mends it");
  if (out.mode === undefined) {
    const pod = report.attachments.find(({ addresses }) => addresses.includes(destination));
    yield ok(pod?.pod === undefined ? object : `pod ${pod.pod}`, `gets the packet on this node, by ${out.name}`);
  } else {
    yield* peerSteps(facts, out, way.gateway ?? destination, destination);
  }
  yield* answerStep(facts, object, destination);
}

function* routeStep({ report, way, out }: NetworkFacts, object: string, destination: string): Generator<Step> {
  if (way.kind === 'local') {
    yield ok(object, `has ${destination} itself: this node answers`);
    return;
  }
  if (way.kind === 'refused') {
    yield stop(
      object,
      `has no way to ${destination} (${way.code}: ${way.reason})${blame(report.peers, destination)}`,
      whoseTurn(report.peers, destination),
    );
    return;
  }
  yield ok(object, `routes ${destination}${viaText(way)} out of ${out?.name ?? `interface ${way.index}`}`);
}

function viaText({ gateway }: Extract<Way, { kind: 'forward' }>): string {
  return gateway === undefined ? '' : ` via ${gateway}`;
}

function* peerSteps({ report }: NetworkFacts, out: OutFacts, nextHop: string, destination: string): Generator<Step> {
  const { name, mode, peer } = out;
  if (peer === undefined) {
    const wanted = mode === 'mp' ? `no peer with the VPN address ${nextHop}` : 'no peer: the remote is not connected';
    const about = mode === 'mp' ? nextHop : destination;
    yield stop(`device ${name}`, `has ${wanted}${blame(report.peers, about)}`, whoseTurn(report.peers, about));
    return;
  }
  const object = peer.name === undefined ? `peer ${peer.peer.id}` : `VpnPeer ${peer.name}`;
  yield ok(object, `gets it as peer ${peer.peer.id} of ${name}${endpointText(peer)}`);
  yield* keyStep(
    peer,
    object,
    report.peers.find((each) => each.name === peer.name),
  );
  if (mode === 'mp' && out.sourceCheck !== nextHop) {
    yield stop(
      object,
      `may not send from ${destination}: for the driver's source check that address is behind ${out.sourceCheck ?? 'nobody'}`,
      'see that no other route of the namespace covers the destination',
    );
  }
  yield trafficStep(peer, object);
}

function endpointText({ peer: { remote } }: PeerFacts): string {
  return remote === undefined ? '' : ` at ${formatEndpoint(remote)}`;
}

function* keyStep({ keys }: PeerFacts, object: string, report: PeerReport | undefined): Generator<Step> {
  const primary = keys.find(({ slot }) => slot === 'primary');
  const secondary = keys.find(({ slot }) => slot === 'secondary');
  if (primary === undefined) {
    const why = report === undefined || report.ready === 'True' ? '' : `; ${report.reason}: ${report.message}`;
    yield stop(
      object,
      `has no key to send with${why}`,
      'see that its VpnKey has a usable Secret and a generation that was not used before',
    );
    return;
  }
  const also = secondary === undefined ? '' : `; key ${secondary.keyId} stands in the secondary slot`;
  yield ok(object, `sends with key ${primary.keyId} (${primary.cipher})${also}`);
}

function trafficStep({ peer: { vpn, link } }: PeerFacts, object: string): Step {
  const counters = `${vpn.rxPackets} packets received, ${vpn.txPackets} sent`;
  if (vpn.rxPackets > 0n) return ok(object, `has traffic: ${counters}`);
  if (link.rxPackets > 0n)
    return warn(
      object,
      `has sent ${link.rxPackets} packets that held nothing for us or could not be authenticated`,
      'see that both ends have the same key and cipher, if traffic is expected',
    );
  return warn(
    object,
    `has sent nothing yet (${counters})`,
    'see that the remote runs, and that a firewall lets its port through',
  );
}

function* answerStep({ answer, source, input }: NetworkFacts, object: string, destination: string): Generator<Step> {
  if (answer === undefined || input === undefined || source === undefined) return;
  if (answer.out === input) {
    yield ok(object, `routes the answer to ${source} out of ${input}`);
    return;
  }
  const instead =
    answer.way.kind === 'refused'
      ? `refused (${answer.way.code}: ${answer.way.reason})`
      : `sent out of ${answer.out ?? 'no interface'}`;
  yield stop(
    object,
    `has an answer from ${destination} to ${source} ${instead}, not out of ${input}`,
    'see that no other route covers the pod',
  );
}

/** The VpnPeers that ask for a destination, the narrowest first. */
function owners(peers: readonly PeerReport[], destination: string): PeerReport[] {
  const address = parseAddress(destination);
  if (address === undefined) return [];
  return peers
    .flatMap((peer) => {
      const lengths = peer.claims.flatMap((text) => {
        const range = parseCidr(text);
        return range !== undefined && contains(range, address) ? [range.prefix] : [];
      });
      return lengths.length === 0 ? [] : [{ peer, length: Math.max(...lengths) }];
    })
    .sort((one, other) => other.length - one.length)
    .map(({ peer }) => peer);
}

function blame(peers: readonly PeerReport[], destination: string): string {
  const [owner] = owners(peers, destination);
  if (owner === undefined) return '; no VpnPeer of this node has it';
  return `; VpnPeer ${owner.name} has it, and is ${owner.ready === 'True' ? 'Ready' : `not Ready: ${owner.reason}: ${owner.message}`}`;
}

function whoseTurn(peers: readonly PeerReport[], destination: string): string {
  const [owner] = owners(peers, destination);
  if (owner === undefined) return 'correct the destination, or give it to a VpnPeer in spec.routes';
  if (owner.reason === 'Suspended') return `take spec.suspend off VpnPeer ${owner.name}`;
  if (owner.ready !== 'True') return `mend what the condition Ready of VpnPeer ${owner.name} says`;
  return "wait for the agent's next round; if it stays so, look into its log";
}

const remedies = {
  attach:
    'name a VpnNetwork in the annotation ovpn-operator.io/networks of the pod, and start the pod anew; see docs/cni.md',
  sandbox: 'delete the pod, so that it starts anew',
} as const;

const ok = (object: string, text: string): Step => ({ result: 'ok', object, text });
const warn = (object: string, text: string, remedy?: string): Step => ({
  result: 'warn',
  object,
  text,
  ...(remedy === undefined ? {} : { remedy }),
});
const stop = (object: string, text: string, remedy: string): Step => ({ result: 'stop', object, text, remedy });
