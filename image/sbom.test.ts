import { expect, test } from '@jest/globals';
import type { Contents } from './rootfs.ts';
import { sbomOf } from './sbom.ts';

const contents: Contents = {
  debian: [{ name: 'libstdc++6', version: '14.2.0-19+b1', architecture: 'arm64', sha256: 'ab'.repeat(32) }],
  npm: [
    {
      path: 'node_modules/@s/a',
      name: '@s/a',
      version: '1.0.0',
      license: 'MIT OR Apache-2.0',
      integrity: 'sha512-AQI=',
    },
  ],
  linked: [{ name: 'libquickjs', version: '2025.04.26-1' }],
};
const about = { version: '0.1.0', created: '2026-01-01T00:00:00Z', architecture: 'arm64' } as const;

test('every package has a name that scanners know, its digest and its licence', () => {
  const { packages } = sbomOf(about, contents);
  expect(
    packages.map(({ SPDXID, licenseDeclared, externalRefs }) => [
      SPDXID,
      licenseDeclared,
      externalRefs?.[0]?.referenceLocator,
    ]),
  ).toEqual([
    ['SPDXRef-Image-ovpn-operator-0.1.0', 'Apache-2.0', undefined],
    ['SPDXRef-CNI-ovpn-cni-0.1.0', 'Apache-2.0', undefined],
    [
      'SPDXRef-Debian-libstdc-6-14.2.0-19-b1',
      'NOASSERTION',
      'pkg:deb/debian/libstdc%2B%2B6@14.2.0-19%2Bb1?arch=arm64&distro=debian-13',
    ],
    ['SPDXRef-npm--s-a-1.0.0', 'MIT OR Apache-2.0', 'pkg:npm/%40s/a@1.0.0'],
    [
      'SPDXRef-Linked-libquickjs-2025.04.26-1',
      'NOASSERTION',
      'pkg:deb/debian/libquickjs@2025.04.26-1?arch=arm64&distro=debian-13',
    ],
  ]);
  expect(packages.flatMap(({ checksums = [] }) => checksums)).toEqual([
    { algorithm: 'SHA256', checksumValue: 'ab'.repeat(32) },
    { algorithm: 'SHA512', checksumValue: '0102' },
  ]);
});

test('everything belongs to the image, and what is linked to the file that it is in', () => {
  const { relationships } = sbomOf(about, contents);
  expect(relationships.map(({ spdxElementId, relationshipType }) => `${spdxElementId} ${relationshipType}`)).toEqual([
    'SPDXRef-DOCUMENT DESCRIBES',
    'SPDXRef-Image-ovpn-operator-0.1.0 CONTAINS',
    'SPDXRef-Image-ovpn-operator-0.1.0 CONTAINS',
    'SPDXRef-Image-ovpn-operator-0.1.0 CONTAINS',
    'SPDXRef-CNI-ovpn-cni-0.1.0 STATIC_LINK',
  ]);
});

test('other contents are another document', () => {
  const one = sbomOf(about, contents);
  const other = sbomOf(about, { ...contents, linked: [{ name: 'libquickjs', version: '2025.04.26-2' }] });
  expect(one).toEqual(sbomOf(about, contents));
  expect(one.documentNamespace).not.toBe(other.documentNamespace);
});
