import { OvpnError } from '../errors.ts';
import { asRecord } from './json.ts';

/** The label of Secrets that hold copies of key material for the agents. */
export const materialLabel = 'ovpn-operator.io/material';
/** The annotation that says which Secret such a copy stands for: `<namespace>/<name>`. */
export const sourceAnnotation = 'ovpn-operator.io/source';

/** A namespace is a DNS label, the name of a Secret a DNS subdomain. */
const sourceForm = /^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)\/([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)$/;

/**
 * The Secret that a copy in the operator's namespace stands for, as if it had been read where it came from.
 * Agents may read Secrets in the operator's namespace only; the controller copies there what they need.
 */
export function presentSecret(copy: unknown, origin: string): { value: unknown } | { error: OvpnError } {
  const fields = asRecord(copy) ?? {};
  const metadata = asRecord(fields['metadata']) ?? {};
  const source = asRecord(metadata['annotations'])?.[sourceAnnotation];
  const match = typeof source === 'string' ? sourceForm.exec(source) : null;
  const [, namespace, , name] = match ?? [];
  if (namespace === undefined || name === undefined) {
    const problem =
      source === undefined
        ? 'the annotation is missing'
        : `${JSON.stringify(source)} is not of the form <namespace>/<name>`;
    const where = { object: origin, field: `metadata.annotations[${sourceAnnotation}]` };
    const remedy = `set it to the Secret that this one is a copy of, or remove the label ${materialLabel}`;
    return { error: new OvpnError('InvalidField', problem, where, { remedy }) };
  }
  // Lists of core objects leave out what every item is.
  return { value: { ...fields, apiVersion: 'v1', kind: 'Secret', metadata: { ...metadata, namespace, name } } };
}
