import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { openvpn26, openvpn27, openvpn27Userspace, type OpenvpnProcess, WrapKeys } from '../support/openvpn.ts';
import { connection, untilConnected, untilStatus } from '../support/peer-status.ts';
import { Pki } from '../support/pki.ts';
import type { RemoteEndpoint } from '../support/session-manifests.ts';
import { type DialSettings, Scene, type ServerSettings } from './scene.ts';

/** Servers that we must not or cannot connect to; the status of the VpnPeer says why. */
let scene: Scene;
let other: { readonly pki: Pki; readonly keys: WrapKeys };

interface Refusal {
  /** Undefined: no server runs there. */
  readonly server: (() => ServerSettings) | undefined;
  readonly dial?: () => Partial<DialSettings>;
  readonly endpoint?: Partial<RemoteEndpoint>;
  /** status.lastError. */
  readonly why: RegExp;
  /** What the server's log says. */
  readonly told?: RegExp;
}

const refusals: Readonly<Record<string, Refusal>> = {
  'a server of another CA': {
    server: () => ({ certificate: other.pki.server() }),
    why: /certificate was refused: .*CA/,
  },
  'a server whose certificate has expired': {
    server: () => ({ certificate: scene.pki.server('past', { expired: true }) }),
    why: /certificate was refused: .*expired/,
  },
  'a server whose certificate is not valid yet': {
    server: () => ({ certificate: scene.pki.server('future', { notYetValid: true }) }),
    why: /certificate was refused: .*not valid yet; check the clocks/,
  },
  'a server with a certificate for clients': {
    server: () => ({ certificate: scene.pki.client('impostor') }),
    why: /certificate was refused: .*(extended key usage|serverAuth)/,
  },
  'a server with another name than serverIdentity': {
    server: () => ({ build: openvpn27 }),
    dial: () => ({ spec: { serverIdentity: { commonName: 'head-office' } } }),
    why: /head-office/,
  },
  'a server with another fingerprint than serverIdentity': {
    server: () => ({}),
    dial: () => ({ spec: { serverIdentity: { fingerprint: 'ab'.repeat(32) } } }),
    why: /fingerprint/,
  },
  'a server that refuses us': {
    server: () => ({ config: ['ccd-exclusive', `client-config-dir ${scene.hosts.folder}/none`] }),
    why: /refused|AUTH_FAILED/,
    told: /'AUTH_FAILED/,
  },
  'a server that does not trust our CA': {
    server: () => ({ ca: other.pki.ca, build: openvpn27 }),
    why: /TLS failed: .*alert|certificate/i,
    told: /VERIFY ERROR/,
  },
  'a server without a cipher that we have': {
    server: () => ({
      config: ['data-ciphers AES-256-CBC', 'data-ciphers-fallback AES-256-CBC'],
      build: openvpn27Userspace,
    }),
    why: /cipher/i,
    told: /'AUTH_FAILED,.*cipher/,
  },
  'a server with another tls-crypt key': {
    server: () => ({}),
    dial: () => ({ keys: other.keys }),
    why: /no answer .*tls-crypt/,
    told: /tls-crypt unwrap error|TLS Error/,
  },
  'a host where nobody listens, UDP': {
    server: undefined,
    why: /no answer|refused/,
  },
  'a host where nobody listens, TCP': {
    server: undefined,
    endpoint: { protocol: 'TCP' },
    why: /refused/,
  },
  'a name that does not resolve': {
    server: undefined,
    endpoint: { address: 'vpn.partner.invalid' },
    why: /vpn\.partner\.invalid/,
  },
};

const servers = new Map<string, OpenvpnProcess>();
const nameOf = (title: string): string => `bad${Object.keys(refusals).indexOf(title)}`;
beforeAll(async () => {
  scene = await Scene.open('dialre');
  other = { pki: new Pki('Another CA'), keys: await WrapKeys.create(scene.hosts.folder) };
  scene.hosts.onCleanup(() => {
    other.pki.remove();
    return Promise.resolve();
  });
  mkdirSync(join(scene.hosts.folder, 'none'));
  for (const [title, { server, dial, endpoint }] of Object.entries(refusals)) {
    const name = nameOf(title);
    const host = await scene.hosts.host(name);
    if (server !== undefined) servers.set(title, await scene.server(host, { build: openvpn26, ...server() }));
    const at = { address: host.ipv4, port: 1194, protocol: 'UDP', ...endpoint } as const;
    scene.dial(name, { endpoints: [at], ...dial?.() });
  }
});
afterAll(async () => {
  await scene.close();
});

describe('we do not connect to', () => {
  test.each(Object.keys(refusals))('%s', async (title) => {
    const { why, told } = refusals[title]!;
    const seen = ({ lastError = '' }: { lastError?: string | undefined }): boolean => why.test(lastError);
    // Without an answer the handshake takes its time.
    const status = await untilStatus(scene.agent, nameOf(title), `lastError ${String(why)}`, seen, 180_000);
    expect(connection(status)).toMatch(/^False\/(Connecting|Disconnected)$/);
    const server = servers.get(title);
    if (told !== undefined) await server?.until(told);
    expect(server?.log ?? '').not.toContain('Data Channel: cipher');
  });

  test('and none of these has a tunnel in the kernel', async () => {
    for (const { peer } of await scene.kernel.dialled()) expect(peer).toBeUndefined();
  });

  test('until the reason is gone', async () => {
    const name = nameOf('a server with another name than serverIdentity');
    const { host } = servers.get('a server with another name than serverIdentity')!;
    scene.dial(name, {
      endpoints: [{ address: host.ipv4, port: 1194, protocol: 'UDP' }],
      spec: { serverIdentity: { commonName: 'server' } },
    });
    const status = await untilConnected(scene.agent, name);
    expect(status.addresses?.length).toBe(2);
  });
});
