import { findCondition, setCondition, timestampOf, type ConditionUpdate } from '../../api/conditions.ts';
import { hasIssuedWrapKey, issuedServerSecret, meshCommonName, secretEntries } from '../../api/issued.ts';
import { apiVersion, type VpnNetwork } from '../../api/types.ts';
import { isMesh } from '../../api/vpn-network.ts';
import { keyOf, metaOf, type Tracked } from '../../cluster/informer.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { newServerWrapKey } from '../profile/wrap-keys.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from '../reconciler.ts';
import {
  type Authority,
  authorityOf,
  CaUnusable,
  dayMs,
  isIssuing,
  isOf,
  type Issuing,
  lifetimesOf,
  onSecretOfNetwork,
  readOwn,
} from './authority.ts';
import { renewAt } from './ca-plan.ts';
import { type CertificateRequest, factsOf, isPair, isSignedBy, issue, type KeyPair, newCa } from './certificates.ts';
import { writeCas } from './network-ca.ts';
import { caNamespace, type Owner, ownerAnnotation, sameText, putSecret, textOf } from './secret-store.ts';

const fieldManager = 'ovpn-controller/network-pki';
const serverEntries = { cert: secretEntries.certificate, key: secretEntries.privateKey } as const;
/** Of the certificate by which the nodes of a mesh know each other. */
const nodeEntries = { cert: secretEntries.meshCertificate, key: secretEntries.meshKey } as const;
/** Timers hold no more than some weeks, and clocks are set: look at least so often. */
export const longestWaitMs = dayMs / 2;
/** When another controller did something that is not yet seen here. */
const lagMs = 1000;

/**
 * What a network with `spec.pki.builtIn` needs: its CA, in a namespace that agents cannot read, and for the agents a
 * Secret with the server's certificate, the CAs to trust, and the server's key for tls-crypt-v2.
 *
 * A name is taken by `create`, and a Secret replaced only at the version that was looked at: of two controllers one
 * makes the CA, and the other takes it up. Keys are names of networks.
 */
export class NetworkPki implements Reconciler {
  readonly name = 'network-pki';
  readonly #context: ReconcilerContext;

  constructor(context: ReconcilerContext) {
    this.#context = context;
  }

