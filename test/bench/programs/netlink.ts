/**
 * Our side of the netlink suite: the same command line, work and output as reference/ovpn-netlink.c, by the
 * modules that the agent uses. See there.
 */
import { randomBytes } from 'node:crypto';
import { expectOk, peerNumber, remoteOf } from '../peers.ts';
import { peakKiB } from '../peak.ts';
import { OvpnFamily } from '../../../operator/src/kernel/ovpn/family.ts';
import type { KeyDirection, NewKey, NewPeer } from '../../../operator/src/kernel/ovpn/codec.ts';

const [mode = '', ...numbers] = process.argv.slice(2);
const [ifindex = 0, count = 0, last = 0] = numbers.map(Number);
const ovpn = OvpnFamily.open();

/** Nanoseconds that an action takes. */
function timed(act: () => void): number {
  const start = process.hrtime.bigint();
  act();
  return Number(process.hrtime.bigint() - start);
}

const direction = (): KeyDirection => ({ cipherKey: randomBytes(32), nonceTail: randomBytes(8) });

function load(): { peerNew: number; keyNew: number } {
  const ids = Array.from({ length: count }, (_, i) => i + 1);
  const peers = ids.map((id): NewPeer => ({ ...peerNumber(id), socket: 3 }));
  const keys = ids.map((peerId): NewKey => {
    return { peerId, slot: 'primary', keyId: 1, cipher: 'AES-GCM', encrypt: direction(), decrypt: direction() };
  });
  return {
    peerNew: timed(() => expectOk(ovpn.batch(peers.map((peer) => ovpn.requests.peerNew(ifindex, peer))))),
    keyNew: timed(() => expectOk(ovpn.batch(keys.map((key) => ovpn.requests.keyNew(ifindex, key))))),
  };
}

function read(): { dump: number[]; keyGet: number[]; peers: number; keys: number } {
  const result = { dump: [] as number[], keyGet: [] as number[], peers: 0, keys: 0 };
  for (let i = 0; i < last; i++) {
    let ids: number[] = [];
    result.dump.push(timed(() => (ids = ovpn.dumpPeers(ifindex).map(({ id }) => id))));
    result.peers = ids.length;
    result.keys = 0;
    result.keyGet.push(
      timed(() => {
        for (const keys of ovpn.getKeys(ifindex, ids).values()) result.keys += keys.length;
      }),
    );
  }
  return result;
}

if (mode === 'set') {
  ovpn.send(ovpn.requests.peerSet(ifindex, { id: count, remote: { ...remoteOf(count), port: last } }));
  process.stdout.write('{}\n');
} else {
  const written = mode === 'load' ? load() : { peerNew: 0, keyNew: 0 };
  const result = { ...written, ...read(), peakKiB: peakKiB() };
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
