import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { stringify } from 'yaml';
import { decodeConfig, parseCniVersion, parseConfig } from '../../../cni-plugin/src/config.ts';
import { CniFailure } from '../../../cni-plugin/src/cni-error.ts';
import { parseAttachmentParameters, parseOperation } from '../../../cni-plugin/src/environment.ts';
import { operations } from '../../../cni-plugin/src/versions.ts';
import { parseManifests, parseResource } from '../../../operator/src/api/parse.ts';
import { validitiesOf } from '../../../operator/src/controller/expiry/validity.ts';
import { MalformedMessage, parseMessages } from '../../../operator/src/kernel/netlink/message.ts';
import { parseKey, parsePeer } from '../../../operator/src/kernel/ovpn/codec.ts';
import { crlTimes } from '../../../operator/src/openvpn/tls/crl.ts';
import { pemBlocks } from '../../../operator/src/openvpn/tls/pem.ts';
import { crlPem, testPki } from '../../../operator/src/openvpn/tls/pki.fixture.ts';
import { key, network, newStaticKey, peer, secret } from '../../support/manifests.ts';
import { errors, parsed, require, type Target } from '../target.ts';

/** What people, runtimes and the kernel hand over: resources, CNI calls, certificates' ends, answers to requests. */

const yaml = [
  '- ',
  ': ',
  '\n',
  '  ',
  '&a',
  '*a',
  '<<: *a',
  '|\n',
  '>-\n',
  '!!binary ',
  '? ',
  '---\n',
  '{',
  '}',
  '[',
  '"',
];

export const manifest: Target = {
  name: 'manifest',
  input: 'a file of resources in YAML',
  maxBytes: 8000,
  // The YAML library takes most of it.
  maxMilliseconds: 500,
  words: [...yaml, 'apiVersion', 'kind', 'spec', 'VpnNetwork', 'VpnPeer', 'VpnKey', '10.0.0.0/8', 'fd00::/8', '.inf'],
  run: (input) => {
    const { resources, rejections } = parseManifests(input.toString('utf8'), 'input.yaml');
    for (const { errors: problems } of rejections) require(problems.length > 0, 'a rejection without a reason');
    for (const { resource } of resources) {
      if (!('spec' in resource)) continue;
      const again = parseResource(JSON.parse(JSON.stringify(resource)), 'again');
      require(again.ok, 'a resource in normal form is refused');
      require(isDeepStrictEqual(again.resource, resource), 'the normal form has a normal form of its own');
    }
  },
  seeds: () => {
    const endpoint = { address: '192.0.2.9', port: 1194 };
    return {
      network: Buffer.from(network({ node: 'a', addresses: ['10.80.0.1'], podBlocks: ['10.81.0.0/24'] })),
      peer: Buffer.from(peer({ name: 'p', peerID: 7, endpoint, addresses: ['10.80.0.2'], routes: ['192.168.1.0/24'] })),
      key: Buffer.from(`${key({ name: 'p', direction: 'Normal' })}---\n${secret('p', newStaticKey())}`),
      list: Buffer.from(
        stringify({ apiVersion: 'v1', kind: 'List', items: [{ apiVersion: 'v1', kind: 'Pod' }, null] }),
      ),
      aliases: Buffer.from(`a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c, *c]\n`),
    };
  },
};

