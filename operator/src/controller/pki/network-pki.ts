import { timestampOf } from '../../api/conditions.ts';
import { hasIssuedWrapKey, issuedServerSecret, secretEntries } from '../../api/issued.ts';
import { apiVersion, type Secret, type VpnNetwork } from '../../api/types.ts';
import { keyOf, type Tracked } from '../../cluster/informer.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { newServerWrapKey } from '../profile/wrap-keys.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from '../reconciler.ts';
import { type CaPlan, planCa, renewAt } from './ca-plan.ts';
import { factsOf, isSignedBy, issue, type KeyPair, newCa } from './certificates.ts';
import { type NetworkCa, readCas, writeCas } from './network-ca.ts';
import { caNamespace, type Owner, ownerAnnotation, sameText, secretObject, textOf } from './secret-store.ts';

const fieldManager = 'ovpn-controller/network-pki';
export const dayMs = 86_400_000;
/** Timers hold no more than some weeks, and clocks are set: look at least so often. */
export const longestWaitMs = dayMs / 2;

type Issuing = VpnNetwork & { spec: { pki: { builtIn: object } } };

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
    const { networks, secrets, caSecrets } = this.#context.caches;
    networks.onChange((now, before) => {
      if (now !== undefined && now.meta.generation !== before?.meta.generation) enqueue(now.key);
    });
    for (const cache of [secrets, caSecrets]) {
      cache.onChange((now, before) => {
        const network = networkOf(now ?? before);
        if (network !== undefined) enqueue(network);
      });
    }
  }

  async reconcile(key: string): Promise<number | undefined> {
    const tracked = this.#context.caches.networks.get(key);
    const network = tracked?.value;
    if (tracked === undefined || network === undefined || !isIssuing(network)) return undefined;
    if (tracked.meta.deletionTimestamp !== undefined) return undefined;
    const { clock } = this.#context;
    const owner: Owner = { apiVersion, kind: 'VpnNetwork', name: key, uid: tracked.meta.uid };
    const lifetimes = lifetimesOf(network);
    let plan = planCa(this.#cas(owner), clock.now(), lifetimes);
    if (plan.create) plan = planCa(await this.#create(owner, plan, lifetimes.caMs), clock.now(), lifetimes);
    const renewal = await this.#server(network, owner, plan);
    await this.#status(tracked, network, plan);
    return Math.min(longestWaitMs, Math.max(1000, Math.min(plan.nextAt, renewal) - clock.now()));
  }

  /** The CAs that are there. Those of an earlier network of the same name are nothing to trust, and replaced. */
  #cas(owner: Owner): NetworkCa[] {
    const found = this.#caSecret(owner.name);
    return found !== undefined && isOf(found, owner) ? readCas(textOf(found.value?.data)) : [];
  }

  async #create(owner: Owner, { trusted }: CaPlan<NetworkCa>, lifetimeMs: number): Promise<NetworkCa[]> {
    const { writer, caches, clock, log, namespace } = this.#context;
    const generation = (trusted.at(-1)?.generation ?? 0) + 1;
    const ca = await newCa(owner.name, generation, clock.now(), lifetimeMs);
    const data = writeCas([...trusted, { generation, ...ca }]);
    const present = this.#caSecret(owner.name);
    const secret = { namespace: caNamespace(namespace), name: owner.name, owner, material: false, data };
    const path = { namespace: secret.namespace, name: secret.name };
    const answer =
      present === undefined
        ? await writer.create(apiPath('Secret', { namespace: secret.namespace }), secretObject(secret))
        : await writer.replace(apiPath('Secret', path), secretObject(secret, present.meta.resourceVersion));
    caches.caSecrets.wrote(answer);
    log.info({ event: 'pki.ca-made', network: owner.name, generation }, 'the network has a new CA');
    return readCas(data);
  }

  /** The Secret for the agents. Answers when its certificate is due. */
  async #server(network: Issuing, owner: Owner, plan: CaPlan<NetworkCa>): Promise<number> {
    const { writer, caches, clock, log, namespace } = this.#context;
    const name = issuedServerSecret(owner.name);
    const found = caches.secrets.get(keyOf({ namespace, name }));
    const mine = found !== undefined && isOf(found, owner) ? textOf(found.value?.data) : {};
    const pair = await this.#serverCertificate(owner.name, mine, plan, lifetimesOf(network).certificateMs);
    const wrapKey = hasIssuedWrapKey(network.spec)
      ? (mine[secretEntries.serverWrapKey] ?? newServerWrapKey())
      : undefined;
    const data = {
      [secretEntries.certificate]: pair.cert,
      [secretEntries.privateKey]: pair.key,
      [secretEntries.ca]: plan.trusted.map(({ cert }) => cert).join(''),
      ...(wrapKey === undefined ? {} : { [secretEntries.serverWrapKey]: wrapKey }),
    };
    const facts = factsOf(pair.cert);
    const due = facts === undefined ? clock.now() : renewAt(facts);
    if (sameText(data, mine)) return due;
    const secret = { namespace, name, owner, material: true, data };
    const answer =
      found === undefined
        ? await writer.create(apiPath('Secret', { namespace }), secretObject(secret))
        : await writer.replace(
            apiPath('Secret', { namespace, name }),
            secretObject(secret, found.meta.resourceVersion),
          );
    caches.secrets.wrote(answer);
    log.info({ event: 'pki.server-issued', network: owner.name }, 'the agents have what the server needs');
    return due;
  }

  /** The present certificate as long as it is good, else a new one. */
  async #serverCertificate(
    network: string,
    present: Readonly<Record<string, string>>,
    { signsServer }: CaPlan<NetworkCa>,
    lifetimeMs: number,
  ): Promise<KeyPair> {
    if (signsServer === undefined) throw new Error(`the CA of network ${network} is not there yet`);
    const now = this.#context.clock.now();
    const { [secretEntries.certificate]: cert, [secretEntries.privateKey]: key } = present;
    const facts = factsOf(cert ?? '');
    const good = facts !== undefined && now < renewAt(facts) && isSignedBy(cert ?? '', [signsServer]);
    return good && cert !== undefined && key !== undefined
      ? { cert, key }
      : issue(signsServer, { commonName: network, usage: 'serverAuth', now, lifetimeMs });
  }

  async #status({ meta }: Tracked<VpnNetwork>, network: Issuing, plan: CaPlan<NetworkCa>): Promise<void> {
    const { caches, writer, namespace } = this.#context;
    const secret = caches.secrets.get(keyOf({ namespace, name: issuedServerSecret(meta.name) }));
    const facts = factsOf(textOf(secret?.value?.data)[secretEntries.certificate] ?? '');
    const ca = plan.trusted.at(-1);
    if (facts === undefined || ca === undefined) return;
    const pki = { caNotAfter: timestampOf(ca.notAfter), certificateNotAfter: timestampOf(facts.notAfter) };
    const said = network.status?.pki;
    if (said?.caNotAfter === pki.caNotAfter && said.certificateNotAfter === pki.certificateNotAfter) return;
    const { name, uid } = meta;
    const object = { apiVersion, kind: 'VpnNetwork', metadata: { name, uid }, status: { pki } };
    caches.networks.wrote(await writer.applyStatus(apiPath('VpnNetwork', { name }), object, fieldManager));
  }

  #caSecret(network: string): Tracked<Secret> | undefined {
    const { caches, namespace } = this.#context;
    return caches.caSecrets.get(keyOf({ namespace: caNamespace(namespace), name: network }));
  }
}

/** The lifetimes that a network wants. Milliseconds. */
export function lifetimesOf({ spec }: VpnNetwork): { readonly caMs: number; readonly certificateMs: number } {
  const { caDays = 3650, certificateDays = 365 } = spec.pki?.builtIn ?? {};
  return { caMs: caDays * dayMs, certificateMs: certificateDays * dayMs };
}

/** The network that a Secret of ours belongs to. */
export function networkOf(secret: Tracked<Secret> | undefined): string | undefined {
  if (secret?.meta.annotations[ownerAnnotation] === undefined) return undefined;
  return secret.meta.name.replace(/\.pki$/, '');
}

function isIssuing(network: VpnNetwork): network is Issuing {
  return network.spec.pki?.builtIn !== undefined;
}

function isOf(secret: Tracked<Secret>, owner: Owner): boolean {
  return secret.meta.annotations[ownerAnnotation] === owner.uid;
}
