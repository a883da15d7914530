import { generateKeyPairSync } from 'node:crypto';
import { expect, test } from '@jest/globals';
import { Canaries } from '../../../test/support/canaries.ts';
import { parseManifests } from '../api/parse.ts';
import { newStaticKey } from '../../../test/support/manifests.ts';

/** Complaints about manifests go into logs, Events and status: whatever is wrong with a Secret, they must not show it. */

const pem = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({
  type: 'pkcs8',
  format: 'pem',
});
const staticKey = newStaticKey();
const canaries = new Canaries();
// All of the file but the name of the algorithm in front.
canaries.plant('the PEM', Buffer.from(pem.replaceAll(/-----.*|\s/g, ''), 'base64').subarray(32));
canaries.plant('the text of the PEM', Buffer.from(pem.slice(80, -30)));
canaries.plantBlock('the static key', staticKey);

const secretWith = (rest: string, metadata = 'metadata: {name: office, namespace: team-a}'): string =>
  `apiVersion: v1\nkind: Secret\n${metadata}\n${rest}\n`;
const indented = (text: string, by: number): string => text.replaceAll(/^/gm, ' '.repeat(by));

/** What happens to a key between an editor and a manifest. */
const mishaps: Readonly<Record<string, (key: string, base64: string) => string>> = {
  'not indented': (key) => secretWith(`stringData:\n  key: |\n${key}`),
  'indented by too little': (key) => secretWith(`stringData:\n  key: |\n${indented(key, 1)}`),
  'with a line that is not indented': (key) =>
    secretWith(`stringData:\n  key: |\n${indented(key, 4).replaceAll(/^ +(?=[^-]{20})/gm, '')}`),
  'without a bar': (key) => secretWith(`stringData:\n  key: ${key}`),
  'behind the bar': (_key, base64) => secretWith(`data:\n  key: |${base64}`),
  'behind the angle': (_key, base64) => secretWith(`data:\n  key: >${base64}`),
  'in quotes without an end': (key) => secretWith(`stringData:\n  key: "${key}`),
  'in quotes with something behind': (_key, base64) => secretWith(`data:\n  key: "x" ${base64}`),
  'behind a wrong escape': (_key, base64) => secretWith(`data:\n  key: "\\${base64}"`),
  'as an alias': (_key, base64) => secretWith(`data:\n  key: *${base64}`),
  'as a tag': (_key, base64) => secretWith(`data:\n  key: !${base64} x`),
  'as a directive': (_key, base64) => `%${base64}\n---\n${secretWith('')}`,
  'behind a sign that YAML keeps for itself': (_key, base64) => secretWith(`data:\n  key: @${base64}`),
  'behind a bracket': (_key, base64) => secretWith(`data:\n  key: ]${base64}`),
  'as a list': (_key, base64) => secretWith(`data:\n  key: [${base64}]`),
  'as all of data': (_key, base64) => secretWith(`data: ${base64}`),
  'in an object': (key) => secretWith(`stringData:\n  key:\n    inner: ${JSON.stringify(key)}`),
  'as base64 with a mistake': (_key, base64) => secretWith(`data:\n  key: "${base64}!"`),
  'as a name of an entry': (_key, base64) => secretWith(`stringData:\n  ? ${base64}\n  : x`),
  'as a field of the Secret': (_key, base64) => secretWith(`? ${base64}\n: x`),
  'as a name': (_key, base64) => secretWith('', `metadata: {name: "${base64}"}`),
  'as a short name': (_key, base64) => secretWith('', `metadata: {name: "${base64.slice(100, 300)}"}`),
  'as a namespace': (_key, base64) => secretWith('', `metadata: {name: a, namespace: "${base64}"}`),
  'as a kind': (_key, base64) => `apiVersion: v1\nkind: ${base64}`,
  'as a version': (key) => `apiVersion: ${JSON.stringify(key)}\nkind: Secret`,
  twice: (_key, base64) => secretWith(`data:\n  key: ${base64}\n  key: ${base64}`),
  'alone in the file': (key) => key,
  'alone in the file, in base64': (_key, base64) => base64,
  'behind what is JSON': (_key, base64) => `{"apiVersion":"v1","kind":"Secret"}}${base64}`,
  'in a VpnKey': (key) =>
    `apiVersion: ovpn-operator.io/v1alpha1\nkind: VpnKey\nmetadata: {name: a, namespace: b}\nspec: {static: ${JSON.stringify(key)}}`,
  'as the reference in a VpnKey': (key) =>
    `apiVersion: ovpn-operator.io/v1alpha1\nkind: VpnKey\nmetadata: {name: a, namespace: b}\n` +
    `spec: {tls: {secretRef: {name: ${JSON.stringify(key)}}}}`,
};

test.each(Object.keys(mishaps))('a key %s is not shown', (mishap) => {
  for (const key of [pem, staticKey]) {
    const text = mishaps[mishap]?.(key, Buffer.from(key).toString('base64')) ?? '';
    const { resources, rejections } = parseManifests(text, 'secret.yaml', { defaultNamespace: 'default' });
    // Some of it is no mistake at all.
    expect(resources.length + rejections.length).toBeGreaterThan(0);
    const told = JSON.stringify(rejections.map(({ ref, origin, errors }) => [ref, origin, errors.map(String)]));
    expect({ told, shown: canaries.findIn(told) }).toEqual({ told, shown: [] });
  }
});
