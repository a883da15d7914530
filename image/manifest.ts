/** The image itself: one for each architecture with its bill of materials, and the index over them. */
import { nodeOptions } from '../scripts/bundle.ts';
import { mediaTypes, type Architecture, type Descriptor, type Layer, type Layout } from './oci.ts';

/** What is known of the image as a whole. */
export interface About {
  /** As `name:tag`; containerd imports the image by it. */
  readonly reference: string;
  readonly version: string;
  /** When what it was built from was made, RFC 3339. */
  readonly created: string;
  /** The annotations of every manifest, and labels of every config. */
  readonly annotations: Readonly<Record<string, string>>;
}

/** An image of one architecture. */
export interface PlatformImage {
  readonly manifest: Descriptor;
  readonly sbom: Descriptor;
}

/**
 * By which podman takes this image and not one beside it that is compressed by gzip:
 * https://github.com/containers/image/blob/v5.34.2/internal/manifest/oci_index.go
 */
const zstdMark = 'io.github.containers.compression.zstd';

/** Whom processes run as unless somebody says otherwise: nobody. */
export const user = '65532:65532';

/** Adds the image of one architecture: https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md */
export async function addImage(
  layout: Layout,
  about: About,
  architecture: Architecture,
  layers: readonly Layer[],
  sbom: object,
): Promise<PlatformImage> {
  const { created, annotations } = about;
  const config = await layout.addJson(mediaTypes.config, {
    created,
    architecture,
    os: 'linux',
    config: {
      User: user,
      Env: ['PATH=/usr/local/bin:/usr/bin', `NODE_OPTIONS=${nodeOptions}`],
      Cmd: ['ovpn-agent', '--help'],
      WorkingDir: '/',
      Labels: annotations,
    },
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(({ createdBy }) => ({ created, created_by: createdBy })),
  });
  const manifest = await layout.addJson(mediaTypes.manifest, {
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    config,
    layers: layers.map(({ descriptor }) => descriptor),
    annotations,
  });
  return {
    manifest: { ...manifest, annotations: { [zstdMark]: 'true' }, platform: { architecture, os: 'linux' } },
    sbom: await addReferrer(layout, manifest, 'application/spdx+json', sbom, created),
  };
}

/**
 * A document that belongs to a manifest. It stands in the same index, so whoever copies the index copies it, and a
 * registry lists it as a referrer of its subject. Its platform keeps it from being taken for something that runs.
 * https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidelines-for-artifact-usage
 */
async function addReferrer(
  layout: Layout,
  subject: Descriptor,
  artifactType: string,
  document: object,
  created: string,
): Promise<Descriptor> {
  const manifest = await layout.addJson(mediaTypes.manifest, {
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    artifactType,
    config: await layout.addJson(mediaTypes.empty, {}),
    layers: [await layout.addJson(artifactType, document)],
    subject,
    annotations: { 'org.opencontainers.image.created': created },
  });
  return { ...manifest, platform: { architecture: 'unknown', os: 'unknown' }, artifactType };
}

/**
 * Ends the layout with an index over the images; resolves with its descriptor, whose digest names all of this.
 *
 * skopeo and podman write an index anew when they copy it, and its digest stays only if that gives the same bytes: fields
 * in the order of the Go structures, annotations by their names, and theirs beside each image with zstd.
 * https://github.com/opencontainers/image-spec/blob/v1.1.1/specs-go/v1/descriptor.go
 */
export async function addIndex(layout: Layout, about: About, images: readonly PlatformImage[]): Promise<Descriptor> {
  const index = await layout.addJson(mediaTypes.index, {
    schemaVersion: 2,
    mediaType: mediaTypes.index,
    manifests: [...images.map(({ manifest }) => manifest), ...images.map(({ sbom }) => sbom)],
    annotations: Object.fromEntries(Object.entries(about.annotations).sort(([a], [b]) => (a < b ? -1 : 1))),
  });
  // Which names an import gives it: https://github.com/containerd/containerd/blob/v2.4.2/core/images/annotations.go
  const names = {
    'io.containerd.image.name': about.reference,
    'org.opencontainers.image.ref.name': about.version,
  };
  await layout.finish({ ...index, annotations: names });
  return index;
}
