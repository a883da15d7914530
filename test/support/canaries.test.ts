import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { expect, test } from '@jest/globals';
import { inspect } from 'node:util';
import { stringify } from 'yaml';
import { formatStaticKey } from '../../operator/src/openvpn/static-key.ts';
import { Canaries } from './canaries.ts';

const key = randomBytes(64);
const canaries = new Canaries();
canaries.plant('key', key);
/** 20 of its bytes, behind others. */
const part = Buffer.concat([Buffer.from('x'), key.subarray(21, 41), Buffer.from('yz')]);

test.each<[string, string | Uint8Array]>([
  ['raw', Buffer.concat([Buffer.from('before '), part])],
  ['in hexadecimal', `key=${part.toString('hex')}`],
  [
    'in capital hexadecimal with colons',
    part
      .toString('hex')
      .toUpperCase()
      .replaceAll(/(..)(?=.)/g, '$1:'),
  ],
  ['in base64', `xy${part.toString('base64')}`],
  ['in base64 of another alignment', Buffer.concat([Buffer.from('a'), part]).toString('base64')],
  ['in base64 of a third', Buffer.concat([Buffer.from('ab'), part]).toString('base64')],
  ['in base64 for URLs', part.toString('base64url')],
  ['in lines of base64', part.toString('base64').replaceAll(/(.{7})/g, '$1\r\n')],
  ['in lines inside of JSON', JSON.stringify({ a: part.toString('base64').replaceAll(/(.{7})/g, '$1\n') })],
  ['in JSON inside of JSON', JSON.stringify(JSON.stringify(part.toString('hex').replaceAll(/(.{9})/g, '$1\n')))],
  ['as a Buffer in JSON', JSON.stringify({ part })],
  ['as an array of bytes in JSON', JSON.stringify({ part: new Uint8Array(part) })],
  ['as an array of bytes in indented JSON', JSON.stringify({ part: new Uint8Array(part) }, undefined, 2)],
  ['as Node.js shows a Buffer', inspect(part)],
  ['in YAML', stringify({ a: { b: part.toString('base64') } })],
])('a secret is found %s', (_how, haystack) => {
  expect(canaries.findIn(haystack)).toEqual(['key']);
});

test('what is no secret is not found, nor 15 bytes of one', () => {
  const others = [
    randomBytes(100_000),
    randomBytes(50_000).toString('hex'),
    key.subarray(0, 15),
    key.toString('hex', 0, 15),
  ];
  for (const other of others) expect(canaries.findIn(other)).toEqual([]);
});

test('of a private key in PEM, what is private is found, and not what is public', () => {
  for (const pair of [
    generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    generateKeyPairSync('rsa', { modulusLength: 2048 }),
    generateKeyPairSync('ed25519'),
  ]) {
    const pem = pair.privateKey.export({ type: 'pkcs8', format: 'pem' });
    const hunted = new Canaries();
    hunted.plantPrivateKey('its key', pem);
    expect(hunted.findIn(pem)).toEqual(['its key']);
    expect(hunted.findIn(JSON.stringify({ log: pem }))).toEqual(['its key']);
    const open = pair.publicKey.export({ type: 'spki', format: 'pem' });
    expect(hunted.findIn(open)).toEqual([]);
  }
});

test('of a static key file, one line is enough', () => {
  const hunted = new Canaries();
  const text = formatStaticKey(randomBytes(256));
  hunted.plantBlock('static', text);
  expect(hunted.findIn(`odd line ${JSON.stringify(text.split('\n')[5])}`)).toEqual(['static']);
});
