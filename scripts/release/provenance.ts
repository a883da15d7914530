/** How a release came about, for machines: https://slsa.dev/spec/v1.0/provenance in an in-toto statement. */

/** A file, or what it was made of. https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md */
export interface Resource {
  readonly name?: string;
  readonly uri?: string;
  readonly digest?: Readonly<Record<string, string>>;
}

export interface Provenance {
  readonly _type: 'https://in-toto.io/Statement/v1';
  readonly subject: readonly Resource[];
  readonly predicateType: 'https://slsa.dev/provenance/v1';
  readonly predicate: {
    readonly buildDefinition: {
      readonly buildType: string;
      readonly externalParameters: Readonly<Record<string, string>>;
      readonly resolvedDependencies: readonly Resource[];
    };
    readonly runDetails: { readonly builder: { readonly id: string } };
  };
}

export interface Making {
  readonly version: string;
  /** The URI of the machine or service that built, who vouches for this statement. */
  readonly builder: string;
  /** Where the sources are, and the commit. */
  readonly source: string;
  readonly commit: string;
  /** The files of the release, with SHA-256 in hexadecimal. */
  readonly files: readonly { readonly name: string; readonly sha256: string }[];
  /** The image, by the digest of its index (`sha256:…`). */
  readonly image: { readonly name: string; readonly digest: string };
  readonly materials: readonly Resource[];
}

/** The statement. It has no times: the same commit gives the same bytes. */
export function provenanceOf({ version, builder, source, commit, files, image, materials }: Making): Provenance {
  return {
    _type: 'https://in-toto.io/Statement/v1',
    subject: [
      ...files.map(({ name, sha256 }) => ({ name, digest: { sha256 } })),
      { name: image.name, digest: { sha256: image.digest.replace(/^sha256:/, '') } },
    ],
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: 'https://ovpn-operator.io/release/v1',
        externalParameters: { version, source },
        resolvedDependencies: [{ uri: `git+${source}`, digest: { gitCommit: commit } }, ...materials],
      },
      runDetails: { builder: { id: builder } },
    },
  };
}

/**
 * The packages of a package-lock.json, those that only build among them: a compiler shapes what it compiles.
 *
 * @throws for a package whose digest is not one SHA-512
 */
export function npmMaterials(lock: string): Resource[] {
  const { packages } = JSON.parse(lock) as {
    packages: Readonly<Record<string, { version?: string; integrity?: string; link?: boolean }>>;
  };
  const found = new Map<string, Resource>();
  for (const [path, { version, integrity }] of Object.entries(packages)) {
    if (!path.includes('node_modules/') || version === undefined) continue;
    const digest = /^sha512-(\S+)$/.exec(integrity ?? '')?.[1];
    if (digest === undefined) throw new Error(`package-lock.json has no SHA-512 of ${path}`);
    const name = path.replace(/^.*node_modules\//, '').replace('@', '%40');
    const uri = `pkg:npm/${name}@${version}`;
    found.set(uri, { uri, digest: { sha512: Buffer.from(digest, 'base64').toString('hex') } });
  }
  return [...found.values()];
}

/** What sha256sum(1) checks with `-c`. */
export function sumsOf(files: readonly { readonly name: string; readonly sha256: string }[]): string {
  return files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join('');
}
