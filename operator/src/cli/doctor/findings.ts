import { namespaceSysctls } from '../../agent/diff.ts';
import { encapsulationBytes } from '../../agent/plan.ts';
import type { NetworkReport } from '../../agent/report.ts';
import { errorTable } from '../../errors.ts';
import type { Fact, NetworkChecks, NodeFacts } from './facts.ts';

/** `unchecked` is a result of its own: what could not be looked at is neither well nor ill. */
export type Severity = 'error' | 'warning' | 'unchecked' | 'ok';

/** One thing that was looked at. */
export interface Finding {
  readonly severity: Severity;
  /** The short name of the check, which stays the same. */
  readonly check: string;
  /** What was looked at. */
  readonly object: string;
  readonly text: string;
  readonly remedy?: string;
}

/** Less than this in the state folder is worth a warning. Bytes. */
const littleSpace = 64 * 1024 * 1024;
/** Less than this, and the next key may find no place in the ledger. Bytes. */
const noSpace = 1024 * 1024;

/** Judges what was found out about a node. Pure. */
export function findings(facts: NodeFacts): Finding[] {
  return [
    ...judged('privileges', 'this process', facts.privileges, () => ok('has the capabilities that the agent needs')),
    ...driver(facts),
    ...judged('packet-filter', 'kernel', facts.packetFilter, () => ok('has nf_tables')),
    ...judged('clock', 'node', facts.clock, (synchronized) =>
      synchronized
        ? ok('something keeps the clock right')
        : warning(
            'the kernel knows of nothing that keeps the clock right; certificates are refused when it is too wrong',
            'run an NTP client (chronyd, systemd-timesyncd) on the node',
          ),
    ),
    ...state(facts),
    ...holder(facts),
    ...cni(facts),
    ...agent(facts),
  ];
}

function driver({ driver: fact, release }: NodeFacts): Finding[] {
  const object = `kernel ${release}`;
  return judged('ovpn-driver', object, fact, ({ present, transmitIds }) => {
    if (!present) return error('has no ovpn driver', errorTable.KernelWithoutOvpn.remedy);
    if (transmitIds) return ok('has the ovpn driver, with transmit ids');
    return warning(
      'has the ovpn driver without transmit ids: both ends of a static peer need the same peerID, and a server that is dialled has to choose an id that is free here',
      'boot Linux 7.1 or newer where spec.static.remotePeerID is needed',
    );
  });
}

function state({ state: { folder, space } }: NodeFacts): Finding[] {
  return judged('state-folder', folder, space, ({ refused, freeBytes }) => {
    const free = `${Math.floor(freeBytes / 1024 / 1024)} MiB are free`;
    if (refused !== undefined) return error(`cannot be written: ${refused}`, errorTable.StateUnusable.remedy);
    if (freeBytes < noSpace) return error(free, 'make room: without it no key can be installed');
    return freeBytes < littleSpace ? warning(free, 'make room before it is full') : ok(`can be written; ${free}`);
  });
}

function holder({ holder: facts }: NodeFacts): Finding[] {
  if (facts === undefined) {
    return [
      {
        check: 'socket-holder',
        object: 'agent',
        ...warning('keeps its sockets itself: tunnels end when it is replaced', 'run the socket holder'),
      },
    ];
  }
  return judged('socket-holder', facts.socket, facts.sockets, (names) => ok(`keeps ${names.length} sockets`), {
    failed: errorTable.HolderUnreachable.remedy,
  });
}

function cni({ cni: { binFolder, confFolder, mode, installed } }: NodeFacts): Finding[] {
  return judged('cni-plugin', `${binFolder}, ${confFolder}`, installed, ({ plugin, list, chained }) => {
    if (!plugin) return error('the plugin ovpn-cni is not there, or may not be run', 'run ovpn-agent install-cni');
    // Multus calls it by configurations of its own.
    if (mode === 'file') return ok('the plugin is there, for pods that have a configuration of their own');
    if (list === undefined) return warning('the runtime has no configuration list yet', 'install a main CNI plugin');
    if (chained) return ok(`the plugin is there, and ${list} names it`);
    const missing = mode === 'chain' ? error : warning;
    return missing(
      `the plugin is there, and ${list} does not name it: only pods with a configuration of their own join`,
      'run ovpn-agent install-cni --chain, if pods are to join by annotation',
    );
  });
}

