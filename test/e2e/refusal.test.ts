import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openvpn26, openvpn27, type OpenvpnProcess, WrapKeys } from '../support/openvpn.ts';
import { agentTail, connection, peerStatus, untilStatus } from '../support/peer-status.ts';
import { Pki } from '../support/pki.ts';
import { eventually } from '../support/run.ts';
import { type ClientSettings, netnsOf, nodeVpn, reaches, Scene, type VpnAddresses } from './scene.ts';

/** Clients that must not get in, and learn why as far as they may know. One that may is connected all the time. */
let scene: Scene;
let good: { readonly client: OpenvpnProcess; readonly vpn: VpnAddresses };
let other: { readonly pki: Pki; readonly keys: WrapKeys };
const strictPort = 1195;

interface Refusal {
  /** The name in the certificate; there is a VpnPeer for it unless it is `stranger`. */
  readonly name: string;
  readonly settings: () => ClientSettings;
  /** What the client's log says. */
  readonly told: RegExp;
  /** What our log says, undefined when there is nothing that could be known. */
  readonly known: RegExp | undefined;
  /** Whether the name is known, so that our log and the status of the VpnPeer name it. */
  readonly named?: boolean;
}

const noAnswer = /TLS key negotiation failed to occur within|TLS Error: TLS handshake failed/;
const authFailed = (why: string): RegExp => new RegExp(`AUTH_FAILED,.*${why}`);

const refusals: Readonly<Record<string, Refusal>> = {
  'a revoked certificate': {
    name: 'revoked',
    settings: () => ({}),
    told: authFailed('certificate is revoked'),
    known: /certificate is revoked/,
  },
  'a certificate of another CA': {
    name: 'foreign',
    settings: () => ({ certificate: other.pki.client('foreign') }),
    told: authFailed('CA of the certificate'),
    known: /CA of the certificate|whose CA is unknown/,
  },
  'an expired certificate': {
    name: 'expired',
    settings: () => ({ certificate: scene.pki.client('expired', { expired: true }) }),
    told: authFailed('certificate has expired'),
    known: /certificate has expired/,
  },
  'a certificate that is not valid yet': {
    name: 'early',
    settings: () => ({ certificate: scene.pki.client('early', { notYetValid: true }), build: openvpn27 }),
    told: authFailed('not valid yet; check the clocks'),
    known: /not valid yet; check the clocks/,
  },
  'a certificate for servers': {
    name: 'waiter',
    settings: () => ({ certificate: scene.pki.client('waiter', { usage: 'serverAuth' }) }),
    told: authFailed('extended key usage'),
    known: /extended key usage/,
  },
  'an identity that no VpnPeer has': {
    name: 'stranger',
    settings: () => ({}),
    told: authFailed('stranger'),
    known: /stranger/,
  },
  'the same over TCP, with 2.7.8': {
    name: 'stranger',
    settings: () => ({ transport: 'TCP', build: openvpn27 }),
    told: authFailed('stranger'),
    known: /stranger/,
  },
  'a suspended VpnPeer': {
    name: 'suspended',
    settings: () => ({}),
    told: /AUTH_FAILED,/,
    known: /suspended/,
  },
  'no cipher that we have': {
    name: 'cbc',
    settings: () => ({ config: ['data-ciphers AES-256-CBC', 'data-ciphers-fallback AES-256-CBC'] }),
    told: authFailed('cipher'),
    known: /cipher/,
    named: true,
  },
  'a version of TLS that is too old': {
    name: 'old',
    settings: () => ({
      remotes: [{ address: scene.node.ipv4, port: strictPort }],
      config: ['tls-version-max 1.2'],
    }),
    told: /alert protocol version/i,
    known: /protocol|version/i,
  },
  'the wrong tls-crypt key': {
    name: 'guest',
    settings: () => ({ keys: other.keys }),
    told: noAnswer,
    known: undefined,
  },
  'tls-auth instead of tls-crypt': {
    name: 'guest',
    settings: () => ({ wrap: 'tls-auth', build: openvpn27 }),
    told: noAnswer,
    known: undefined,
  },
  'no wrapping instead of tls-crypt': {
    name: 'guest',
    settings: () => ({ wrap: 'none' }),
    told: noAnswer,
    known: undefined,
  },
  'the wrong tls-crypt key over TCP': {
    name: 'guest',
    settings: () => ({ keys: other.keys, transport: 'TCP' }),
    told: /Connection reset|TLS key negotiation failed/,
    known: undefined,
  },
};

