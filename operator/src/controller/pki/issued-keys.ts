import {
  conditionTypes,
  findCondition,
  setCondition,
  timestampOf,
  type ConditionReason,
} from '../../api/conditions.ts';
import {
  hasIssuedWrapKey,
  issuedCommonName,
  issuedServerSecret,
  maxCommonName,
  networkWrap,
  secretEntries,
} from '../../api/issued.ts';
import { apiVersion, type VpnKey, type VpnKeyStatus, type VpnNetwork } from '../../api/types.ts';
import { type Index, keyOf, metaOf, splitKey, type Tracked } from '../../cluster/informer.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { unwrapClientKey } from '../../openvpn/wrap/client-key.ts';
import { parseClientKey, parseServerKey } from '../../openvpn/wrap/key-file.ts';
import { admits, onAdmissionChange } from '../admission.ts';
import { liveSecret } from '../live-secret.ts';
import { type ProfileWrap, type Remote, renderProfile } from '../profile/profile.ts';
import { newClientWrapKey } from '../profile/wrap-keys.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from '../reconciler.ts';
import {
  type Authority,
  authorityOf,
  CaUnusable,
  dayMs,
  isIssuing,
  lifetimesOf,
  onSecretOfNetwork,
} from './authority.ts';
import { renewAt } from './ca-plan.ts';
import { factsOf, isPair, isSignedBy, issue, type KeyPair } from './certificates.ts';
import { longestWaitMs } from './network-pki.ts';
import { type Owner, ownerOf, sameText, putSecret, textOf } from './secret-store.ts';

const fieldManager = 'ovpn-controller/issued-keys';
/** How often it is looked whether a Secret that is in the way is still there; nobody tells of Secrets of users. */
const conflictMs = 60_000;
/** As many as the schema of status.certificates takes. */
const mostCertificates = 8;

/** Why nothing is issued: a state to show, not a failure to try again. */
class NotIssued extends Error {
  readonly reason: ConditionReason;

