/** The bill of materials of an image: https://spdx.github.io/spdx-spec/v2.3/ */
import { createHash } from 'node:crypto';
import { suite } from './debian.ts';
import type { NpmPackage } from './npm.ts';
import type { Architecture } from './oci.ts';
import type { Contents } from './rootfs.ts';

export interface Sbom {
  readonly spdxVersion: 'SPDX-2.3';
  readonly dataLicense: 'CC0-1.0';
  readonly SPDXID: 'SPDXRef-DOCUMENT';
  readonly name: string;
  readonly documentNamespace: string;
  readonly creationInfo: { readonly created: string; readonly creators: readonly string[] };
  readonly packages: readonly SpdxPackage[];
  readonly relationships: readonly Relationship[];
}

export interface SpdxPackage {
  readonly SPDXID: string;
  readonly name: string;
  readonly versionInfo: string;
  readonly downloadLocation: 'NOASSERTION';
  readonly filesAnalyzed: false;
  readonly licenseConcluded: 'NOASSERTION';
  readonly licenseDeclared: string;
  readonly copyrightText: 'NOASSERTION';
  readonly comment?: string;
  readonly checksums?: readonly { readonly algorithm: 'SHA256' | 'SHA512'; readonly checksumValue: string }[];
  readonly externalRefs?: readonly {
    readonly referenceCategory: 'PACKAGE-MANAGER';
    readonly referenceType: 'purl';
    readonly referenceLocator: string;
  }[];
}

interface Relationship {
  readonly spdxElementId: string;
  readonly relationshipType: 'DESCRIBES' | 'CONTAINS' | 'STATIC_LINK';
  readonly relatedSpdxElement: string;
}

export interface SbomAbout {
  readonly version: string;
  readonly created: string;
  readonly architecture: Architecture;
}

/** Lists what is in an image, and who belongs to whom. The same contents give the same bytes. */
export function sbomOf({ version, created, architecture }: SbomAbout, { debian, npm, linked }: Contents): Sbom {
  const image = spdx('Image', 'ovpn-operator', version, 'Apache-2.0');
  const cni = spdx('CNI', 'ovpn-cni', version, 'Apache-2.0');
  const contained = [
    ...debian.map((each) => ({
      ...spdx('Debian', each.name, each.version, 'NOASSERTION'),
      comment: `Licence: /usr/share/doc/${each.name}/copyright in the image`,
      checksums: [{ algorithm: 'SHA256' as const, checksumValue: each.sha256 }],
      externalRefs: [purl(debianPurl(each.name, each.version, each.architecture))],
    })),
    ...npm.map((each) => ({
      ...spdx('npm', each.name, each.version, each.license),
      checksums: [{ algorithm: 'SHA512' as const, checksumValue: sha512Of(each) }],
      externalRefs: [purl(`pkg:npm/${each.name.replace('@', '%40')}@${each.version}`)],
    })),
  ];
  const inCni = linked.map(({ name, version: linkedVersion }) => ({
    ...spdx('Linked', name, linkedVersion, 'NOASSERTION'),
    comment: `Licence: /usr/share/doc/${name}/copyright in the image`,
    externalRefs: [purl(debianPurl(name, linkedVersion, architecture))],
  }));
  const relationships: Relationship[] = [
    relate('SPDXRef-DOCUMENT', 'DESCRIBES', image),
    ...[...contained, cni].map((each) => relate(image.SPDXID, 'CONTAINS', each)),
    ...inCni.map((each) => relate(cni.SPDXID, 'STATIC_LINK', each)),
  ];
  const packages = [image, cni, ...contained, ...inCni];
  const digest = createHash('sha256')
    .update(JSON.stringify([packages, relationships]))
    .digest('hex');
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `ovpn-operator-${version}-${architecture}`,
    // A name that no other document has, and a URI that need not lead anywhere.
    documentNamespace: `https://ovpn-operator.io/sbom/${version}/${architecture}/${digest}`,
    creationInfo: { created, creators: ['Tool: ovpn-operator-image'] },
    packages,
    relationships,
  };
}

function spdx(kind: string, name: string, version: string, license: string): SpdxPackage {
  return {
    // Letters, digits, dots and hyphens are all that an identifier may have.
    SPDXID: `SPDXRef-${kind}-${`${name}-${version}`.replaceAll(/[^A-Za-z0-9.-]+/g, '-')}`,
    name,
    versionInfo: version,
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    licenseConcluded: 'NOASSERTION',
    licenseDeclared: license,
    copyrightText: 'NOASSERTION',
  };
}

function relate(
  from: string,
  relationshipType: Relationship['relationshipType'],
  { SPDXID }: SpdxPackage,
): Relationship {
  return { spdxElementId: from, relationshipType, relatedSpdxElement: SPDXID };
}

function purl(referenceLocator: string): NonNullable<SpdxPackage['externalRefs']>[number] {
  return { referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator };
}

/** https://github.com/package-url/purl-spec: the plus sign has to be encoded. */
export function debianPurl(name: string, version: string, architecture: string): string {
  const encode = (text: string): string => encodeURIComponent(text).replaceAll('%3A', ':');
  return `pkg:deb/debian/${encode(name)}@${encode(version)}?arch=${architecture}&distro=debian-${suite.release}`;
}

/** npm writes digests in base64, SPDX in hexadecimal. */
function sha512Of({ name, integrity }: NpmPackage): string {
  const found = /^sha512-(\S+)$/.exec(integrity)?.[1];
  if (found === undefined)
    throw new Error(`the integrity of ${name} in package-lock.json is not one SHA-512: ${integrity}`);
  return Buffer.from(found, 'base64').toString('hex');
}
