import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { statusText } from '../../operator/src/cli/status.ts';
import type { AgentProcess, Host } from '../support/hosts.ts';
import { KernelView } from '../support/kernel-view.ts';
import { type Pod, podAddress } from '../support/office.ts';
import {
  clientConfig,
  credentials,
  openvpn26,
  openvpn27,
  type OpenvpnBuild,
  OpenvpnProcess,
  serverConfig,
  type Transport,
  WrapKeys,
} from '../support/openvpn.ts';
import { untilConnected, untilStatus } from '../support/peer-status.ts';
import { Pki } from '../support/pki.ts';
import { attempt, eventually } from '../support/run.ts';
import {
  controlChannel,
  dialInPeer,
  dialOutPeer,
  systemNamespace,
  tlsKey,
  tlsSecret,
  wrapSecret,
} from '../support/session-manifests.ts';
import { whilePinging } from '../support/stream.ts';
import { makeLan } from './lan.ts';
import { demand, heading, reach, say } from './narrator.ts';

/** The steps with unmodified OpenVPN: clients that dial in, and a server that the agent dials. */

/** Where the demo is when these steps begin. */
export interface Surroundings {
  readonly agent: AgentProcess;
  readonly pod: Pod;
  /** The manifest of the VpnNetwork with more in its spec. */
  readonly networkWith: (spec: object) => string;
  readonly port: number;
  /** A host behind a static peer, and the LAN that it is in. */
  readonly office: { readonly lan: string; readonly lanHost: string };
  /** The clients' VPN addresses. */
  readonly addresses: Readonly<Record<'alice' | 'bob', readonly [string, string]>>;
}

const partnerLan = '192.168.60';