let started: Map<string, OpenvpnProcess>;
beforeAll(async () => {
  const settings = { wrap: 'tls-crypt' } as const;
  scene = await Scene.open('refuse', { ...settings, network: false });
  scene.pki.client('revoked');
  const crl = scene.pki.revoke('revoked');
  scene.applyNetwork({ crl });
  scene.applyNetwork({
    ...{ name: 'strict', port: strictPort, crl },
    spec: { pki: { secretRef: { name: 'strict-server' }, minTLSVersion: '1.3' } },
  });
  other = { pki: new Pki('Another CA'), keys: await WrapKeys.create(scene.hosts.folder) };
  scene.hosts.onCleanup(() => {
    other.pki.remove();
    return Promise.resolve();
  });
  const vpn = scene.admit('good');
  for (const { name } of Object.values(refusals)) {
    if (name === 'stranger') continue;
    const spec = name === 'suspended' ? { spec: { suspend: true } } : {};
    scene.admit(name, { ...spec, networkName: name === 'old' ? 'strict' : 'corp' });
  }
  await Promise.all([scene.listening(), scene.listening('strict')]);
  good = { client: await scene.connectedClient('good'), vpn };
  started = new Map();
  let number = 0;
  for (const [title, { name, settings }] of Object.entries(refusals)) {
    const { config = [], ...rest } = settings();
    const host = await scene.hosts.host(`bad${number++}`);
    // One try: it ends when it was refused.
    const once = ['connect-retry-max 1', 'hand-window 8', 'tls-exit', ...config];
    started.set(title, await scene.client(name, { build: openvpn26, host, ...rest, config: once }));
  }
});
afterAll(async () => {
  await scene.close();
});

describe('a client does not get in with', () => {
  test.each(Object.keys(refusals))('%s', async (title) => {
    const { name, told, known, named } = refusals[title]!;
    const client = started.get(title)!;
    await client.until(told);
    expect(client.log).not.toContain('Initialization Sequence Completed');
    if (known !== undefined) {
      const heard = (): true | undefined =>
        scene.agent
          .said('session.refused')
          .some(
            (entry) =>
              String(entry['remote']).startsWith(`${client.host.ipv4}:`) && known.test(String(entry['reason'])),
          ) || undefined;
      await eventually('our log says why', heard).catch((error: unknown) => {
        throw new Error(`${String(error)}\n${agentTail(scene.agent)}`, { cause: error });
      });
    }
    if (named === true) {
      const status = await untilStatus(
        scene.agent,
        name,
        'why',
        ({ lastError = '' }) => known?.test(lastError) === true,
      );
      expect(connection(status)).toMatch(/^False/);
    }
    await client.end('SIGKILL');
  });

  test('and nobody of these was in the kernel', () => {
    expect(scene.kernel.peers().map(({ vpnIpv4 }) => vpnIpv4)).toEqual([good.vpn.ipv4]);
    expect(scene.kernelOf('strict').peers()).toEqual([]);
    for (const { name } of Object.values(refusals))
      expect(connection(peerStatus(scene.agent, name))).not.toBe('True/Connected');
  });

  test('while the good one goes on', async () => {
    await reaches(netnsOf(good.client.host), [nodeVpn.ipv4, nodeVpn.ipv6]);
    expect(good.client.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
  });
});
