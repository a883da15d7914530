import { findCondition, setCondition } from '../../api/conditions.ts';
import { certManagerSecret } from '../../api/issued.ts';
import { apiVersion, type Secret, type VpnNetwork } from '../../api/types.ts';
import { ApiError } from '../../cluster/api-client.ts';
import { keyOf, metaOf, type Tracked } from '../../cluster/informer.ts';
import { apiPath } from '../../cluster/resource-path.ts';
import type { Enqueue, Reconciler, ReconcilerContext } from '../reconciler.ts';
import { type Answer, answerOf, certificateObject, isAsWanted } from './certificate-request.ts';
import { type Owner, ownerAnnotation } from './secret-store.ts';

const fieldManager = 'ovpn-controller/cert-manager';
/** How often cert-manager is asked while it works, and once it has issued. A new Secret is seen at once. */
const pendingMs = 15_000;
const settledMs = 600_000;

/**
 * The certificate of a network with `spec.pki.issuerRef`: a Certificate, from which cert-manager makes a Secret that
 * agents read, and what cert-manager says of it as condition `CertificateReady`.
 *
 * Certificates are read by name, not watched: where cert-manager is not installed there is no such kind, and a watch of
 * it would never be there. cert-manager leaves the Secret when its Certificate goes, so it is removed here. Keys are
 * names of networks.
 */
export class CertManager implements Reconciler {
  readonly name = 'cert-manager';
  readonly #context: ReconcilerContext;

  constructor(context: ReconcilerContext) {
    this.#context = context;
  }

  watch(enqueue: Enqueue): void {
    const { networks, secrets } = this.#context.caches;
    networks.onChange((now, before) => {
      if (now?.meta.generation !== before?.meta.generation) enqueue(now?.key ?? before?.key ?? '');
    });
    secrets.onChange((now, before) => {
      const { name, annotations } = (now ?? before)?.meta ?? {};
      const network = /^([^.]+)\.tls$/.exec(name ?? '')?.[1];
      if (network !== undefined && annotations?.[ownerAnnotation] !== undefined) enqueue(network);
    });
  }

  async reconcile(key: string): Promise<number | undefined> {
    const tracked = this.#context.caches.networks.get(key);
    // One that is there but cannot be read says nothing about what it wants.
    if (tracked !== undefined && tracked.value === undefined) return undefined;
    const issuer = tracked?.value?.spec.pki?.issuerRef;
    if (tracked?.value === undefined || issuer === undefined) {
      await this.#remove(key, tracked);
      return undefined;
    }
    if (tracked.meta.deletionTimestamp !== undefined) return undefined;
    const answer = await this.#ask({ apiVersion, kind: 'VpnNetwork', name: key, uid: tracked.meta.uid }, issuer);
    await this.#status(tracked, answer);
    return answer.ready ? settledMs : pendingMs;
  }

  /** Asks for the certificate, unless that was done, and answers how it stands. */
  async #ask(owner: Owner, issuer: Parameters<typeof certificateObject>[2]): Promise<Answer> {
    const { writer, log, namespace } = this.#context;
    const where = `${namespace}/${certManagerSecret(owner.name)}`;
    const path = this.#path(owner.name);
    const found = await writer.get(path);
    if (found !== undefined && metaOf(found).annotations[ownerAnnotation] === undefined) {
      const message = `Certificate ${where} is somebody else's; rename or delete it`;
      return { ready: false, reason: 'Conflict', message };
    }
    if (found !== undefined && isAsWanted(found, namespace, owner, issuer))
      return this.#judge(found, owner.name, where);
    const object = certificateObject(namespace, owner, issuer, found);
    try {
      const answer =
        found === undefined
          ? await writer.create(apiPath('Certificate', { namespace }), object)
          : await writer.replace(path, object);
      log.info({ event: 'pki.certificate-asked', network: owner.name }, 'cert-manager is asked for a certificate');
      return this.#judge(answer, owner.name, where);
    } catch (error) {
      if (!(error instanceof ApiError && error.notFound && found === undefined)) throw error;
      const message =
        'there is no kind Certificate of cert-manager.io/v1; install cert-manager, or use another spec.pki';
      return { ready: false, reason: 'CertManagerNotFound', message };
    }
  }

  #judge(certificate: unknown, network: string, where: string): Answer {
    const data = this.#secret(network)?.value?.data;
    return answerOf(certificate, where, data === undefined ? undefined : Object.keys(data));
  }

  /** Removes what was made for a network that is gone, or has its certificate from elsewhere now. */
  async #remove(network: string, tracked: Tracked<VpnNetwork> | undefined): Promise<void> {
    const { writer, caches, namespace } = this.#context;
    const secret = this.#secret(network);
    const said = findCondition(tracked?.value?.status?.conditions, 'CertificateReady');
    if (secret === undefined && said === undefined) return;
    const path = this.#path(network);
    const found = await writer.get(path);
    const { uid, annotations } = metaOf(found);
    // The Certificate first: as long as it is there, its Secret is made again.
    if (found !== undefined && annotations[ownerAnnotation] !== undefined) await writer.delete(path, { uid });
    if (secret !== undefined) {
      const name = certManagerSecret(network);
      await writer.delete(apiPath('Secret', { namespace, name }), { uid: secret.meta.uid });
      caches.secrets.deleted(secret);
    }
    if (tracked !== undefined && said !== undefined) await this.#apply(tracked, []);
  }

  async #status(tracked: Tracked<VpnNetwork>, { ready, reason, message }: Answer): Promise<void> {
    const { clock, events } = this.#context;
    const said = findCondition(tracked.value?.status?.conditions, 'CertificateReady');
    const now = clock.now();
    const conditions = setCondition(
      said === undefined ? [] : [said],
      { type: 'CertificateReady', status: ready ? 'True' : 'False', reason, message },
      tracked.meta.generation,
      () => now,
    );
    if (conditions[0] === said) return;
    await this.#apply(tracked, conditions);
    if (said?.reason === reason) return;
    events.record(
      { apiVersion, kind: 'VpnNetwork', name: tracked.key, uid: tracked.meta.uid },
      {
        type: ready || reason === 'Pending' ? 'Normal' : 'Warning',
        reason: ready ? 'Issued' : reason,
        action: 'RequestCertificate',
        note: message,
      },
    );
  }

  async #apply({ key: name, meta: { uid } }: Tracked<VpnNetwork>, conditions: readonly object[]): Promise<void> {
    const { writer, caches } = this.#context;
    const object = { apiVersion, kind: 'VpnNetwork', metadata: { name, uid }, status: { conditions } };
    caches.networks.wrote(await writer.applyStatus(apiPath('VpnNetwork', { name }), object, fieldManager));
  }

  /** The Secret that cert-manager made; another one of that name is not looked at. */
  #secret(network: string): Tracked<Secret> | undefined {
    const { caches, namespace } = this.#context;
    const secret = caches.secrets.get(keyOf({ namespace, name: certManagerSecret(network) }));
    return secret?.meta.annotations[ownerAnnotation] === undefined ? undefined : secret;
  }

  #path(network: string): string {
    return apiPath('Certificate', { namespace: this.#context.namespace, name: certManagerSecret(network) });
  }
}
