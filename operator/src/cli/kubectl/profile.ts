import { Command } from 'commander';
import { findCondition } from '../../api/conditions.ts';
import { secretEntries } from '../../api/issued.ts';
import { peerKind } from '../../api/peer-kind.ts';
import { formatRef, refOf, type VpnKey, type VpnPeer } from '../../api/types.ts';
import { asRecord } from '../../cluster/json.ts';
import { OvpnError } from '../../errors.ts';
import { type Cluster, connect, connectionOptions } from './connection.ts';
import { qrCode } from './qr-code.ts';
import { getRaw, list, notFound, seen, type Seen } from './read.ts';

/** `kubectl ovpn profile`: the file for a client that dials in. */
export function profileCommand(): Command {
  return new Command('profile')
    .description("Print the .ovpn file of a VpnPeer's client. It holds a private key.")
    .argument('<name>', 'the VpnPeer')
    .option('--qr', 'as a QR code for the terminal')
    .action(async (name: string, { qr }: { readonly qr?: true }, command: Command) => {
      const cluster = await connect(connectionOptions(command));
      const profile = await readProfile(cluster, name);
      process.stdout.write(qr === true ? qrCode(profile, process.stdout) : profile);
    });
}

type Reading = Pick<Cluster, 'client' | 'timeoutMs' | 'namespace'>;

/**
 * The profile that the controller made for the client of a VpnPeer.
 *
 * @throws OvpnError ObjectNotFound, ProfileMissing with the reason, AccessDenied, ApiUnavailable
 */
export async function readProfile(cluster: Reading, name: string): Promise<string> {
  const { namespace } = cluster;
  const found = await getRaw(cluster, 'VpnPeer', { namespace, name });
  if (found === undefined) {
    const all = await list(cluster, 'VpnPeer', namespace);
    throw notFound(
      { kind: 'VpnPeer', namespace, name },
      all.map(({ ref }) => ref.name),
    );
  }
  const peer = understood(seen('VpnPeer', found));
  const keyName = keyOf(peer);
  const object = formatRef({ kind: 'VpnKey', namespace, name: keyName });
  const rawKey = await getRaw(cluster, 'VpnKey', { namespace, name: keyName });
  if (rawKey === undefined) throw missing(peer, `there is no ${object}`, 'create it, with spec.issued');
  const secretName = secretOf(peer, understood(seen('VpnKey', rawKey)));
  const secret = asRecord(await getRaw(cluster, 'Secret', { namespace, name: secretName }));
  const entry = asRecord(secret?.['data'])?.[secretEntries.profile];
  if (typeof entry === 'string' && entry !== '') return Buffer.from(entry, 'base64').toString('utf8');
  if (secret === undefined) {
    throw missing(peer, `there is no Secret ${namespace}/${secretName}`, 'wait a moment: the controller makes it anew');
  }
  throw missing(
    peer,
    `Secret ${namespace}/${secretName} holds no profile, because the network's listeners name no endpoints`,
    `say in spec.listeners[].endpoints of VpnNetwork ${peer.spec.networkRef.name} where clients find it`,
  );
}

function understood<T extends 'VpnPeer' | 'VpnKey'>({
  ref,
  resource,
  problem,
}: Seen<T>): NonNullable<Seen<T>['resource']> {
  if (resource !== undefined) return resource;
  const remedy = 'use the kubectl-ovpn of the version that the cluster has';
  throw new OvpnError('InvalidField', problem ?? 'is not understood', { object: formatRef(ref) }, { remedy });
}

function keyOf(peer: VpnPeer): string {
  const { identity } = peer.spec;
  if (identity?.key !== undefined) return identity.key;
  if (peerKind(peer) !== 'dial-in') {
    throw missing(peer, 'no client dials in by it', 'name a VpnPeer with spec.identity.key');
  }
  throw missing(
    peer,
    'its certificate comes from elsewhere, and so does its private key, which nobody here knows',
    "write the client's file by docs/guide.md, or let the network issue the certificate: spec.identity.key",
  );
}

function secretOf(peer: VpnPeer, key: VpnKey): string {
  const name = formatRef(refOf(key));
  if (key.spec.issued === undefined) {
    throw missing(peer, `${name} is not one of spec.issued`, 'name such a VpnKey in spec.identity.key');
  }
  const { secretName, conditions } = key.status ?? {};
  if (secretName !== undefined) return secretName;
  const why = findCondition(conditions, 'Ready')?.message ?? 'the controller has not said anything of it yet';
  throw missing(peer, `${name} has no Secret: ${why}`, 'see `kubectl ovpn status`');
}

function missing(peer: VpnPeer, problem: string, remedy: string): OvpnError {
  return new OvpnError('ProfileMissing', problem, { object: formatRef(refOf(peer)) }, { remedy });
}
