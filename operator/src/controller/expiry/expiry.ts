import { findCondition, setCondition } from '../../api/conditions.ts';
import { serverSecretOf } from '../../api/issued.ts';
import { apiVersion, type Condition, type VpnKey, type VpnNetwork } from '../../api/types.ts';
import { type Index, keyOf, splitKey, type Tracked } from '../../cluster/informer.ts';
import { sourceAnnotation } from '../../cluster/material-secret.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import { copyName } from '../material/material-copies.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from '../reconciler.ts';
import type { Sample } from '../../telemetry/metrics.ts';
import { crlValidities, type Expiry, judgeExpiry, type Validity, validitiesOf } from './validity.ts';

const fieldManager = 'ovpn-controller/expiry';
/** A timer holds no more; and clocks are set. */
const longestWaitMs = 86_400_000;
/** How many objects metrics name: those whose material ends first. */
const maxSeries = 1000;

type Subject =
  | { readonly kind: 'VpnKey'; readonly tracked: Tracked<VpnKey> }
  | { readonly kind: 'VpnNetwork'; readonly tracked: Tracked<VpnNetwork> };

/** A Secret that something expires in. */
interface Source {
  readonly namespace: string;
  readonly name: string;
  /** When nothing of it counts but the CRLs of this entry. */
  readonly crlKey?: string;
}

/**
 * Warns long before a certificate or a CRL expires that a VpnKey `tls` or a network's PKI depends on: a condition
 * `Expiring`, and an Event when it begins and when it is too late. It reads what the agents read, from the caches alone.
 *
 * Keys are `VpnKey/<namespace>/<name>` and `VpnNetwork/<name>`.
 */
export class ExpiryWarnings implements Reconciler {
  readonly name = 'expiry';
  readonly #context: ReconcilerContext;
  readonly #keysBySecret: Index<VpnKey>;
  readonly #networksBySecret: Index<VpnNetwork>;
  /** By key: when the first certificate and the first CRL end. Milliseconds since 1970. */
  readonly #certificates = new Map<string, number>();
  readonly #crls = new Map<string, number>();

  constructor(context: ReconcilerContext) {
    this.#context = context;
    const { keys, networks } = context.caches;
    this.#keysBySecret = keys.index(({ value }) => secretsOfKey(value).map(keyOf));
    this.#networksBySecret = networks.index(({ value }) => this.#secretsOfNetwork(value).map(keyOf));
    context.meter.onScrape((sample) => {
      sampleEnds(sample, 'ovpn_certificate_expiry_timestamp_seconds', this.#certificates);
      sampleEnds(sample, 'ovpn_crl_expiry_timestamp_seconds', this.#crls);
    });
  }

  watch(enqueue: Enqueue): void {
    const { keys, networks, secrets } = this.#context.caches;
    keys.onChange((now, before) => {
      if (now === undefined && before !== undefined) this.#forget(`VpnKey/${before.key}`);
      if (now !== undefined && now.meta.generation !== before?.meta.generation) enqueue(`VpnKey/${now.key}`);
    });
    networks.onChange((now, before) => {
      if (now === undefined && before !== undefined) this.#forget(`VpnNetwork/${before.key}`);
      if (now !== undefined && now.meta.generation !== before?.meta.generation) enqueue(`VpnNetwork/${now.key}`);
    });
    secrets.onChange((now, before) => {
      for (const secret of [now, before]) {
        const source = secret === undefined ? undefined : (secret.meta.annotations[sourceAnnotation] ?? secret.key);
        if (source === undefined) continue;
        for (const { key } of this.#keysBySecret.get(source)) enqueue(`VpnKey/${key}`);
        for (const { key } of this.#networksBySecret.get(source)) enqueue(`VpnNetwork/${key}`);
      }
    });
  }

  async reconcile(key: string): Promise<number | undefined> {
    const { caches, clock, namespace: own } = this.#context;
    const subject = this.#subject(key);
    if (subject?.tracked.value === undefined || subject.tracked.meta.deletionTimestamp !== undefined) return undefined;
    const sources =
      subject.kind === 'VpnKey' ? secretsOfKey(subject.tracked.value) : this.#secretsOfNetwork(subject.tracked.value);
    const validities = sources.flatMap(({ namespace, name, crlKey }) => {
      const place = namespace === own ? name : copyName(namespace, name);
      const secret = caches.secrets.get(keyOf({ namespace: own, name: place }));
      const data = secret?.value?.data ?? {};
      return crlKey === undefined ? validitiesOf(data) : crlValidities(data, crlKey);
    });
    this.#keepEnds(key, validities);
    const judgement = judgeExpiry(validities, clock.now());
    await this.#status(subject, judgement?.expiry, judgement?.message ?? '');
    return judgement?.nextAt === undefined
      ? undefined
      : Math.min(longestWaitMs, Math.max(1000, judgement.nextAt - clock.now()));
  }

  #keepEnds(key: string, validities: readonly Validity[]): void {
    this.#forget(key);
    for (const { isCrl, notAfter } of validities) {
      const ends = isCrl ? this.#crls : this.#certificates;
      ends.set(key, Math.min(ends.get(key) ?? Infinity, notAfter));
    }
  }

  #forget(key: string): void {
    this.#certificates.delete(key);
    this.#crls.delete(key);
  }

  #subject(key: string): Subject | undefined {
    const { caches } = this.#context;
    const [kind, ...rest] = key.split('/');
    const name = rest.join('/');
    if (kind === 'VpnKey') {
      const tracked = caches.keys.get(name);
      return tracked === undefined ? undefined : { kind, tracked };
    }
    const tracked = caches.networks.get(name);
    return tracked === undefined ? undefined : { kind: 'VpnNetwork', tracked };
  }

  #secretsOfNetwork(network: VpnNetwork | undefined): Source[] {
    const { namespace } = this.#context;
    const name = network === undefined ? undefined : serverSecretOf(network);
    const crl = network?.spec.pki?.crlSecretRef;
    return [
      ...(name === undefined ? [] : [{ namespace, name }]),
      ...(crl === undefined ? [] : [{ namespace, name: crl.name, crlKey: crl.key }]),
    ];
  }