function agent(facts: NodeFacts): Finding[] {
  return judged('agent', 'agent', facts.report, () => ok('answers'), {
    failed: errorTable.AgentUnreachable.remedy,
  }).concat(
    'unknown' in facts.report
      ? []
      : [
          ...(facts.report.known.sourcesComplete
            ? []
            : [
                {
                  check: 'resources',
                  object: 'agent',
                  ...warning(
                    'has not read all resources yet; nothing is removed until then',
                    errorTable.ApiUnavailable.remedy,
                  ),
                },
              ]),
          ...facts.report.known.rejections.map(({ origin, object, errors }) => ({
            check: 'resources',
            object: object ?? origin,
            ...error(`is refused: ${errors.join('; ')}`, 'correct the object'),
          })),
          ...facts.report.known.networks.flatMap((network) => networkFindings(network, facts)),
        ],
  );
}

function networkFindings(report: NetworkReport, { networks, underlayMtu, ports }: NodeFacts): Finding[] {
  const object = `VpnNetwork ${report.name}`;
  const checks = networks.get(report.name);
  return [
    {
      check: 'network',
      object,
      ...(report.problem === undefined
        ? ok('stands')
        : error(`is not ready: ${report.problem}`, 'do what the message says')),
    },
    ...(checks === undefined ? [] : namespaceFindings(object, checks)),
    ...judged('mtu', object, underlayMtu, (underlay) => mtuOf(report, underlay)),
    ...report.listeners.flatMap((listener) => listenerFinding(object, listener, ports)),
  ];
}

function namespaceFindings(object: string, { sysctls, filterStands }: NetworkChecks): Finding[] {
  return [
    ...judged('sysctls', object, sysctls, (values) => {
      // Without IPv6 in the kernel there is nothing to set.
      const wrong = [...namespaceSysctls].filter(([name, wanted]) => ![wanted, undefined].includes(values.get(name)));
      if (wrong.length === 0) return ok('has the sysctls that it needs');
      const text = wrong.map(([name, wanted]) => `${name} is ${values.get(name) ?? '?'}, not ${wanted}`).join('; ');
      return error(text, "look who changes sysctls in the networks' namespaces; the agent's next round mends it");
    }),
    ...judged('filter', object, filterStands, (stands) =>
      stands
        ? ok('has its packet filter')
        : error(
            'has another packet filter than the agent made: pods may send with addresses of others',
            "look who changes nftables in the networks' namespaces; the agent's next round mends it",
          ),
    ),
  ];
}

function mtuOf({ mtu, device }: NetworkReport, underlay: number): Judgement {
  if (mtu === undefined || device === undefined) return { severity: 'unchecked', text: 'has no device yet' };
  const room = underlay - encapsulationBytes;
  if (mtu <= room) return ok(`has MTU ${mtu}, which fits the path of ${underlay}`);
  return warning(
    `has MTU ${mtu}, and the path of ${underlay} has room for ${room}: large packets are fragmented or lost`,
    'take spec.mtu off the VpnNetwork, or lower it',
  );
}

function listenerFinding(object: string, listener: string, ports: Fact<ReadonlySet<string>>): Finding[] {
  const [protocol = '', at = ''] = listener.split(' ');
  const port = at.slice(at.lastIndexOf(':') + 1);
  return judged('listener', object, ports, (open) =>
    open.has(`${protocol} ${port}`)
      ? ok(`listens on ${listener}`)
      : error(`does not listen on ${listener}`, "see the agent's log; another program may have the port"),
  );
}

type Judgement = Omit<Finding, 'check' | 'object'>;

/**
 * A finding from a fact. One that is not known is `unchecked`, unless that it cannot be known is the fault itself
 * (`failed`, the remedy).
 */
function judged<T>(
  check: string,
  object: string,
  fact: Fact<T>,
  judge: (known: T) => Judgement,
  { failed }: { readonly failed?: string } = {},
): Finding[] {
  if ('known' in fact) return [{ check, object, ...judge(fact.known) }];
  const text = fact.unknown;
  return [{ check, object, ...(failed === undefined ? { severity: 'unchecked', text } : error(text, failed)) }];
}

const ok = (text: string): Judgement => ({ severity: 'ok', text });
const warning = (text: string, remedy: string): Judgement => ({ severity: 'warning', text, remedy });
const error = (text: string, remedy: string): Judgement => ({ severity: 'error', text, remedy });