  constructor(reason: ConditionReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

interface Request {
  readonly tracked: Tracked<VpnKey>;
  readonly key: VpnKey;
  readonly issued: NonNullable<VpnKey['spec']['issued']>;
  readonly owner: Owner;
}

/** What a network gives to its clients. */
interface Issuer {
  readonly network: VpnNetwork;
  readonly trusted: Authority['trusted'];
  readonly signs: KeyPair;
}

/** The Secret of a client as it is. */
interface Present {
  readonly text: Readonly<Record<string, string>>;
  readonly resourceVersion: string | undefined;
}

/**
 * Certificates for clients: of each VpnKey `issued` a Secret beside it with certificate, private key, CA, the client's
 * own tls-crypt-v2 key, and the profile made of these. A certificate is renewed after two thirds of its life; the old
 * one stays good until it expires. status.certificates says which are good, and agents take no other: a deleted or
 * revoked VpnKey has none.
 *
 * The certificate is in the Secret before it is in the status, so after a crash in between it is only reported later.
 * Secrets of users are read by name (see MaterialCopies). Keys are those of VpnKeys: `namespace/name`.
 */
export class IssuedKeys implements Reconciler {
  readonly name = 'issued-keys';
  readonly #context: ReconcilerContext;
  readonly #byNetwork: Index<VpnKey>;
  readonly #networksByWrapSecret: Index<VpnNetwork>;

  constructor(context: ReconcilerContext) {
    this.#context = context;
    const { keys, networks } = context.caches;
    this.#byNetwork = keys.index(({ value }) => {
      const network = value?.spec.issued?.networkRef.name;
      return network === undefined ? [] : [network];
    });
    this.#networksByWrapSecret = networks.index(({ value }) => {
      const name = value?.spec.controlChannel.secretRef?.name;
      return name === undefined ? [] : [name];
    });
  }

  watch(enqueue: Enqueue): void {
    const { keys, networks, secrets } = this.#context.caches;
    const allOf = (network: string): void => this.#byNetwork.get(network).forEach(({ key }) => enqueue(key));
    keys.onChange((now, before) => {
      if (now !== undefined && now.meta.generation !== before?.meta.generation) enqueue(now.key);
    });
    networks.onChange((now, before) => {
      if (now?.meta.generation !== before?.meta.generation) allOf(now?.key ?? before?.key ?? '');
    });
    onSecretOfNetwork(this.#context, allOf);
    secrets.onChange((now, before) => {
      const name = (now ?? before)?.meta.name ?? '';
      for (const { key } of this.#networksByWrapSecret.get(name)) allOf(key);
    });
    onAdmissionChange(this.#context.caches, (network, namespace) => {
      for (const { key, meta } of this.#byNetwork.get(network)) if (meta.namespace === namespace) enqueue(key);
    });
  }

  async reconcile(key: string): Promise<number | undefined> {
    const tracked = this.#context.caches.keys.get(key);
    const issued = tracked?.value?.spec.issued;
    if (tracked?.value === undefined || issued === undefined || tracked.meta.deletionTimestamp !== undefined)
      return undefined;
    const { name, uid } = tracked.meta;
    const request = { tracked, key: tracked.value, issued, owner: { apiVersion, kind: 'VpnKey' as const, name, uid } };
    try {
      return await this.#issue(request);
    } catch (error) {
      if (!(error instanceof NotIssued)) throw error;
      await this.#status(request, { reason: error.reason, message: error.message });
      return error.reason === 'Conflict' ? conflictMs : undefined;
    }
  }

  async #issue(request: Request): Promise<number | undefined> {
    const { clock } = this.#context;
    const issuer = this.#issuer(request);
    const present = await this.#read(request);
    const pair = await this.#certificate(request, issuer, present.text);
    const wrap = this.#wrap(issuer.network, present.text);
    const ca = issuer.trusted.map(({ cert }) => cert).join('');
    const { metadata, spec } = issuer.network;
    const [first, ...others] = remotesOf(issuer.network);
    const profile =
      first === undefined
        ? undefined
        : renderProfile({
            remotes: [first, ...others],
            ca,
            identity: { certificate: pair.cert, key: pair.key },
            serverName: metadata.name,
            wrap,
            dataCiphers: spec.dataCiphers,
            minTLSVersion: spec.pki?.minTLSVersion ?? '1.2',
          });
    await this.#write(request, present, {
      [secretEntries.certificate]: pair.cert,
      [secretEntries.privateKey]: pair.key,
      [secretEntries.ca]: ca,
      ...(wrap.kind === 'TLSCryptV2' ? { [secretEntries.clientWrapKey]: wrap.key } : {}),
      ...(profile === undefined ? {} : { [secretEntries.profile]: profile }),
    });
    const without = `; it holds no profile, because spec.listeners of VpnNetwork ${metadata.name} name no endpoints`;
    await this.#status(
      request,
      {
        reason: 'Ready',
        message: `the client's Secret is ${secretNameOf(request)}${profile === undefined ? without : ''}`,
      },
      pair.cert,
    );
    const facts = factsOf(pair.cert);
    const due = facts === undefined ? 0 : renewAt(facts) - clock.now();
    return Math.min(longestWaitMs, Math.max(1000, due));
  }

  /** @throws NotIssued */
  #issuer({ key, issued }: Request): Issuer {
    const { caches, clock } = this.#context;
    const { name } = issued.networkRef;
    const tracked = caches.networks.get(name);
    const network = tracked?.value;
    if (tracked === undefined || network === undefined) {
      throw new NotIssued('NetworkNotFound', `there is no VpnNetwork ${name}`);
    }
    if (!isIssuing(network)) {
      throw new NotIssued('Invalid', `VpnNetwork ${name} issues no certificates; give it spec.pki.builtIn`);
    }
    if (!admits(caches, network, key.metadata.namespace)) {
      const remedy = 'have its owner add the namespace to spec.allowedPeers.namespaces';
      throw new NotIssued('NotAllowed', `VpnNetwork ${name} issues nothing to this namespace; ${remedy}`);
    }
    if (issuedCommonName(key.metadata).length > maxCommonName) {
      const long = `its name and that of its namespace have more than ${maxCommonName - 1} characters together`;
      throw new NotIssued('Invalid', `${long}, too many for a common name; choose a shorter name`);
    }
    if (issued.revoked) throw new NotIssued('Revoked', 'its certificates are refused (spec.issued.revoked)');
    try {
      const { trusted, signsClients } = authorityOf(this.#context, network, tracked.meta.uid, clock.now());
      if (signsClients === undefined) throw new NotIssued('Pending', `the CA of VpnNetwork ${name} is being made`);
      return { network, trusted, signs: signsClients };
    } catch (error) {
      if (!(error instanceof CaUnusable)) throw error;
      const message = `the CA of VpnNetwork ${name} cannot sign; see its condition PkiReady`;
      throw new NotIssued(error.reason === 'Conflict' ? 'Pending' : error.reason, message);
    }
  }

  /** @throws NotIssued when somebody else has a Secret of that name */
  async #read(request: Request): Promise<Present> {
    const path = secretPathOf(request);
    const found = await this.#context.writer.get(path);
    if (found === undefined) return { text: {}, resourceVersion: undefined };
    const { resourceVersion } = metaOf(found);
    const owner = ownerOf(found);
    if (owner?.kind !== 'VpnKey' || owner.name !== request.owner.name) {
      const whose = owner === undefined ? "somebody else's" : `that of ${owner.kind} ${owner.name}`;
      const remedy = 'rename it, or set spec.issued.secretName';
      throw new NotIssued('Conflict', `Secret ${secretNameOf(request)} is ${whose}; ${remedy}`);
    }
    // What an earlier VpnKey of that name had is nothing to go on with.
    if (owner.uid !== request.owner.uid) return { text: {}, resourceVersion };
    return { text: textOf(liveSecret(found, path)?.data), resourceVersion };
  }

  /** The present certificate as long as it is good, else a new one. */
  async #certificate(
    { key, issued }: Request,
    { network, trusted, signs }: Issuer,
    present: Readonly<Record<string, string>>,
  ): Promise<{ readonly cert: string; readonly key: string }> {
    const now = this.#context.clock.now();
    const { [secretEntries.certificate]: cert, [secretEntries.privateKey]: privateKey } = present;
    const facts = factsOf(cert ?? '');
    const commonName = issuedCommonName(key.metadata);
    if (
      cert !== undefined &&
      privateKey !== undefined &&
      facts?.commonName === commonName &&
      now < renewAt(facts) &&
      isSignedBy(cert, trusted) &&
      isPair(cert, privateKey)
    )
      return { cert, key: privateKey };
    // No longer than the network's: a new CA signs the server when all certificates of that lifetime were renewed.
    const { certificateMs } = lifetimesOf(network);
    const lifetimeMs = Math.min(certificateMs, (issued.certificateDays ?? Infinity) * dayMs);
    return issue(signs, { commonName, usage: 'clientAuth', now, lifetimeMs });
  }

  /** @throws NotIssued when the network's key is not there yet; OvpnError KeyMaterialInvalid */
  #wrap(network: VpnNetwork, present: Readonly<Record<string, string>>): ProfileWrap {
    const { controlChannel } = network.spec;
    const kind = networkWrap(network.spec);
    if (kind === 'None') return { kind };
    const { name, text } = this.#networkWrapKey(network);
    if (kind === 'TLSCrypt') return { kind, key: text };
    if (kind === 'TLSAuth') {
      const { keyDirection, digest } = controlChannel;
      const direction = keyDirection === undefined ? undefined : keyDirection === 'Normal' ? 'Inverse' : 'Normal';
      return { kind, key: text, digest, direction };
    }
    const where = { object: `Secret ${name}` };
    const serverKey = parseServerKey(text, where);
    const old = present[secretEntries.clientWrapKey];
    if (old !== undefined && this.#isGoodClientKey(old, serverKey, controlChannel.maxKeyAgeDays))
      return { kind, key: old };
    return { kind, key: newClientWrapKey(text, this.#context.clock.now(), where) };
  }

  #isGoodClientKey(text: string, serverKey: Buffer, maxAgeDays: number | undefined): boolean {
    try {
      const { wrapped } = parseClientKey(text, {});
      const { metadata } = unwrapClientKey(serverKey, wrapped);
      if (maxAgeDays === undefined) return true;
      const issuedAt = metadata?.kind === 'timestamp' ? metadata.seconds * 1000 : 0;
      return this.#context.clock.now() < renewAt({ notBefore: issuedAt, notAfter: issuedAt + maxAgeDays * dayMs });
    } catch {
      return false;
    }
  }

  #networkWrapKey(network: VpnNetwork): { readonly name: string; readonly text: string } {
    const { caches, namespace } = this.#context;
    const { secretRef } = network.spec.controlChannel;
    const issuedHere = hasIssuedWrapKey(network.spec);
    const name = issuedHere ? issuedServerSecret(network.metadata.name) : (secretRef?.name ?? '');
    const entry = issuedHere ? secretEntries.serverWrapKey : (secretRef?.key ?? '');
    const text = textOf(caches.secrets.get(keyOf({ namespace, name }))?.value?.data)[entry];
    if (text === undefined) {
      throw new NotIssued(
        issuedHere ? 'Pending' : 'SecretNotFound',
        `the network's key for ${networkWrap(network.spec)} is not there: Secret ${namespace}/${name}, entry ${entry}`,
      );
    }
    return { name: `${namespace}/${name}`, text };
  }

  async #write(request: Request, present: Present, data: Readonly<Record<string, string>>): Promise<void> {
    if (sameText(data, present.text)) return;
    const { writer, log } = this.#context;
    const { namespace } = request.key.metadata;
    const secret = { namespace, name: secretNameOf(request), owner: request.owner, material: false, data };
    await putSecret(writer, secret, present.resourceVersion);
    log.info({ event: 'key.issued', key: request.tracked.key }, "the client's Secret is up to date");
  }

  async #status(
    { tracked, key, issued }: Request,
    ready: { readonly reason: ConditionReason; readonly message: string },
    cert?: string,
  ): Promise<void> {
    const { caches, writer, clock, events } = this.#context;
    const { generation, uid } = tracked.meta;
    const before = key.status;
    const now = clock.now();
    const status = ready.reason === 'Ready' ? ('True' as const) : ('False' as const);
    const conditions = setCondition(
      before?.conditions ?? [],
      { type: conditionTypes.Ready, status, ...ready },
      generation,
      () => now,
    );
    const certificates = certificatesWith(before?.certificates ?? [], cert, now);
    const next: VpnKeyStatus = {
      ...(generation === undefined ? {} : { observedGeneration: generation }),
      conditions: [...conditions],
      ...(certificates.length === 0 ? {} : { certificates }),
      ...(issued.revoked || cert === undefined ? {} : { secretName: issued.secretName ?? key.metadata.name }),
    };
    if (JSON.stringify(next) === JSON.stringify(pickStatus(before))) return;
    const { namespace, name } = splitKey(tracked.key);
    const answer = await writer.applyStatus(
      apiPath('VpnKey', { name, ...(namespace === undefined ? {} : { namespace }) }),
      { apiVersion, kind: 'VpnKey', metadata: { namespace, name, uid }, status: next },
      fieldManager,
    );
    caches.keys.wrote(answer);
    const said = findCondition(before?.conditions, 'Ready');
    const renewed = certificates.length > 0 && certificates[0]?.fingerprint !== before?.certificates?.[0]?.fingerprint;
    if (said?.reason === ready.reason && !renewed) return;
    const pending = ready.reason === 'Pending';
    events.record(
      { apiVersion, kind: 'VpnKey', namespace: key.metadata.namespace, name, uid },
      {
        type: status === 'True' || pending ? 'Normal' : 'Warning',
        reason: status === 'True' ? 'Issued' : ready.reason,
        action: 'Issue',
        note: ready.message,
      },
    );
  }
}

