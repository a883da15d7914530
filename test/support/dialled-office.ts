import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Host } from './hosts.ts';
import { credentials, openvpn26, OpenvpnProcess, serverConfig } from './openvpn.ts';
import type { Pki } from './pki.ts';
import { run } from './run.ts';

/** A stock OpenVPN server that a cluster dials by one of its nodes; the cluster's pods are 10.81.0.0/16. */

const apiVersion = 'ovpn-operator.io/v1alpha1';
/** Behind the server. */
export const behindOffice = '192.168.50.1';

/**
 * Prepares a server, with a LAN of one address behind it; it knows the pods by the certificate of `officeManifests`.
 *
 * @returns starts it, as often as it is wanted
 */
export async function officeServer(office: Host, pki: Pki): Promise<() => OpenvpnProcess> {
  await run('ip', '-n', office.namespace, 'addr', 'add', `${behindOffice}/32`, 'dev', 'lo');
  const folder = join(office.hosts.folder, 'clients');
  mkdirSync(folder);
  writeFileSync(join(folder, 'cluster'), 'iroute 10.81.0.0 255.255.0.0\n');
  const inline = credentials(pki.ca, pki.server('office'));
  const config = serverConfig({
    ...{ transport: 'UDP', family: 4, port: 1194 },
    config: [`client-config-dir ${folder}`, 'route 10.81.0.0 255.255.0.0'],
  });
  return () => OpenvpnProcess.start(office, { build: openvpn26, config, inline });
}

/** The VpnPeer `office` of the network `corp`, with its key. */
export function officeManifests(namespace: string, office: Host, pki: Pki): object[] {
  const { cert, key } = pki.client('cluster');
  const metadata = { namespace, name: 'office' };
  return [
    {
      ...{ apiVersion: 'v1', kind: 'Secret', metadata },
      stringData: { 'tls.crt': cert, 'tls.key': key, 'ca.crt': pki.ca },
    },
    { apiVersion, kind: 'VpnKey', metadata, spec: { tls: { secretRef: { name: 'office' } } } },
    {
      ...{ apiVersion, kind: 'VpnPeer', metadata },
      spec: {
        networkRef: { name: 'corp' },
        endpoint: { address: office.ipv4, port: 1194 },
        keyRef: { name: 'office' },
        routes: ['192.168.50.0/24'],
      },
    },
  ];
}
