/** Where the version of the project stands, and how another one gets there. */

/** The files, from the project's folder. */
export const versionedFiles = [
  'package.json',
  'operator/package.json',
  'cni-plugin/package.json',
  'package-lock.json',
  'charts/ovpn-operator/Chart.yaml',
  'operator/src/version.ts',
] as const;

export type Files = Readonly<Record<(typeof versionedFiles)[number], string>>;

interface Manifest {
  version: string;
  dependencies?: Record<string, string>;
}

interface Lock {
  version: string;
  packages: Record<string, Manifest>;
}

/** https://semver.org, without build metadata: tags of images cannot have its plus sign. */
const semver =
  /^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][\w-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][\w-]*))*)?$/;

/** Whether a text is a version that can be released: `1.2.3` or `1.2.3-rc.1`, without `v`. */
export function isVersion(text: string): boolean {
  return semver.test(text);
}

/**
 * The files with another version in them, everything else as it was.
 *
 * @throws when a file is not as expected, so that no place is passed over
 */
export function withVersion(files: Files, version: string): Files {
  const json = (path: keyof Files, change: (value: Lock) => void): string => {
    const value = JSON.parse(files[path]) as Lock;
    change(value);
    return `${JSON.stringify(value, undefined, 2)}\n`;
  };
  const own = (manifest: Manifest): void => {
    manifest.version = version;
    for (const name of Object.keys(manifest.dependencies ?? {}))
      if (name.startsWith('@ovpn-operator/') && manifest.dependencies !== undefined)
        manifest.dependencies[name] = version;
  };
  const lines = (path: keyof Files, patterns: readonly RegExp[]): string =>
    patterns.reduce((text, pattern) => {
      if (!pattern.test(text)) throw new Error(`${path} has no line like ${pattern.source}`);
      return text.replace(pattern, `$1${version}$2`);
    }, files[path]);
  return {
    'package.json': json('package.json', own),
    'operator/package.json': json('operator/package.json', own),
    'cni-plugin/package.json': json('cni-plugin/package.json', own),
    'package-lock.json': json('package-lock.json', (lock) => {
      lock.version = version;
      for (const path of ['', 'operator', 'cni-plugin']) {
        const found = lock.packages[path];
        if (found === undefined) throw new Error(`package-lock.json has no package '${path}'`);
        own(found);
      }
    }),
    'charts/ovpn-operator/Chart.yaml': lines('charts/ovpn-operator/Chart.yaml', [
      /^(version: ).*()$/m,
      /^(appVersion: ).*()$/m,
    ]),
    'operator/src/version.ts': lines('operator/src/version.ts', [/^(export const version = ').*(';)$/m]),
  };
}
