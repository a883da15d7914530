import { parseStaticKey } from '../../../operator/src/openvpn/static-key.ts';
import { parseClientKey, parseServerKey } from '../../../operator/src/openvpn/wrap/key-file.ts';
import {
  clientKeyFile,
  recorded,
  serverKeyFile,
  tlsAuthKeyFile,
  tlsCryptKeyFile,
} from '../../../operator/src/openvpn/wrap/recorded.fixture.ts';

/** The keys and packets that were recorded of stock OpenVPN. */

export const tlsAuthKey = parseStaticKey(tlsAuthKeyFile, {});
export const tlsCryptKey = parseStaticKey(tlsCryptKeyFile, {});
export const serverKey = parseServerKey(serverKeyFile, {});
export const clientKey = parseClientKey(clientKeyFile, {});

/** Recorded packets whose wrapping begins with this. */
export function recordedPackets(wrap: string): Readonly<Record<string, Buffer>> {
  return Object.fromEntries(
    recorded
      .filter((packet) => packet.wrap.startsWith(wrap))
      .map(({ from, transport, wrap: of, hex }, index) => [
        `${from} ${transport} ${of} ${index}`.toLowerCase().replaceAll(/[^a-z0-9.]+/g, '-'),
        Buffer.from(hex, 'hex'),
      ]),
  );
}