export async function stockOpenvpn(here: Surroundings): Promise<void> {
  const { agent, pod, office } = here;
  const { hosts } = agent.host;
  const builds = await buildsHere();
  if (builds === undefined) {
    say('(the steps with stock OpenVPN are left out: no openvpn here; `npm run demo -- --kernel uml` brings its own)');
    return;
  }
  const pki = new Pki('Demo CA');
  hosts.onCleanup(() => {
    pki.remove();
    return Promise.resolve();
  });
  const keys = await WrapKeys.create(hosts.folder);

  heading('node-a takes in OpenVPN clients: certificates, tls-crypt-v2, pushed routes, and a VpnPeer for each client');
  takeInClients(here, pki, keys);
  const report = await agent.until('the TCP listener', ({ networks }) => networks[0]?.listeners.length === 2);
  say(`listening on ${report.networks[0]?.listeners.join(', ') ?? ''}`);
  demand(report.networks[0]?.peers.filter(({ ready }) => ready === 'True').length === 2, 'a static tunnel suffered');

  heading(
    `stock OpenVPN connects: ${builds.laptop.version} on a laptop over UDP, ${builds.phone.version} on a phone over TCP`,
  );
  const laptop = await hosts.host('laptop');
  const phone = await hosts.host('phone');
  const client = dialling(here, pki, keys);
  // A real client is content with the hour that is the default.
  const often = 'reneg-sec 8';
  say(`the laptop's file, besides its certificate and keys:`);
  say(`  ${[...settingsOf(here, 'UDP'), often].join('\n  ')}`);
  const alice = client(laptop, 'alice', builds.laptop.build, 'UDP', often);
  const bob = client(phone, 'bob', builds.phone.build, 'TCP');
  await Promise.all([alice.connected(), bob.connected()]);
  for (const [name, process] of [
    ['alice', alice],
    ['bob', bob],
  ] as const) {
    const { cipher, tlsVersion, endpoint } = await untilConnected(agent, name);
    const data = (await process.offloads()) ? 'data in the kernel there too' : 'data in userspace there';
    const got = (await process.addresses()).join(', ');
    say(`${name.padEnd(5)} at ${endpoint ?? '?'}: ${tlsVersion ?? '?'}, ${cipher ?? '?'}, got ${got}; ${data}`);
  }
  const onLaptop = { netns: `/run/netns/${laptop.namespace}` };
  await reach(onLaptop, podAddress(pod, 4), 'laptop to pod-a');
  await reach(onLaptop, podAddress(pod, 6), 'laptop to pod-a');
  await reach(pod, here.addresses.alice[0], 'pod-a to the laptop');
  await reach({ netns: `/run/netns/${phone.namespace}` }, here.addresses.alice[0], 'phone to the laptop');
  await reach(onLaptop, office.lanHost, 'laptop to the LAN behind the office');
  say(`node node-a\n${statusText(await agent.report(), false)}`);

  heading('the laptop renegotiates: a new handshake, a new data key, make before break');
  const kernel = new KernelView(agent);
  const { id = 0 } = kernel.peerAt(here.addresses.alice[0]) ?? {};
  const rekey = await whilePinging(pod.netns, here.addresses.alice[0], async () => {
    const seen = [kernel.slots(id)];
    const sending = seen[0]?.split('/')[0];
    const switched = (): true | undefined => {
      const slots = kernel.slots(id);
      if (slots !== seen.at(-1)) seen.push(slots);
      return slots.split('/')[0] !== sending || undefined;
    };
    await eventually('the other key sends', switched, { timeoutMs: 120_000 });
    say(`its key ids in the kernel, sending/receiving only: ${seen.join(', then ')}`);
  });
  say(`ping every 10 ms meanwhile: ${rekey.sent} sent, ${rekey.lost} lost`);
  demand(rekey.lost === 0, `packets were lost in the renegotiation: ${rekey.missing.join(' ')}`);

  heading('a client whose certificate no VpnPeer names is refused, and told so');
  const stranger = client(await hosts.host('stranger'), 'mallory', builds.laptop.build, 'UDP');
  await stranger.until(/AUTH_FAILED/);
  say(`its log:  ${/AUTH: Received .*/.exec(stranger.log)?.[0] ?? ''}`);
  const refusal = await eventually('our log', () => agent.said('session.refused').at(-1));
  say(`our log:  ${String(refusal['event'])}: ${String(refusal['remote'])}: ${String(refusal['reason'])}`);
  await stranger.end();

  heading('the laptop leaves, and is gone from the kernel at once');
  await alice.end();
  await eventually('the peer is gone', () => kernel.peerAt(here.addresses.alice[0]) === undefined || undefined);
  const left = await untilStatus(agent, 'alice', 'gone', ({ conditions = [] }) =>
    conditions.some(({ type, reason }) => type === 'Connected' && reason === 'Disconnected'),
  );
  const { reason, message } = left.conditions?.find(({ type }) => type === 'Connected') ?? {};
  say(`VpnPeer alice: ${reason ?? ''}: ${message ?? ''}`);

  heading('node-a dials a stock OpenVPN server with a LAN behind it');
  await dialPartner(here, pki, keys);
}

/** The network's part: its Secrets, its new fields, and two VpnPeers. */
function takeInClients({ agent, networkWith, port, office, addresses }: Surroundings, pki: Pki, keys: WrapKeys): void {
  const spec = {
    listeners: [
      { name: 'udp', protocol: 'UDP', port },
      { name: 'tcp', protocol: 'TCP', port },
    ],
    pki: { secretRef: { name: 'corp-server' } },
    controlChannel: controlChannel('tls-crypt-v2', 'corp-wrap', 'server'),
    push: { routes: [office.lan] },
  };
  const server = { certificate: pki.server('vpn.example.com'), ca: pki.ca, namespace: systemNamespace };
  agent.apply('11-secret-corp-server.yaml', tlsSecret('corp-server', server));
  agent.apply(
    '11-secret-corp-wrap.yaml',
    wrapSecret('corp-wrap', keys.of('tls-crypt-v2', 'server') ?? '', systemNamespace),
  );
  agent.apply('10-network.yaml', networkWith(spec));
  for (const name of ['alice', 'bob'] as const)
    agent.apply(`31-peer-${name}.yaml`, dialInPeer({ name, addresses: addresses[name] }));
  say('VpnNetwork corp, new in spec:');
  say(stringify(spec).replaceAll(/^/gm, '  '));
  say(dialInPeer({ name: 'alice', addresses: addresses.alice }));
}

