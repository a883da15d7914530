import { expect, test } from '@jest/globals';
import { pemBlocks } from './pem.ts';

const begin = '-----BEGIN CERTIFICATE-----';
const end = '-----END CERTIFICATE-----';
const found = (text: string): string[] => pemBlocks(text, 'CERTIFICATE').map(({ der }) => der.toString('latin1'));

test.each([
  ['one, with words around it', `a\n${begin}\nYWJj\n${end}\nb`, ['abc']],
  ['two', `${begin}\nYWJj\n${end}\n${begin}\r\nZGVm\r\n${end}\r\n`, ['abc', 'def']],
  ['no other label', `-----BEGIN X509 CRL-----\nYWJj\n-----END X509 CRL-----`, []],
  ['none without an end', `${begin}\nYWJj\n`, []],
  ['none without a beginning', `YWJj\n${end}`, []],
  ['of two beginnings the one that ends', `${begin}\nYWJj\n${begin}\nZGVm\n${end}`, ['def']],
  ['none that is not base64, and the next one', `${begin}\na:b\n${end}\n${begin}\nYWJj\n${end}`, ['abc']],
  ['nothing in nothing', '', []],
])('%s', (_, text, expected) => {
  expect(found(text)).toEqual(expected);
});

test('a block is told with its own lines', () => {
  expect(pemBlocks(`x\n${begin}\nYWJj\n${end}\ny`, 'CERTIFICATE')[0]!.text).toBe(`${begin}\nYWJj\n${end}`);
});

test.each([['-----BEGIN '], [begin], [`${begin}\nAAAA`], [`${begin}\n${end}`], [end], [`${begin}-`]])(
  'a MiB of %j takes no time',
  (piece) => {
    const text = piece.repeat(2 ** 20 / piece.length);
    const before = process.cpuUsage();
    found(text);
    expect(process.cpuUsage(before).user).toBeLessThan(2_000_000);
  },
);