  async #status({ kind, tracked }: Subject, expiry: Expiry | undefined, message: string): Promise<void> {
    const { caches, writer, clock, events } = this.#context;
    const said = findCondition(tracked.value?.status?.conditions, 'Expiring');
    const { generation, uid } = tracked.meta;
    const now = clock.now();
    const conditions: readonly Condition[] =
      expiry === undefined
        ? []
        : setCondition(
            said === undefined ? [] : [said],
            { type: 'Expiring', status: expiry === 'Valid' ? 'False' : 'True', reason: expiry, message },
            generation,
            () => now,
          );
    if (conditions[0] === said) return;
    const { namespace, name } = splitKey(tracked.key);
    const place = { name, ...(namespace === undefined ? {} : { namespace }) };
    const object = { apiVersion, kind, metadata: { ...place, uid }, status: { conditions } };
    const answer = await writer.applyStatus(apiPath(kind, place), object, fieldManager);
    if (kind === 'VpnKey') caches.keys.wrote(answer);
    else caches.networks.wrote(answer);
    if (expiry === undefined || expiry === 'Valid' || said?.reason === expiry) return;
    events.record(
      { apiVersion, kind, ...place, uid },
      { type: 'Warning', reason: expiry, action: 'CheckExpiry', note: message },
    );
  }
}

type EndMetric = 'ovpn_certificate_expiry_timestamp_seconds' | 'ovpn_crl_expiry_timestamp_seconds';

function sampleEnds(sample: Sample, metric: EndMetric, ends: ReadonlyMap<string, number>): void {
  const soonest = [...ends].sort(([, one], [, other]) => one - other).slice(0, maxSeries);
  for (const [key, notAfter] of soonest) {
    const [kind = '', ...rest] = key.split('/');
    const { namespace = '', name } = splitKey(rest.join('/'));
    sample(metric, { kind, namespace, name }, notAfter / 1000);
  }
}

function secretsOfKey(key: VpnKey | undefined): Source[] {
  const name = key?.spec.tls?.secretRef.name;
  return key === undefined || name === undefined ? [] : [{ namespace: key.metadata.namespace, name }];
}