/** What a client writes besides its credentials. */
const settingsOf = ({ agent, port }: Surroundings, transport: Transport): string[] =>
  clientConfig({ transport, family: 4, remotes: [{ address: agent.host.ipv4, port }] });

/** Starts stock clients, each with a certificate of its own. */
function dialling(here: Surroundings, pki: Pki, keys: WrapKeys) {
  const wrapping = keys.openvpn('tls-crypt-v2', 'client');
  return (host: Host, name: string, build: OpenvpnBuild, transport: Transport, ...config: string[]): OpenvpnProcess =>
    OpenvpnProcess.start(host, {
      build,
      config: [...settingsOf(here, transport), ...config],
      inline: { ...credentials(pki.ca, pki.client(name)), ...wrapping.inline },
    });
}

interface Installed {
  readonly build: OpenvpnBuild;
  readonly version: string;
}

/** The lab's guests have two versions of OpenVPN; a host's own kernel comes with the host's, if any. */
async function buildsHere(): Promise<{ laptop: Installed; phone: Installed } | undefined> {
  const look = async (build: OpenvpnBuild): Promise<Installed | undefined> => {
    const { stdout } = await attempt('env', [build.program, '--version']);
    const version = /^OpenVPN (\d+\.\d+\S*)/.exec(stdout)?.[1];
    return version === undefined ? undefined : { build, version };
  };
  const laptop = await look(openvpn27);
  return laptop && { laptop, phone: (await look(openvpn26)) ?? laptop };
}

/** A stock server that lets us in as `gateway`, with our pods behind us, and a LAN behind itself. */
async function dialPartner({ agent, pod, port }: Surroundings, pki: Pki, keys: WrapKeys): Promise<void> {
  const { hosts } = agent.host;
  const host = await hosts.host('partner');
  const lan = await makeLan(host, 'demo-far', partnerLan);
  const ccd = join(hosts.folder, 'ccd');
  mkdirSync(ccd);
  writeFileSync(join(ccd, 'gateway'), 'iroute 10.81.1.0 255.255.255.0\n');
  const behindUs = [`client-config-dir ${ccd}`, 'route 10.81.1.0 255.255.255.0'];
  const wrapping = keys.openvpn('tls-crypt', 'server');
  const server = OpenvpnProcess.start(host, {
    build: openvpn27,
    config: [...serverConfig({ transport: 'UDP', family: 4, port }), ...behindUs],
    inline: { ...credentials(pki.ca, pki.server('vpn.partner.example')), ...wrapping.inline },
  });
  await server.connected();

  const manifest = dialOutPeer({
    name: 'partner',
    endpoints: [{ address: host.ipv4, port, protocol: 'UDP' }],
    routes: [`${partnerLan}.0/24`],
    spec: {
      serverIdentity: { commonName: 'vpn.partner.example' },
      controlChannel: controlChannel('tls-crypt', 'partner-wrap', 'client'),
    },
  });
  agent.apply('21-secret-partner.yaml', tlsSecret('partner', { certificate: pki.client('gateway'), ca: pki.ca }));
  agent.apply('21-secret-partner-wrap.yaml', wrapSecret('partner-wrap', keys.of('tls-crypt', 'client') ?? ''));
  agent.apply('21-key-partner.yaml', tlsKey('partner'));
  agent.apply('32-peer-partner.yaml', manifest);
  say(manifest);
  const { cipher, tlsVersion, addresses = [] } = await untilConnected(agent, 'partner');
  say(`connected: ${tlsVersion ?? '?'}, ${cipher ?? '?'}, the server gave us ${addresses.join(', ')}`);
  await reach(pod, `${partnerLan}.10`, "pod-a to the partner's LAN");
  await reach({ netns: lan }, podAddress(pod, 4), "the partner's LAN to pod-a");
  say(`node node-a\n${statusText(await agent.report(), true)}`);
}
