import { openvpnBuilds, wraps } from '../support/openvpn.ts';
import { pairwise, type Row } from '../support/pairwise.ts';

/** What OpenVPN and we can differ in, for each of our roles. */
const factors = {
  transport: ['UDP', 'TCP'],
  family: [4, 6],
  wrap: wraps,
  cipher: ['AES-128-GCM', 'AES-256-GCM', 'CHACHA20-POLY1305'],
  tls: ['1.2', '1.3'],
  build: openvpnBuilds,
} as const;

export type Case = Row<typeof factors>;

/** Every two values of two properties meet in one of these. */
export const cases: readonly (readonly [string, Case])[] = pairwise(factors).map((row) => {
  const { transport, family, wrap, cipher, tls, build } = row;
  return [`${transport} over IPv${family}, ${wrap}, ${cipher}, TLS ${tls}, ${build.name}`, row] as const;
});

/** The options by which stock OpenVPN speaks just this version of TLS. */
export const tlsOptions = (tls: Case['tls']): string[] => [
  `tls-version-min ${tls}`,
  ...(tls === '1.2' ? ['tls-version-max 1.2'] : []),
];
