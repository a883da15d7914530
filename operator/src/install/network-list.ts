import { asRecord } from '../cluster/json.ts';
import { describe, OvpnError } from '../errors.ts';
import { cniVersions, isCniVersion } from './cni-versions.ts';

/**
 * Our place in the configuration of the cluster's main plugin. All that is not ours stays as it was found.
 * https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md#section-1-network-configuration-format
 */

export const pluginType = 'ovpn-cni';

/** What stands in the list for us: without `network`, so that the agent chooses by the pod. */
export interface ChainEntry {
  readonly type: typeof pluginType;
  /** Only when it is not the plugin's default. */
  readonly agentSocket?: string;
}

type Fields = Readonly<Record<string, unknown>>;

/**
 * A configuration list with our entry at its end. An entry that is there is brought up to date where it stands; one
 * that names a `network` was written by a person, and is left alone.
 *
 * @param where the file, for messages
 * @returns the very same text when nothing is to be done
 * @throws OvpnError CniInstallFailed when the text is no list that a runtime would take, or of a version we do not speak
 */
export function chainedList(text: string, entry: ChainEntry, where: string): string {
  const list = parseObject(text, where);
  checkVersion(list, where);
  const plugins = pluginsOf(list, where);
  const at = plugins.findIndex(isOurs);
  if (at >= 0 && JSON.stringify(plugins[at]) === JSON.stringify(entry)) return text;
  const wanted: Fields = { ...entry };
  const changed = at >= 0 ? plugins.with(at, wanted) : [...plugins, wanted];
  return format({ ...list, plugins: changed });
}

/** The list without our entry; the very same text when it has none. @throws OvpnError CniInstallFailed */
export function unchainedList(text: string, where: string): string {
  const list = parseObject(text, where);
  const plugins = pluginsOf(list, where);
  const kept = plugins.filter((plugin) => !isOurs(plugin));
  return kept.length === plugins.length ? text : format({ ...list, plugins: kept });
}

/** What a list has for itself, and its plugins get from it (SPEC.md, section 1). */
const ofTheList = ['cniVersion', 'cniVersions', 'name', 'disableCheck', 'disableGC'];

/**
 * The configuration list that means the same as the configuration of a single plugin (`.conf`), which has no room for
 * a second one. @throws OvpnError CniInstallFailed
 */
export function listOfSinglePlugin(text: string, where: string): string {
  const conf = parseObject(text, where);
  if (typeof conf['type'] !== 'string') throw unusable(where, 'it has no field `type`');
  const isListField = ([name]: [string, unknown]): boolean => ofTheList.includes(name);
  const fields = Object.entries(conf);
  return format({
    ...Object.fromEntries(fields.filter(isListField)),
    plugins: [Object.fromEntries(fields.filter((field) => !isListField(field)))],
  });
}

function isOurs(plugin: Fields): boolean {
  return plugin['type'] === pluginType && plugin['network'] === undefined;
}

function parseObject(text: string, where: string): Fields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw unusable(where, `it is not JSON: ${describe(error)}`);
  }
  const object = asRecord(value);
  if (object === undefined) throw unusable(where, 'it is not a JSON object');
  return object;
}

function pluginsOf(list: Fields, where: string): Fields[] {
  const { plugins } = list;
  if (!Array.isArray(plugins) || plugins.length === 0) throw unusable(where, 'it has no list of plugins');
  return plugins.map((plugin) => {
    const object = asRecord(plugin);
    if (typeof object?.['type'] !== 'string') throw unusable(where, 'one of its plugins has no field `type`');
    return object;
  });
}

/** A runtime refuses a list with a plugin that does not speak its version: then no pod of the node would start. */
function checkVersion(list: Fields, where: string): void {
  const { cniVersion = '0.1.0', cniVersions: choice } = list;
  if (isCniVersion(cniVersion) || (Array.isArray(choice) && choice.some(isCniVersion))) return;
  const known = `${cniVersions[0]} to ${cniVersions.at(-1)}`;
  throw unusable(where, `its cniVersion is ${JSON.stringify(cniVersion)}, and ovpn-cni speaks ${known}`);
}

function format(list: Fields): string {
  return `${JSON.stringify(list, undefined, 2)}\n`;
}

function unusable(where: string, problem: string): OvpnError {
  return new OvpnError('CniInstallFailed', problem, { object: where });
}
