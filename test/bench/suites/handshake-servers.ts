import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { nodeOptions } from '../../../scripts/bundle.ts';
import { AgentProcess, type Host } from '../../support/hosts.ts';
import { network } from '../../support/manifests.ts';
import { eventually, Service } from '../../support/run.ts';
import { controlChannel, dialInPeer, systemNamespace, tlsSecret, wrapSecret } from '../../support/session-manifests.ts';
import { type BenchPki, clientName } from './handshake-pki.ts';

/** A server that is measured: it runs, and clients may come. */
export interface MeasuredServer {
  readonly port: number;
  /** All processes that serve. */
  readonly pids: readonly number[];
  /** What it said so far. */
  log(): string;
  stop(): Promise<void>;
}

export interface ServerSetup {
  readonly host: Host;
  readonly pki: BenchPki;
  readonly tlsCrypt: boolean;
  /** How many clients there can be. */
  readonly clients: number;
  /** A folder of its own. */
  readonly folder: string;
}

export interface OpenvpnChoices {
  readonly offload: boolean;
  /** `--connect-freq-initial`: first packets answered per 10 s, 100 by default. */
  readonly firstPackets: number;
}

/** Several may run at once. */
const openvpnPorts = { offload: 1194, plain: 1195 } as const;

/** OpenVPN's own server; its log says as much as by default. */
export async function startOpenvpn(
  { host, pki, tlsCrypt, clients, folder }: ServerSetup,
  { offload, firstPackets }: OpenvpnChoices,
): Promise<MeasuredServer> {
  const port = offload ? openvpnPorts.offload : openvpnPorts.plain;
  const config = [
    ...[`server ${offload ? '10.98.0.0' : '10.99.0.0'} 255.255.0.0`, 'topology subnet', 'dev tun'],
    ...['proto udp4', `local ${host.ipv4}`, `port ${port}`],
    // As large as our listeners': what does not fit costs a client seconds.
    ...['rcvbuf 2097152', 'sndbuf 2097152'],
    ...[`ca ${pki.ca}`, `cert ${pki.serverCert}`, `key ${pki.serverKey}`, 'dh none', 'tls-version-min 1.3'],
    ...(tlsCrypt ? [`tls-crypt ${pki.tlsCryptKey}`] : []),
    'data-ciphers AES-256-GCM',
    ...(offload ? [] : ['disable-dco']),
    ...[`max-clients ${clients + 100}`, `connect-freq-initial ${firstPackets} 10`],
    // Nothing but handshakes: no ping falls into a measurement.
    'keepalive 600 3600',
    'verb 1',
  ];
  const file = join(folder, `openvpn-${port}.conf`);
  writeFileSync(file, config.map((line) => `${line}\n`).join(''));
  const service = await started('OpenVPN', host, ['openvpn', '--config', file], 'Initialization Sequence Completed');
  return { port, pids: [service.pid ?? 0], log: () => service.log, stop: async () => service.end() };
}

/** What programs/endpoint.ts is started with. */
export interface EndpointSetup {
  readonly pki: BenchPki;
  readonly tlsCrypt: boolean;
  readonly address: string;
  readonly port: number;
  readonly repliesPerSecond: number;
}

const endpointPort = 1196;

const agentPort = 1197;
const vpnName = 'bench';

/** Our agent with a network and a VpnPeer for each client, and its socket holder. */
export async function startAgent({ host, pki, tlsCrypt, clients }: ServerSetup): Promise<MeasuredServer> {
  const read = (file: string): string => readFileSync(file, 'utf8');
  const agent = new AgentProcess(host);
  agent.environment = { NODE_OPTIONS: nodeOptions };
  const wrap = tlsCrypt ? 'tls-crypt' : 'none';
  const certificate = { cert: read(pki.serverCert), key: read(pki.serverKey) };
  agent.apply('server.yaml', tlsSecret('server', { certificate, ca: read(pki.ca), namespace: systemNamespace }));
  if (tlsCrypt) agent.apply('wrap.yaml', wrapSecret('wrap', read(pki.tlsCryptKey), systemNamespace));
  const manifest = network({
    name: vpnName,
    node: host.name,
    addresses: ['10.96.255.254'],
    peerPools: ['10.96.0.0/16'],
    podBlocks: ['10.97.0.0/24'],
    spec: {
      mtu: 1400,
      listeners: [{ name: 'udp', protocol: 'UDP', port: agentPort }],
      pki: { secretRef: { name: 'server' }, minTLSVersion: '1.3' },
      controlChannel: controlChannel(wrap, 'wrap', 'server'),
      dataCiphers: ['AES-256-GCM'],
      keepalive: { intervalSeconds: 600, timeoutSeconds: 3600 },
    },
  });
  agent.apply('network.yaml', manifest);
  const peers = Array.from({ length: clients }, (_, index) =>
    dialInPeer({
      name: clientName(index),
      networkName: vpnName,
      addresses: [`10.96.${1 + (index >> 8)}.${index & 255}`],
    }),
  );
  agent.apply('peers.yaml', peers.join('---\n'));
  await agent.start();
  await agent.until(
    'a listener and all peers',
    ({ networks }) =>
      networks.some(({ name, listeners, peers: { length } }) => {
        return name === vpnName && listeners.length === 1 && length === clients;
      }),
    300_000,
  );
  return {
    port: agentPort,
    pids: processesOf(agent.folder),
    log: () => agent.log,
    stop: async () => {
      await agent.remove();
      // The next one is to begin with nothing.
      rmSync(agent.folder, { recursive: true });
    },
  };
}

/** Processes with a path in their command line: the agent and its socket holder, which know each other by it. */
function processesOf(path: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(path);
      } catch {
        // It has ended meanwhile.
        return false;
      }
    })
    .map(Number);
}

/** Our control channel without an agent around it and without the kernel's part. */
export async function startEndpoint(
  { host, pki, tlsCrypt }: ServerSetup,
  { repliesPerSecond, flags = [] }: { readonly repliesPerSecond: number; readonly flags?: readonly string[] },
): Promise<MeasuredServer> {
  const setup: EndpointSetup = { pki, tlsCrypt, address: host.ipv4, port: endpointPort, repliesPerSecond };
  const program = join(import.meta.dirname, '..', 'programs', 'endpoint.ts');
  const command = [process.execPath, ...flags, program, JSON.stringify(setup)];
  const service = await started('the endpoint', host, command, 'Serving');
  return { port: endpointPort, pids: [service.pid ?? 0], log: () => service.log, stop: async () => service.end() };
}

/** Starts a program on a host and waits until it says that it is ready. */
async function started(what: string, host: Host, command: readonly string[], ready: string): Promise<Service> {
  const [program = '', ...args] = command;
  const service = new Service('nsenter', host.command(program, ...args));
  const state = await eventually(what, () => {
    if (!service.running) return 'ended';
    return service.log.includes(ready) ? 'ready' : undefined;
  });
  if (state === 'ended') throw new Error(`${what} ended:\n${service.log}`);
  return service;
}