type Issued = NonNullable<VpnKeyStatus['certificates']>[number];

/** The certificates that are good: the present one first, and those before it that have not expired. */
function certificatesWith(before: readonly Issued[], cert: string | undefined, now: number): Issued[] {
  const facts = cert === undefined ? undefined : factsOf(cert);
  const others = before.filter(
    ({ fingerprint, notAfter }) => fingerprint !== facts?.fingerprint && Date.parse(notAfter) > now,
  );
  if (facts === undefined) return others;
  const { fingerprint, serialNumber, notAfter } = facts;
  return [{ fingerprint, serialNumber, notAfter: timestampOf(notAfter) }, ...others].slice(0, mostCertificates);
}

/** What of a status is said here, in the order in which it is said. */
function pickStatus(status: VpnKeyStatus | undefined): VpnKeyStatus | undefined {
  if (status === undefined) return undefined;
  const { observedGeneration, conditions, certificates, secretName } = status;
  return {
    ...(observedGeneration === undefined ? {} : { observedGeneration }),
    conditions: conditions ?? [],
    ...(certificates === undefined
      ? {}
      : {
          certificates: certificates.map(({ fingerprint, serialNumber, notAfter }) => ({
            fingerprint,
            serialNumber,
            notAfter,
          })),
        }),
    ...(secretName === undefined ? {} : { secretName }),
  };
}

function remotesOf({ spec }: VpnNetwork): Remote[] {
  return spec.listeners.flatMap(({ endpoints, port, protocol }) =>
    endpoints.map((endpoint) => ({ address: endpoint.address, port: endpoint.port ?? port, protocol })),
  );
}

function secretNameOf({ key, issued }: Request): string {
  return issued.secretName ?? key.metadata.name;
}

function secretPathOf(request: Request): string {
  return apiPath('Secret', { namespace: request.key.metadata.namespace, name: secretNameOf(request) });
}
