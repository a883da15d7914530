import { type ChainEntry, chainedList, listOfSinglePlugin, unchainedList } from './network-list.ts';

/** What has to be done to a folder of network configurations. Pure: nothing here reads or writes. */

/** A file of the folder. */
export interface ConfFile {
  readonly name: string;
  readonly text: string;
}

/** Steps are done in order. After each the folder has a configuration that works, if it had one before. */
export type Step =
  | { readonly kind: 'write'; readonly name: string; readonly text: string }
  | { readonly kind: 'rename'; readonly from: string; readonly to: string }
  | { readonly kind: 'remove'; readonly name: string };

export interface ChainPlan {
  /** The file that the runtime takes; absent while the cluster's main plugin has not written one. */
  readonly list?: string;
  readonly steps: readonly Step[];
}

/** What runtimes look for, in the order of the whole names: the first file is in force (containerd's go-cni, CRI-O's ocicni). */
const configuration = /\.(?:conf|conflist|json)$/;
/** What the `.conf` is called while a list stands for it: no runtime reads a name of this form. */
const replaced = '.replaced-by-ovpn';

/** Plans our entry into the list in force. @throws OvpnError CniInstallFailed when that cannot be */
export function planChain(files: readonly ConfFile[], entry: ChainEntry): ChainPlan {
  const [first] = files.filter(({ name }) => configuration.test(name)).sort(byName);
  if (first === undefined) return { steps: [] };
  const { name, text } = first;
  if (!isSinglePlugin(first)) {
    const chained = chainedList(text, entry, name);
    return { list: name, steps: chained === text ? [] : [{ kind: 'write', name, text: chained }] };
  }
  const list = name.replace(configuration, '.conflist');
  const chained = chainedList(listOfSinglePlugin(text, name), entry, name);
  return {
    list,
    // `x.conf` comes before `x.conflist`: it is in force until the list is there.
    steps: [
      { kind: 'write', name: list, text: chained },
      { kind: 'rename', from: name, to: `${name}${replaced}` },
    ],
  };
}

/** Plans our entry out of every list, and single configurations back where they were. @throws OvpnError CniInstallFailed */
export function planUnchain(files: readonly ConfFile[]): Step[] {
  const saved = new Map<string, string>();
  for (const { name } of files) {
    if (!name.endsWith(replaced)) continue;
    const original = name.slice(0, -replaced.length);
    saved.set(original.replace(configuration, '.conflist'), original);
  }
  const names = new Set(files.map(({ name }) => name));
  return files.toSorted(byName).flatMap((file): Step[] => {
    const { name, text } = file;
    if (!configuration.test(name) || isSinglePlugin(file)) return [];
    const unchained = unchainedList(text, name);
    if (unchained === text) return [];
    const original = saved.get(name);
    if (original === undefined) return [{ kind: 'write', name, text: unchained }];
    const back: Step = names.has(original)
      ? { kind: 'remove', name: `${original}${replaced}` }
      : { kind: 'rename', from: `${original}${replaced}`, to: original };
    return [back, { kind: 'remove', name }];
  });
}

/** `.json` may be either; what a runtime does not understand is told from its text later. */
function isSinglePlugin({ name, text }: ConfFile): boolean {
  if (!name.endsWith('.json')) return name.endsWith('.conf');
  return !/"plugins"\s*:/.test(text);
}

function byName(a: ConfFile, b: ConfFile): number {
  return a.name < b.name ? -1 : 1;
}
