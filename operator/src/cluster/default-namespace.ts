import { isMap, isSeq, parseAllDocuments } from 'yaml';
import type { Document, YAMLMap } from 'yaml';
import type { OvpnError } from '../errors.ts';

/** True for the error of an object that lives in a namespace and names none. */
export function isNamespaceMissing({ where, problem }: OvpnError): boolean {
  return where.field === 'metadata.namespace' && problem.startsWith('is missing');
}

/**
 * A text of manifests in which objects without a namespace have this one, as kubectl would give it to them.
 * Documents that need nothing stay as they are, and every document keeps its number and its lines, so that
 * errors still point at the right place.
 */
export function withDefaultNamespace(text: string, namespace: string): string {
  const documents = parseAllDocuments(text);
  if (!Array.isArray(documents)) return text;
  let result = '';
  let from = 0;
  for (const document of documents as Document.Parsed[]) {
    const { contents } = document;
    if (document.errors.length > 0 || !isMap(contents) || !fill(contents, namespace)) continue;
    const [begin, end] = contents.range;
    const lines = text.slice(begin, end).split('\n').length - 1;
    result += `${text.slice(from, begin)}${JSON.stringify(document.toJS())}${'\n'.repeat(lines)}`;
    from = end;
  }
  return result + text.slice(from);
}

/** Sets the namespace in an object, or in the items of a List. True when something was set. */
function fill(object: YAMLMap, namespace: string): boolean {
  const items = object.get('items', true);
  if (String(object.get('kind')).endsWith('List') && isSeq(items)) {
    return items.items.filter((item) => isMap(item) && fill(item, namespace)).length > 0;
  }
  const metadata = object.get('metadata', true);
  if (object.get('kind') === 'VpnNetwork' || !isMap(metadata)) return false;
  if ((metadata.get('namespace') ?? undefined) !== undefined) return false;
  metadata.set('namespace', namespace);
  return true;
}
