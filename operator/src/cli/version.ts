import manifest from '../../package.json' with { type: 'json' };

/** The version of the operator: what `--version` prints, and what its image is tagged with. */
export const version = manifest.version;
