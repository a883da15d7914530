import { expect, test } from '@jest/globals';
import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { zstdDecompressSync } from 'node:zlib';
import { compress } from './oci.ts';

/** Bytes that neither repeat at once nor are without pattern, the same in every run. */
function sample(length: number): Buffer {
  const blocks: Buffer[] = [];
  for (let i = 0; blocks.length * 32 < length; i++)
    blocks.push(
      createHash('sha256')
        .update(String(Math.trunc(Math.sqrt(i))))
        .digest(),
    );
  return Buffer.concat(blocks).subarray(0, length);
}

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < bytes.length; offset += size) yield bytes.subarray(offset, offset + size);
  // As a disk does: the end becomes known later than the last bytes.
  await setImmediate();
}

test('a layer has one digest, whatever the pieces in which its files were read', async () => {
  const bytes = sample(1_000_000);
  const whole = await compress(inPieces(bytes, bytes.length));
  expect(zstdDecompressSync(whole.compressed)).toEqual(bytes);
  for (const size of [512, 4_097, 65_536, 200_000]) expect(await compress(inPieces(bytes, size))).toEqual(whole);
});