export const cniCall: Target = {
  name: 'cni-call',
  input: "the runtime's call of the CNI plugin: CNI_* variables as lines, an empty line, the configuration",
  maxBytes: 20_000,
  words: [
    ...[
      '{',
      '}',
      '[',
      ']',
      '"',
      ':',
      ',',
      'null',
      '__proto__',
      '\\u0000',
      '\n\n',
      'CNI_COMMAND=',
      'CNI_ARGS=',
      ';',
      '=',
    ],
    ...['"cniVersion"', '"prevResult"', '"runtimeConfig"', '"ips"', '"mac"', '"cni.dev/valid-attachments"', '"ipam"'],
  ],
  run: (input) => {
    const [head = '', text = ''] = input.toString('utf8').split(/\n\n(.*)/s, 2);
    const env = Object.fromEntries(head.split('\n').map((line) => line.split(/=(.*)/s, 2) as [string, string]));
    const refusals = [errors.OvpnError, CniFailure] as const;
    const operation = parsed(() => parseOperation(env), ...refusals);
    if (operation === 'ADD' || operation === 'DEL' || operation === 'CHECK')
      parsed(() => parseAttachmentParameters(env, operation), ...refusals);
    const config = parsed(() => decodeConfig(text), ...refusals);
    if (config === undefined) return;
    const version = parsed(() => parseCniVersion(config), ...refusals);
    if (version === undefined) return;
    for (const each of operations) parsed(() => parseConfig(config, version, each), ...refusals);
  },
  seeds: () => {
    const variables = ['CNI_COMMAND=ADD', 'CNI_CONTAINERID=c1', 'CNI_IFNAME=vpn0', 'CNI_NETNS=/run/netns/x'];
    const pod = 'CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=1;IgnoreUnknown=1';
    const call = (config: object): Buffer => Buffer.from([...variables, pod, '', JSON.stringify(config)].join('\n'));
    const base = { cniVersion: '1.1.0', name: 'ovpn', type: 'ovpn-cni', network: 'corp' };
    return {
      plain: call(base),
      chained: call({
        ...base,
        interface: 'vpn0',
        prevResult: { cniVersion: '1.1.0', interfaces: [{ name: 'eth0' }] },
      }),
      static: call({
        ...base,
        runtimeConfig: { ips: ['10.81.0.9/24'], mac: '02:00:00:00:00:01' },
        args: { cni: { ips: ['10.81.0.8'] } },
      }),
      gc: call({ ...base, 'cni.dev/valid-attachments': [{ containerID: 'c1', ifname: 'vpn0' }] }),
    };
  },
};

export const kernelAnswer: Target = {
  name: 'kernel-answer',
  input: "a datagram of the kernel's answers about peers and keys",
  maxBytes: 70_000,
  run: (input) => {
    const messages = parsed(() => parseMessages(input), MalformedMessage) ?? [];
    for (const { payload } of messages) {
      // Behind the header of generic netlink.
      parsed(() => parsePeer(payload.subarray(4)), MalformedMessage);
      parsed(() => parseKey(payload.subarray(4)), MalformedMessage);
    }
  },
  seeds: () => {
    const path = join(import.meta.dirname, '../../fixtures/netlink/ovpn.json');
    const { recorded } = JSON.parse(readFileSync(path, 'utf8')) as {
      recorded: Record<string, { readonly replies?: readonly string[] }>;
    };
    return Object.fromEntries(
      Object.entries(recorded)
        .filter(([name]) => /^(peer|key)Get/.test(name))
        .flatMap(([name, { replies = [] }]) =>
          replies.map((hex, i): [string, Buffer] => [`${name}-${i}`.toLowerCase(), Buffer.from(hex, 'hex')]),
        ),
    );
  },
};

export const materialEnd: Target = {
  name: 'material-end',
  input: 'the PEM file of certificates or CRLs in a Secret, whose ends are told',
  maxBytes: 20_000,
  words: ['-----BEGIN X509 CRL-----', '-----END X509 CRL-----', '-----BEGIN CERTIFICATE-----', '\n', '=', 'AAAA'],
  run: (input) => {
    for (const { notAfter, what } of validitiesOf({ 'tls.crt': input, 'ca.crt': input, 'ca.crl': input })) {
      require(!Number.isNaN(notAfter), `${what} ends at no time`);
    }
    // What is inside of the PEM, too.
    for (const { thisUpdate, nextUpdate } of crlTimes(crlPem(input)))
      require(Number.isFinite(thisUpdate) && Number.isFinite(nextUpdate), 'a CRL ends at no time');
  },
  seeds: () => {
    const pki = testPki();
    try {
      const crl = pki.crl();
      return { certificate: Buffer.from(pki.ca), crl: Buffer.from(crl), der: pemBlocks(crl, 'X509 CRL')[0]!.der };
    } finally {
      pki.remove();
    }
  },
};
