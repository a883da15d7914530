import { accessSync, constants, existsSync, readFileSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { defaultAgentSocket } from '../../agent/attach-protocol.ts';
import { networkFilter } from '../../agent/filter.ts';
import { namespaceSysctls } from '../../agent/diff.ts';
import type { NodeReport } from '../../agent/report.ts';
import { underlayMtu } from '../../agent/underlay.ts';
import { describe, OvpnError } from '../../errors.ts';
import { HolderClient } from '../../holder/client.ts';
import { inspectInstallation } from '../../install/installer.ts';
import { pluginType } from '../../install/network-list.ts';
import { clockSynchronized } from '../../kernel/libc.ts';
import { greatestAttribute, resolveFamily } from '../../kernel/netlink/generic.ts';
import { NETLINK_GENERIC, NETLINK_ROUTE, NetlinkSocket } from '../../kernel/netlink/socket.ts';
import { NETLINK_NETFILTER, tableStands } from '../../kernel/nftables/table.ts';
import { familyName, PeerAttr } from '../../kernel/ovpn/uapi.ts';
import { requirePrivileges } from '../../kernel/privileges.ts';
import { readSysctls } from '../../kernel/sysctl.ts';
import { callReport } from '../agent-call.ts';
import type { DriverFacts, Fact, NetworkChecks, NodeFacts, SpaceFacts } from './facts.ts';

/** Where things are on the node. */
export interface DoctorPaths {
  readonly socket: string;
  /** `none` where the agent keeps its sockets itself. */
  readonly holder: string;
  readonly state: string;
  readonly binFolder: string;
  readonly confFolder: string;
  readonly cniMode?: 'file' | 'chain';
}

/** Looks at a node; changes nothing. Never throws: what cannot be looked at is a fact of its own. */
export async function gatherNode(paths: DoctorPaths): Promise<NodeFacts> {
  const { socket, holder, state, binFolder, confFolder, cniMode } = paths;
  const report = await callReport(socket).then(
    // The agent of this node is the same version as this program, or refuses by its protocol number.
    (known): Fact<NodeReport> => ({ known: known as NodeReport }),
    unknown,
  );
  const networks = 'known' in report ? report.known.networks : [];
  const endpoints = networks.flatMap(({ peers }) => peers.flatMap(({ endpoint }) => hostOf(endpoint) ?? []));
  return {
    privileges: look(() => {
      requirePrivileges();
      return true;
    }),
    release: release(),
    driver: look(readDriver),
    packetFilter: look(() =>
      withSocket(NETLINK_NETFILTER, undefined, (filter) => (tableStands(filter, networkFilter), true)),
    ),
    clock: look(clockSynchronized),
    state: { folder: state, space: look(() => readSpace(state)) },
    holder: holder === 'none' ? undefined : { socket: holder, sockets: look(() => new HolderClient(holder).list()) },
    cni: {
      binFolder,
      confFolder,
      mode: cniMode,
      installed: look(() => {
        for (const folder of [binFolder, confFolder]) {
          if (!existsSync(folder))
            throw new Error(`there is no ${folder} here; in a container the node's may be elsewhere`);
        }
        // As install-cni writes it.
        const elsewhere = socket === defaultAgentSocket ? {} : { agentSocket: socket };
        return inspectInstallation(binFolder, confFolder, { type: pluginType, ...elsewhere });
      }),
    },
    report,
    underlayMtu: look(() => withSocket(NETLINK_ROUTE, undefined, (routes) => underlayMtu(routes, endpoints))),
    ports: look(readPorts),
    networks: new Map(
      networks.flatMap(({ name, netns }) => (netns === undefined ? [] : [[name, readNetwork(netns)] as const])),
    ),
  };
}

function look<T>(read: () => T): Fact<T> {
  try {
    return { known: read() };
  } catch (error) {
    return unknown(error);
  }
}

/** Without the remedy: findings have their own. */
function unknown(error: unknown): { readonly unknown: string } {
  return { unknown: error instanceof OvpnError ? error.problem : describe(error) };
}

function withSocket<T>(protocol: number, namespace: string | undefined, read: (socket: NetlinkSocket) => T): T {
  const socket = NetlinkSocket.open(protocol, namespace);
  try {
    return read(socket);
  } finally {
    socket.close();
  }
}

function readDriver(): DriverFacts {
  return withSocket(NETLINK_GENERIC, undefined, (socket) => {
    if (resolveFamily(socket, familyName) === undefined) return { present: false, transmitIds: false };
    return { present: true, transmitIds: greatestAttribute(socket, familyName) >= PeerAttr.TxId };
  });
}

function readSpace(folder: string): SpaceFacts {
  const { bavail, bsize } = statfsSync(folder);
  const freeBytes = bavail * bsize;
  try {
    accessSync(folder, constants.W_OK);
    return { refused: undefined, freeBytes };
  } catch (error) {
    return { refused: describe(error), freeBytes };
  }
}

function readNetwork(netns: string): NetworkChecks {
  return {
    sysctls: look(() => readSysctls(netns, [...namespaceSysctls.keys()])),
    filterStands: look(() => withSocket(NETLINK_NETFILTER, netns, (filter) => tableStands(filter, networkFilter))),
  };
}

/** States of a socket in proc_net: TCP_LISTEN; an unconnected UDP socket is in TCP_CLOSE. */
const openStates = { tcp: '0A', udp: '07' } as const;

/** Ports that this network namespace has sockets on, for IPv4 and IPv6. */
function readPorts(): ReadonlySet<string> {
  const ports = new Set<string>();
  for (const protocol of ['tcp', 'udp'] as const) {
    for (const family of ['', '6']) {
      const file = `/proc/self/net/${protocol}${family}`;
      // A kernel without IPv6 has no such file.
      if (!existsSync(file)) continue;
      for (const line of readFileSync(file, 'utf8').split('\n').slice(1)) {
        const [, local, , socketState] = line.trim().split(/\s+/);
        const port = Number.parseInt(local?.split(':')[1] ?? '', 16);
        if (socketState === openStates[protocol] && Number.isInteger(port)) ports.add(`${protocol} ${port}`);
      }
    }
  }
  return ports;
}

/** The address of `192.0.2.1:1194` or `[2001:db8::1]:1194`. */
function hostOf(endpoint: string | undefined): string | undefined {
  return endpoint === undefined ? undefined : /^\[?([0-9a-fA-F:.]+?)\]?:\d+$/.exec(endpoint)?.[1];
}