  watch(enqueue: Enqueue): void {
    this.#context.caches.networks.onChange((now, before) => {
      if (now !== undefined && now.meta.generation !== before?.meta.generation) enqueue(now.key);
    });
    onSecretOfNetwork(this.#context, enqueue);
  }

  async reconcile(key: string): Promise<number | undefined> {
    const tracked = this.#context.caches.networks.get(key);
    const network = tracked?.value;
    if (tracked === undefined || network === undefined) return undefined;
    if (tracked.meta.deletionTimestamp !== undefined) return undefined;
    if (!isIssuing(network)) {
      await this.#withdraw(tracked);
      return undefined;
    }
    try {
      return await this.#bringUp(tracked, network);
    } catch (error) {
      if (!(error instanceof CaUnusable)) throw error;
      if (await this.#lags(network)) return lagMs;
      await this.#status(tracked, { status: 'False', reason: error.reason, message: error.message });
      return undefined;
    }
  }

  async #bringUp(tracked: Tracked<VpnNetwork>, network: Issuing): Promise<number> {
    const { clock } = this.#context;
    const { uid } = tracked.meta;
    const owner: Owner = { apiVersion, kind: 'VpnNetwork', name: tracked.key, uid };
    const authority = (): Authority => authorityOf(this.#context, network, uid, clock.now());
    let now = authority();
    const wrapKey = await this.#own(network, owner, now.create);
    if (now.create) now = authority();
    const renewal = await this.#server(network, owner, now, wrapKey);
    await this.#status(tracked, { status: 'True', reason: 'Ready', message: '' }, now);
    return Math.min(longestWaitMs, Math.max(1000, Math.min(now.nextAt, renewal) - clock.now()));
  }

  /**
   * The Secret that agents cannot read: the CAs that were made here, with a new one if it is time, and the server's key
   * for tls-crypt-v2, which every client depends on as on the CA. Answers that key.
   */
  async #own(network: Issuing, owner: Owner, createCa: boolean): Promise<string | undefined> {
    const { writer, caches, clock, log } = this.#context;
    const namespace = caNamespace(this.#context.namespace);
    const { cas, wrapKey, present } = readOwn(this.#context, owner.name, owner.uid, clock.now());
    const wanted = hasIssuedWrapKey(network.spec) ? (wrapKey ?? this.#serverWrapKey(owner)) : wrapKey;
    const generation = (cas.at(-1)?.generation ?? 0) + 1;
    const now = clock.now();
    const added = createCa
      ? [{ generation, ...(await newCa(owner.name, generation, now, lifetimesOf(network).caMs)) }]
      : [];
    if (added.length > 0 || wanted !== wrapKey) {
      const kept = cas.filter(({ notAfter }) => notAfter > now);
      const data = {
        ...writeCas([...kept, ...added]),
        ...(wanted === undefined ? {} : { [secretEntries.serverWrapKey]: wanted }),
      };
      const { name } = owner;
      const secret = { namespace, name, owner, material: false, data };
      caches.caSecrets.wrote(await putSecret(writer, secret, present?.meta.resourceVersion));
      if (createCa) log.info({ event: 'pki.ca-made', network: name, generation }, 'the network has a new CA');
    }
    return hasIssuedWrapKey(network.spec) ? wanted : undefined;
  }

  /** The key that the server has, or a new one for a server that never had one. */
  #serverWrapKey({ name, uid }: Owner): string {
    const { caches, namespace } = this.#context;
    const server = caches.secrets.get(keyOf({ namespace, name: issuedServerSecret(name) }));
    const text = isOf(server, uid) ? textOf(server?.value?.data)[secretEntries.serverWrapKey] : undefined;
    return text ?? newServerWrapKey();
  }

  /** The Secret for the agents. Answers when its certificate is due. */
  async #server(network: Issuing, owner: Owner, authority: Authority, wrapKey: string | undefined): Promise<number> {
    const { writer, caches, clock, log, namespace } = this.#context;
    const name = issuedServerSecret(owner.name);
    const found = caches.secrets.get(keyOf({ namespace, name }));
    if (found !== undefined && found.meta.annotations[ownerAnnotation] === undefined) {
      throw new CaUnusable('Conflict', `Secret ${namespace}/${name} is somebody else's; rename or delete it`);
    }
    const mine = isOf(found, owner.uid) ? textOf(found?.value?.data) : {};
    const lifetimeMs = lifetimesOf(network).certificateMs;
    const pair = await this.#certificate(mine, serverEntries, authority, {
      commonName: owner.name,
      usage: 'serverAuth',
      lifetimeMs,
    });
    const node = isMesh(network.spec)
      ? await this.#certificate(mine, nodeEntries, authority, {
          commonName: meshCommonName(owner.name),
          usage: 'clientAuth',
          lifetimeMs,
        })
      : undefined;
    const data = {
      [secretEntries.certificate]: pair.cert,
      [secretEntries.privateKey]: pair.key,
      ...(node === undefined ? {} : { [secretEntries.meshCertificate]: node.cert, [secretEntries.meshKey]: node.key }),
      [secretEntries.ca]: authority.trusted.map(({ cert }) => cert).join(''),
      ...(wrapKey === undefined ? {} : { [secretEntries.serverWrapKey]: wrapKey }),
    };
    const due = Math.min(
      ...[pair, node].flatMap((held) => {
        const facts = factsOf(held?.cert ?? '');
        return held === undefined ? [] : [facts === undefined ? clock.now() : renewAt(facts)];
      }),
    );
    if (sameText(data, mine)) return due;
    const secret = { namespace, name, owner, material: true, data };
    caches.secrets.wrote(await putSecret(writer, secret, found?.meta.resourceVersion));
    log.info({ event: 'pki.server-issued', network: owner.name }, 'the agents have what the server needs');
    return due;
  }

  /** The present certificate as long as it is good, else a new one. */
  async #certificate(
    present: Readonly<Record<string, string>>,
    entries: { readonly cert: string; readonly key: string },
    { trusted, signsServer }: Authority,
    request: Omit<CertificateRequest, 'now'>,
  ): Promise<KeyPair> {
    if (signsServer === undefined) throw new Error(`the CA for ${request.commonName} is not there yet`);
    const now = this.#context.clock.now();
    const { [entries.cert]: cert, [entries.key]: key } = present;
    const facts = factsOf(cert ?? '');
    const good = facts !== undefined && now < renewAt(facts) && isSignedBy(cert ?? '', trusted);
    return good && cert !== undefined && key !== undefined && isPair(cert, key)
      ? { cert, key }
      : issue(signsServer, { ...request, now });
  }

  /** Whether the CA's Secret is another one than was looked at: caches of two kinds are filled at different times. */
  async #lags(network: Issuing): Promise<boolean> {
    const { caches, writer, namespace } = this.#context;
    const name = network.spec.pki.builtIn.caSecretRef?.name ?? network.metadata.name;
    const where = { namespace: caNamespace(namespace), name };
    const found = await writer.get(apiPath('Secret', where));
    const seen = caches.caSecrets.get(keyOf(where))?.meta.resourceVersion;
    return (found === undefined ? undefined : metaOf(found).resourceVersion) !== seen;
  }

  async #status(
    tracked: Tracked<VpnNetwork>,
    update: Omit<ConditionUpdate, 'type'>,
    authority?: Authority,
  ): Promise<void> {
    const { caches, clock, events, namespace } = this.#context;
    const { key: name, meta, value } = tracked;
    const secret = caches.secrets.get(keyOf({ namespace, name: issuedServerSecret(name) }));
    const facts = factsOf(textOf(secret?.value?.data)[secretEntries.certificate] ?? '');
    const ca = authority?.trusted.at(-1);
    const said = value?.status?.pki;
    // What was said of the CA stands while it cannot be used.
    const pki =
      facts === undefined || ca === undefined
        ? said
        : { caNotAfter: timestampOf(ca.notAfter), certificateNotAfter: timestampOf(facts.notAfter) };
    const before = findCondition(value?.status?.conditions, 'PkiReady');
    const now = clock.now();
    const conditions = setCondition(
      before === undefined ? [] : [before],
      { type: 'PkiReady', ...update },
      meta.generation,
      () => now,
    );
    const same = said?.caNotAfter === pki?.caNotAfter && said?.certificateNotAfter === pki?.certificateNotAfter;
    if (same && conditions[0] === before) return;
    await this.#apply(tracked, { conditions, ...(pki === undefined ? {} : { pki }) });
    if (before?.reason === update.reason || (before === undefined && update.status === 'True')) return;
    events.record(
      { apiVersion, kind: 'VpnNetwork', name, uid: meta.uid },
      {
        type: update.status === 'True' ? 'Normal' : 'Warning',
        reason: update.reason,
        action: 'Sign',
        note: update.status === 'True' ? 'the CA of the network can be used again' : update.message,
      },
    );
  }

  /** Of a network that has its certificate from elsewhere now, nothing of this is true. */
  async #withdraw(tracked: Tracked<VpnNetwork>): Promise<void> {
    const { pki, conditions } = tracked.value?.status ?? {};
    if (pki !== undefined || findCondition(conditions, 'PkiReady') !== undefined) await this.#apply(tracked, {});
  }

  async #apply({ key: name, meta: { uid } }: Tracked<VpnNetwork>, status: object): Promise<void> {
    const { caches, writer } = this.#context;
    const object = { apiVersion, kind: 'VpnNetwork', metadata: { name, uid }, status };
    caches.networks.wrote(await writer.applyStatus(apiPath('VpnNetwork', { name }), object, fieldManager));
  }
}
