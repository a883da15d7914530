import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Attr, Command, KeyconfAttr } from '../../operator/src/kernel/ovpn/uapi.ts';
import { keyPair, type Namespace, rawRequest, refusal, Scene } from './support.ts';

let scene: Scene;
let ns: Namespace;
let device: number;
const peerId = 1;

beforeEach(() => {
  scene = new Scene();
  ns = scene.namespace();
  device = ns.device('p2p');
  const { fd } = scene.udp(ns);
  ns.ovpn.send(
    ns.ovpn.requests.peerNew(device, { id: peerId, socket: fd, remote: { address: '127.0.0.1', port: 1194 } }),
  );
});
afterEach(async () => {
  await scene.close();
});

const keyNew = (options: Parameters<typeof keyPair>[0], peer = peerId): ReturnType<typeof ns.ovpn.requests.keyNew> =>
  ns.ovpn.requests.keyNew(device, { peerId: peer, ...keyPair(options).here });
const install = (options: Parameters<typeof keyPair>[0]): void => {
  ns.ovpn.send(keyNew(options));
};
const slots = (): (number | undefined)[] =>
  (['primary', 'secondary'] as const).map((slot) => ns.ovpn.getKey(device, peerId, slot)?.keyId);

describe('KEY_NEW', () => {
  test.each([
    ['AES-GCM', 16],
    ['AES-GCM', 24],
    ['AES-GCM', 32],
    ['CHACHA20-POLY1305', 32],
  ] as const)('takes %s with %i bytes, and KEY_GET tells all but the key', (cipher, bytes) => {
    install({ cipher, bytes, keyId: 5, slot: 'secondary' });
    expect(ns.ovpn.getKey(device, peerId, 'secondary')).toStrictEqual({ peerId, slot: 'secondary', keyId: 5, cipher });
    expect(ns.ovpn.getKey(device, peerId, 'primary')).toBeUndefined();
  });

  test.each([
    ['AES-GCM with 20 bytes', { bytes: 20 }, 'EINVAL'],
    ['ChaCha20-Poly1305 with 16 bytes', { bytes: 16, cipher: 'CHACHA20-POLY1305' as const }, 'EINVAL'],
    ['a key of 257 bytes', { bytes: 257 }, 'ERANGE'],
    ['no cipher', { cipher: 'none' as const }, 'EINVAL'],
    ['key id 8', { keyId: 8 }, 'ERANGE'],
  ])('refuses %s', (_name, options, code) => {
    expect(refusal(ns, keyNew(options)).code).toBe(code);
    expect(slots()).toStrictEqual([undefined, undefined]);
  });

  test('refuses a nonce tail that is not 8 bytes', () => {
    const { here } = keyPair();
    for (const bytes of [7, 9]) {
      const encrypt = { ...here.encrypt, nonceTail: Buffer.alloc(bytes) };
      const error = refusal(ns, ns.ovpn.requests.keyNew(device, { peerId, ...here, encrypt }));
      expect(['EINVAL', 'ERANGE']).toContain(error.code);
    }
  });

  test('refuses a peer that is not there', () => {
    expect(refusal(ns, keyNew({}, 99)).code).toBe('ENOENT');
  });

  test('names the attribute that is missing', () => {
    const request = rawRequest(ns, Command.KeyNew, (writer) => {
      writer.u32(Attr.Ifindex, device);
      writer.nest(Attr.Keyconf, () => {
        writer.u32(KeyconfAttr.PeerId, peerId);
        writer.u32(KeyconfAttr.Slot, 0);
      });
    });
    expect(refusal(ns, request)).toMatchObject({ code: 'EINVAL', missing: KeyconfAttr.KeyId });
  });

  test('replaces the key of a slot, and does not mind equal ids in both', () => {
    install({ keyId: 1 });
    install({ keyId: 1, slot: 'secondary' });
    install({ keyId: 2 });
    expect(slots()).toStrictEqual([2, 1]);
  });
});

describe('KEY_SWAP', () => {
  test('exchanges the slots', () => {
    install({ keyId: 1 });
    install({ keyId: 2, slot: 'secondary' });
    ns.ovpn.send(ns.ovpn.requests.keySwap(device, peerId));
    expect(slots()).toStrictEqual([2, 1]);
  });

  test('succeeds with an empty secondary slot, and leaves nothing to send with', () => {
    install({ keyId: 1 });
    ns.ovpn.send(ns.ovpn.requests.keySwap(device, peerId));
    expect(slots()).toStrictEqual([undefined, 1]);
  });

  test('refuses a peer that is not there', () => {
    expect(refusal(ns, ns.ovpn.requests.keySwap(device, 99)).code).toBe('ENOENT');
  });
});

describe('KEY_DEL', () => {
  test('empties one slot, and an empty slot is no error', () => {
    install({ keyId: 1 });
    install({ keyId: 2, slot: 'secondary' });
    ns.ovpn.send(ns.ovpn.requests.keyDel(device, peerId, 'primary'));
    expect(slots()).toStrictEqual([undefined, 2]);
    ns.ovpn.send(ns.ovpn.requests.keyDel(device, peerId, 'primary'));
    expect(refusal(ns, ns.ovpn.requests.keyDel(device, 99, 'primary')).code).toBe('ENOENT');
  });
});

describe('KEY_GET', () => {
  test('tells the keys of many peers at once; a missing peer has none', () => {
    install({ keyId: 1 });
    install({ keyId: 2, slot: 'secondary' });
    const keys = ns.ovpn.getKeys(device, [peerId, 99]);
    expect(keys.get(peerId)?.map(({ slot, keyId }) => [slot, keyId])).toStrictEqual([
      ['primary', 1],
      ['secondary', 2],
    ]);
    expect(keys.get(99)).toStrictEqual([]);
    expect(ns.ovpn.getKey(device, 99, 'primary')).toBeUndefined();
  });
});
