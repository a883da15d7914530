import { describe, expect, test } from '@jest/globals';
import type { AgentReply, AgentRequest, Attachment } from '@ovpn-operator/operator/attach-protocol';
import { protocolVersion } from '@ovpn-operator/operator/attach-protocol';
import { type ErrorName, OvpnError, errorTable } from '@ovpn-operator/operator/errors';
import fc from 'fast-check';
import { runPlugin } from './skeleton.ts';
import type { Host } from './host.ts';
import { supportedVersions } from './versions.ts';

const attachment: Attachment = {
  containerId: 'abc123',
  ifname: 'vpn0',
  network: 'office',
  netns: '/run/netns/pod',
  mac: '02:00:00:00:00:02',
  mtu: 1400,
  hostInterface: { name: 'pod1', mac: '02:00:00:00:00:01', netns: '/run/netns/ovpn-office' },
  addresses: [
    { address: '10.81.1.5/32', gateway: '10.81.1.1' },
    { address: 'fd81::5/128', gateway: 'fd81::1' },
  ],
  routes: [
    { dst: '192.168.10.0/24', gw: '10.81.1.1', mtu: 1380 },
    { dst: 'fd10::/64', gw: 'fd81::1' },
  ],
};

const addEnv = {
  CNI_COMMAND: 'ADD',
  CNI_CONTAINERID: 'abc123',
  CNI_NETNS: '/run/netns/pod',
  CNI_IFNAME: 'vpn0',
  CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=6f1c;X=1',
  CNI_PATH: '/opt/cni/bin',
};
const config = { cniVersion: '1.0.0', name: 'vpn', type: 'ovpn-cni', network: 'office' };
/** The agent chooses. */
const chosen = { ...config, network: undefined };

interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly output: Record<string, unknown> | undefined;
  readonly requests: readonly AgentRequest[];
}

/** An error as the host throws it. */
function coded(code: string, phase?: string): Error {
  return Object.assign(new Error(code), { code, phase });
}

function refusal(name: ErrorName, retry = false): AgentReply<never> {
  const { code, message } = new OvpnError(name, 'no address left', { object: 'VpnNetwork office' });
  return { ok: false, error: { name, code, message, retry } };
}

const answerAll = (request: AgentRequest): unknown => {
  switch (request.op) {
    case 'add':
      return { attachments: [{ ...attachment, containerId: request.containerId, ifname: request.ifname }] };
    case 'status':
      return { state: 'ready' };
    default:
      return {};
  }
};

/** Runs the plugin; the agent answers with a result, or with an AgentReply that is a refusal. */
function run(
  env: Record<string, string | undefined>,
  stdin: string | object,
  answer: (request: AgentRequest) => unknown = answerAll,
  given: Partial<Host> = {},
): Run {
  const requests: AgentRequest[] = [];
  let stdout = '';
  const host: Host = {
    env,
    isTerminal: false,
    readStdin: () => (typeof stdin === 'string' ? stdin : JSON.stringify(stdin)),
    write: (fd, text) => (stdout += fd === 1 ? text : ''),
    exchange: (_path, line) => {
      const request = JSON.parse(line) as AgentRequest;
      requests.push(request);
      const result = answer(request);
      const isReply = typeof result === 'object' && result !== null && 'ok' in result;
      return JSON.stringify(isReply ? result : { ok: true, result });
    },
    isExecutable: () => false,
    execute: () => {
      throw coded('ENOENT');
    },
    writeFile: () => undefined,
    ...given,
  };
  const code = runPlugin(host);
  return {
    code,
    stdout,
    output: stdout === '' ? undefined : (JSON.parse(stdout) as Record<string, unknown>),
    requests,
  };
}

describe('VERSION', () => {
  test.each([
    ['no input', '', '1.1.0'],
    ['the version of the input', '{"cniVersion":"0.4.0"}', '0.4.0'],
    ['a version nobody knows yet', '{"cniVersion":"2.7.0"}', '2.7.0'],
    ['an object without a version', '{}', '1.1.0'],
  ])('answers %s', (_name, stdin, cniVersion) => {
    const { code, output } = run({ CNI_COMMAND: 'VERSION' }, stdin);
    expect({ code, output }).toEqual({ code: 0, output: { cniVersion, supportedVersions: [...supportedVersions] } });
  });

  test('lists every version from 0.3.0 on', () => {
    expect(supportedVersions).toEqual(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0']);
  });
});

describe('environment', () => {
  test.each<[string, Record<string, string | undefined>, string]>([
    ['no command', { CNI_COMMAND: undefined }, 'CNI_COMMAND'],
    ['a command nobody knows', { CNI_COMMAND: 'GET' }, 'CNI_COMMAND'],
    ['a command in lower case', { CNI_COMMAND: 'add' }, 'CNI_COMMAND'],
    ['no container id', { CNI_CONTAINERID: '' }, 'CNI_CONTAINERID'],
    ['several missing', { CNI_CONTAINERID: undefined, CNI_IFNAME: undefined }, 'CNI_CONTAINERID, CNI_IFNAME'],
    ['a container id with a slash', { CNI_CONTAINERID: '../x' }, 'CNI_CONTAINERID'],
    ['a container id that is too long', { CNI_CONTAINERID: 'a'.repeat(257) }, 'CNI_CONTAINERID'],
    ['no netns', { CNI_NETNS: undefined }, 'CNI_NETNS'],
    ['a relative netns', { CNI_NETNS: 'netns/pod' }, 'CNI_NETNS'],
    ['no interface', { CNI_IFNAME: '' }, 'CNI_IFNAME'],
    ['an interface of 16 bytes', { CNI_IFNAME: 'a'.repeat(16) }, 'CNI_IFNAME'],
    ['an interface of 16 bytes in 8 characters', { CNI_IFNAME: 'ä'.repeat(8) }, 'CNI_IFNAME'],
    ['an interface with a slash', { CNI_IFNAME: 'a/b' }, 'CNI_IFNAME'],
    ['an interface with a space', { CNI_IFNAME: 'a b' }, 'CNI_IFNAME'],
    ['an interface with a colon', { CNI_IFNAME: 'a:b' }, 'CNI_IFNAME'],
    ['an interface "."', { CNI_IFNAME: '.' }, 'CNI_IFNAME'],
    ['an interface ".."', { CNI_IFNAME: '..' }, 'CNI_IFNAME'],
    ['arguments that are no pairs', { CNI_ARGS: 'K8S_POD_NAME' }, 'CNI_ARGS'],
    ['unknown arguments', { CNI_ARGS: 'FOO=1' }, 'CNI_ARGS'],
    ['IgnoreUnknown of another form', { CNI_ARGS: 'IgnoreUnknown=yes' }, 'CNI_ARGS'],
    ['a pod without a namespace', { CNI_ARGS: 'K8S_POD_NAME=web-0' }, 'CNI_ARGS'],
    ['a namespace with a dot', { CNI_ARGS: 'K8S_POD_NAMESPACE=a.b;K8S_POD_NAME=web-0' }, 'CNI_ARGS'],
    ['a pod with an upper-case name', { CNI_ARGS: 'K8S_POD_NAMESPACE=a;K8S_POD_NAME=Web' }, 'CNI_ARGS'],
    ['a UID with a space', { CNI_ARGS: 'K8S_POD_NAMESPACE=a;K8S_POD_NAME=w;K8S_POD_UID=a b' }, 'CNI_ARGS'],
  ])('%s is code 4 and names the variable', (_name, change, variable) => {
    const { code, output, requests } = run({ ...addEnv, ...change }, config);
    expect(code).toBe(1);
    expect(output).toMatchObject({
      code: 4,
      msg: expect.stringContaining(variable),
      details: expect.stringContaining('OVPN502'),
    });
    expect(requests).toEqual([]);
  });

  test.each(['vpn0', 'a', 'a'.repeat(15), 'ä'.repeat(7), 'eth0.100', '-'])('interface %s is taken', (ifname) => {
    const { requests } = run({ ...addEnv, CNI_IFNAME: ifname }, config);
    expect(requests).toMatchObject([{ ifname }]);
  });

  test.each([
    ['', undefined],
    ['FOO=1;IgnoreUnknown=true', undefined],
    ['K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;', { namespace: 'a', name: 'b' }],
    ['K8S_POD_NAMESPACE=a;K8S_POD_NAME=b.c;K8S_POD_UID=;K8S_POD_INFRA_CONTAINER_ID=x', { namespace: 'a', name: 'b.c' }],
  ])('CNI_ARGS %j', (CNI_ARGS, pod) => {
    const { requests } = run({ ...addEnv, CNI_ARGS }, config);
    expect((requests[0] as { pod?: unknown }).pod).toEqual(pod);
  });
});

describe('configuration', () => {
  test.each<[string, string | object, number, string]>([
    ['empty', '', 6, 'empty'],
    ['not JSON', '{', 6, 'JSON'],
    ['an array', '[]', 6, 'object'],
    ['null', 'null', 6, 'object'],
    ['no version', { ...config, cniVersion: undefined }, 1, '0.1.0'],
    ['an old version', { ...config, cniVersion: '0.2.0' }, 1, '0.2.0'],
    ['a future version', { ...config, cniVersion: '1.2.0' }, 1, '1.2.0'],
    ['a version that is an object key', { ...config, cniVersion: 'constructor' }, 1, 'constructor'],
    ['a version that is a number', { ...config, cniVersion: 1 }, 7, 'cniVersion'],
    ['no name', { ...config, name: undefined }, 7, 'name'],
    ['a name with a slash', { ...config, name: 'a/b' }, 7, 'name'],
    ['no type', { ...config, type: undefined }, 7, 'type'],
    ['an empty network', { ...config, network: '' }, 7, 'network'],
    ['addresses without a network', { ...chosen, runtimeConfig: { ips: ['10.81.1.9'] } }, 7, 'network'],
    ['a MAC without a network', { ...chosen, args: { cni: { mac: '02:00:00:00:00:07' } } }, 7, 'network'],
    ['an IPAM plugin without a network', { ...chosen, ipam: { type: 'host-local' } }, 7, 'network'],
    ['an address that is none', { ...config, runtimeConfig: { ips: ['10.81.1'] } }, 7, 'runtimeConfig.ips[0]'],
    ['a prefix that is none', { ...config, args: { cni: { ips: ['10.81.1.9/x'] } } }, 7, 'args.cni.ips[0]'],
    ['two addresses of a family', { ...config, runtimeConfig: { ips: ['10.0.0.1', '10.0.0.2'] } }, 7, 'ips'],
    ['a MAC that is none', { ...config, runtimeConfig: { mac: '02' } }, 7, 'runtimeConfig.mac'],
    ['ipam without a type', { ...config, ipam: { subnet: '10.0.0.0/24' } }, 7, 'ipam.type'],
    ['an IPAM plugin with a path', { ...config, ipam: { type: '../host-local' } }, 7, 'ipam.type'],
    ['a network that is a number', { ...config, network: 7 }, 7, 'network'],
    ['a network that is no name', { ...config, network: 'Office' }, 7, 'network'],
    ['a network with an empty label', { ...config, network: 'a..b' }, 7, 'network'],
    ['a relative socket', { ...config, agentSocket: 'agent.sock' }, 7, 'agentSocket'],
    ['a socket that is too long', { ...config, agentSocket: `/${'a'.repeat(107)}` }, 7, 'agentSocket'],
    ['an interface of 16 bytes', { ...config, interface: 'a'.repeat(16) }, 7, 'interface'],
    ['runtimeConfig that is a list', { ...config, runtimeConfig: [] }, 7, 'runtimeConfig'],
    ['dns', { ...config, dns: { nameservers: ['10.0.0.1'] } }, 2, 'dns'],
    ['ipMasq', { ...config, ipMasq: true }, 2, 'ipMasq: unsupported field with value "true"'],
    ['ipMasq of a wrong type', { ...config, ipMasq: 'yes' }, 7, 'ipMasq'],
    ['prevResult that is a list', { ...config, prevResult: [] }, 7, 'prevResult'],
    ['prevResult of 0.2.0', { ...config, prevResult: { cniVersion: '0.2.0', ip4: {} } }, 7, 'prevResult.cniVersion'],
    [
      'an index outside of the list',
      { ...config, prevResult: { ips: [{ address: '10.0.0.1/24', interface: 0 }] } },
      7,
      'prevResult.ips[0].interface',
    ],
    [
      'an address without a prefix',
      { ...config, prevResult: { ips: [{ address: '10.0.0.1' }] } },
      7,
      'prevResult.ips[0].address',
    ],
    [
      'a prefix that is too long',
      { ...config, prevResult: { routes: [{ dst: '10.0.0.0/33' }] } },
      7,
      'prevResult.routes[0].dst',
    ],
    [
      'a taken interface',
      { ...config, prevResult: { interfaces: [{ name: 'vpn0', sandbox: '/run/netns/pod' }] } },
      7,
      'interface',
    ],
  ])('%s', (_name, stdin, expected, text) => {
    const { code, output, requests } = run(addEnv, stdin);
    expect({ code, cniCode: output?.['code'] }).toEqual({ code: 1, cniCode: expected });
    expect(output?.['msg']).toContain(text);
    expect(output?.['details']).toContain('OVPN501');
    expect(requests).toEqual([]);
  });

  test('an error carries the version of the configuration', () => {
    const { output } = run(addEnv, { ...config, cniVersion: '0.4.0', name: undefined });
    expect(output).toEqual({
      cniVersion: '0.4.0',
      code: 7,
      msg: 'name: is missing',
      details: 'to mend it: correct the network configuration of the ovpn-cni plugin [OVPN501]',
    });
  });

  test('unknown keys, null and the empty objects of Go programs are taken', () => {
    const { code } = run(addEnv, {
      ...config,
      mine: { deep: [1] },
      ipam: {},
      dns: { nameservers: [], domain: '' },
      ipMasq: false,
      runtimeConfig: { ips: [] },
      prevResult: null,
      agentSocket: null,
      __proto__: { network: 'other' },
    });
    expect(code).toBe(0);
  });

  test.each([
    ['EMSGSIZE', 5, 'more than 4194304 bytes'],
    ['ETIMEDOUT', 5, 'did not end within 10000 ms'],
    ['EIO', 5, 'cannot be read: EIO'],
    ['EILSEQ', 6, 'is not UTF-8'],
  ])('stdin that fails with %s is code %i', (problem, expected, text) => {
    const readStdin = (): never => {
      throw coded(problem);
    };
    const { code, output } = run(addEnv, '', answerAll, { readStdin });
    expect({ code, output }).toMatchObject({ code: 1, output: { code: expected, msg: expect.stringContaining(text) } });
  });
});

describe('ADD', () => {
  test('asks the agent once, with everything it was given', () => {
    const { requests } = run(addEnv, config);
    expect(requests).toEqual([
      {
        version: protocolVersion,
        op: 'add',
        config: 'vpn',
        network: 'office',
        containerId: 'abc123',
        cniIfname: 'vpn0',
        ifname: 'vpn0',
        netns: '/run/netns/pod',
        pod: { namespace: 'shop', name: 'web-0', uid: '6f1c' },
      },
    ]);
  });

  test.each([
    ['another container', { ...attachment, containerId: 'other' }, 'result.attachments[0].containerId'],
    [
      'no address list entry with an address',
      { ...attachment, addresses: [{}] },
      'result.attachments[0].addresses[0].address',
    ],
    [
      'a route without a next hop',
      { ...attachment, routes: [{ dst: '10.0.0.0/8' }] },
      'result.attachments[0].routes[0].gw',
    ],
    ['an MTU that is a text', { ...attachment, mtu: '1400' }, 'result.attachments[0].mtu'],
    ['a MAC that is none', { ...attachment, mac: 'x' }, 'result.attachments[0].mac'],
    ['nothing', undefined, 'result.attachments[0]'],
  ])('a reply with %s is code 402', (_name, given, field) => {
    const { output } = run(addEnv, config, () => ({ attachments: [given] }));
    expect(output).toMatchObject({
      code: 402,
      msg: expect.stringContaining(field),
      details: expect.stringContaining('OVPN402'),
    });
  });

  test('a failure of the agent keeps its text; retry is code 11, else the number of the OVPN code', () => {
    for (const [retry, cniCode] of [
      [false, 505],
      [true, 11],
    ] as const) {
      const { output } = run(addEnv, config, () => refusal('PoolExhausted', retry));
      expect(output).toEqual({
        cniVersion: '1.0.0',
        code: cniCode,
        msg: 'VpnNetwork office: no address left',
        details: 'to mend it: delete unused pods or give the node a larger pod block [OVPN505]',
      });
    }
  });

  test('every error of the table has a code: its own from 100 on, or one of the specification', () => {
    for (const [name, { code }] of Object.entries(errorTable)) {
      const { output } = run(addEnv, config, () => refusal(name as ErrorName));
      const special: Record<string, number> = { CniConfigInvalid: 7, CniEnvironmentInvalid: 4, AgentUnreachable: 11 };
      expect([name, output?.['code']]).toEqual([name, special[name] ?? Number(code.slice(4))]);
    }
  });

  test('static addresses and MAC come by runtimeConfig before args', () => {
    const args = { cni: { ips: ['10.81.1.7'], mac: '02:00:00:00:00:07' } };
    expect(run(addEnv, { ...config, args }).requests).toMatchObject([{ ips: ['10.81.1.7'], mac: '02:00:00:00:00:07' }]);
    const runtimeConfig = { ips: ['10.81.1.9/24', 'fd81::9'], mac: '02:00:00:00:00:09' };
    expect(run(addEnv, { ...config, args, runtimeConfig }).requests).toMatchObject([
      { ips: ['10.81.1.9/24', 'fd81::9'], mac: '02:00:00:00:00:09' },
    ]);
  });

  test('without a network the agent chooses; several interfaces are in one result, after those of others', () => {
    const eth0 = { name: 'eth0', sandbox: '/run/netns/pod' };
    const prevResult = { cniVersion: '1.0.0', interfaces: [eth0], ips: [{ address: '10.1.0.5/16', interface: 0 }] };
    const attachments = [attachment, { ...attachment, ifname: 'vpn1', network: 'lab', addresses: [], routes: [] }];
    const { output, requests } = run({ ...addEnv, CNI_IFNAME: 'eth0' }, { ...chosen, prevResult }, () => ({
      attachments,
    }));
    expect(requests).toMatchObject([{ cniIfname: 'eth0', ifname: 'vpn' }]);
    expect(requests[0]).not.toHaveProperty('network');
    expect(output).toMatchObject({
      interfaces: [{ name: 'eth0' }, { name: 'pod1' }, { name: 'vpn0' }, { name: 'pod1' }, { name: 'vpn1' }],
      ips: [{ interface: 0 }, { interface: 2 }, { interface: 2 }],
    });
  });

  test('a pod without a network passes prevResult through, in the version of the configuration', () => {
    const none = (): unknown => ({ attachments: [] });
    const prevResult = { cniVersion: '1.0.0', interfaces: [], 'other.example/key': { deep: [1] } };
    expect(run(addEnv, { ...chosen, prevResult }, none).output).toEqual(prevResult);
    expect(run(addEnv, { ...chosen, cniVersion: '0.4.0', prevResult }, none).output).toEqual({
      cniVersion: '0.4.0',
      interfaces: [],
      ips: [],
      routes: [],
      dns: {},
    });
    expect(run(addEnv, chosen, none).output).toMatchObject({ cniVersion: '1.0.0', interfaces: [] });
  });

  test('a defect is code 999 without a stack trace', () => {
    const isExecutable = (): never => {
      throw new TypeError('x is not a function');
    };
    const withIpam = { ...config, ipam: { type: 'host-local' } };
    const env = { ...addEnv, CNI_PATH: '/opt/cni/bin' };
    const { stdout, output } = run(env, withIpam, answerAll, { isExecutable });
    expect(output).toMatchObject({ code: 999 });
    expect(stdout).not.toContain('skeleton.ts');
  });
});

describe('the other operations', () => {
  test('DEL needs no netns and no prevResult that can be read, and prints nothing', () => {
    const { code, stdout, requests } = run(
      { ...addEnv, CNI_COMMAND: 'DEL', CNI_NETNS: '' },
      { ...config, prevResult: 'damaged' },
    );
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
    expect(requests).toEqual([
      { version: protocolVersion, op: 'del', config: 'vpn', containerId: 'abc123', cniIfname: 'vpn0' },
    ]);
  });

  test('`interface` names the interface for ADD; DEL goes by what the runtime knows', () => {
    const chained = { ...config, interface: 'vpn7' };
    for (const CNI_COMMAND of ['ADD', 'DEL']) {
      const { requests } = run({ ...addEnv, CNI_COMMAND, CNI_IFNAME: 'eth0' }, chained, () => ({
        ...attachment,
        ifname: 'vpn7',
      }));
      expect(requests).toMatchObject([CNI_COMMAND === 'ADD' ? { ifname: 'vpn7' } : { cniIfname: 'eth0' }]);
    }
  });

  test('STATUS asks the agent about the network', () => {
    const newest = { ...config, cniVersion: '1.1.0' };
    const env = { CNI_COMMAND: 'STATUS' };
    const asked = { version: protocolVersion, op: 'status', network: 'office' };
    expect(run(env, newest)).toMatchObject({ code: 0, stdout: '', requests: [asked] });
    for (const [answer, code, msg] of [
      [{ state: 'unavailable', reason: 'no block' }, 50, 'no block'],
      [{ state: 'limited', reason: 'no peer' }, 51, 'no peer'],
      [refusal('NetworkNotReady', true), 50, 'VpnNetwork office: no address left'],
      [{ state: 'well' }, 50, 'reply of the agent: result.state: must be ready, unavailable or limited'],
    ] as const) {
      expect(run(env, newest, () => answer).output).toMatchObject({ cniVersion: '1.1.0', code, msg });
    }
  });

  test('CHECK hands over what prevResult has in the sandbox', () => {
    const prevResult = run(addEnv, { ...config, cniVersion: '1.1.0' }).output;
    const { code, stdout, requests } = run(
      { ...addEnv, CNI_COMMAND: 'CHECK' },
      { ...config, cniVersion: '1.1.0', prevResult },
    );
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
    expect(requests).toEqual([
      {
        version: protocolVersion,
        op: 'check',
        config: 'vpn',
        network: 'office',
        containerId: 'abc123',
        cniIfname: 'vpn0',
        ifname: 'vpn0',
        netns: '/run/netns/pod',
        expected: [{ ifname: 'vpn0', mac: '02:00:00:00:00:02', mtu: 1400, addresses: ['10.81.1.5/32', 'fd81::5/128'] }],
      },
    ]);
  });

  test('CHECK tells what deviates', () => {
    const { output } = run({ ...addEnv, CNI_COMMAND: 'CHECK' }, { ...config, prevResult: {} }, () =>
      refusal('AttachmentDeviates'),
    );
    expect(output).toMatchObject({ code: 507 });
  });

  test('GC hands over what the runtime lists', () => {
    const valid = [{ containerID: 'abc', ifname: 'eth0' }];
    const listed = { ...config, cniVersion: '1.1.0', 'cni.dev/valid-attachments': valid };
    expect(run({ CNI_COMMAND: 'GC' }, listed)).toMatchObject({
      code: 0,
      stdout: '',
      requests: [{ op: 'gc', config: 'vpn', network: 'office', valid: [{ containerId: 'abc', cniIfname: 'eth0' }] }],
    });
    expect(run({ CNI_COMMAND: 'GC' }, { ...listed, 'cni.dev/valid-attachments': [] })).toMatchObject({
      code: 0,
      requests: [{ valid: [] }],
    });
  });

  test.each<[string, object, number, string]>([
    ['GC', { cniVersion: '1.1.0' }, 7, 'cni.dev/valid-attachments'],
    ['GC', { cniVersion: '1.1.0', 'cni.dev/valid-attachments': {} }, 7, 'cni.dev/valid-attachments'],
    ['GC', { cniVersion: '1.1.0', 'cni.dev/valid-attachments': [{ ifname: 'a' }] }, 7, '[0].containerID'],
    ['CHECK', {}, 7, 'prevResult'],
    ['CHECK', { cniVersion: '0.3.1' }, 1, 'CHECK'],
    ['STATUS', { cniVersion: '1.0.0' }, 1, 'STATUS'],
    ['GC', { cniVersion: '1.0.0' }, 1, 'GC'],
  ])('%s of %j is code %i', (CNI_COMMAND, change, expected, text) => {
    const { code, output, requests } = run({ ...addEnv, CNI_COMMAND }, { ...config, ...change });
    expect({ code, cniCode: output?.['code'] }).toEqual({ code: 1, cniCode: expected });
    expect(output?.['msg']).toContain(text);
    expect(requests).toEqual([]);
  });

  test('DEL is left for an agent that is away, and for no other reason', () => {
    const left: string[][] = [];
    const writeFile = (...file: string[]): unknown => left.push(file);
    const env = { ...addEnv, CNI_COMMAND: 'DEL' };
    const away = { exchange: () => thrown(coded('ECONNREFUSED', 'connect')), writeFile };
    expect(run(env, config, answerAll, away)).toMatchObject({ code: 0, stdout: '' });
    expect(left).toMatchObject([
      ['/run/ovpn-operator/detach', expect.stringMatching(/^abc123-vpn0-vpn-[0-9a-f]{8}\.json$/), expect.anything()],
    ]);
    expect(run(env, config, () => refusal('KernelRefused', true), { writeFile })).toMatchObject({ code: 1 });
    expect(left).toHaveLength(1);
  });
});

function thrown(error: Error): never {
  throw error;
}

/** What stands on stdout after a failed call: exactly the specification's error object. */
function expectErrorObject(output: Record<string, unknown> | undefined): void {
  expect(Object.keys(output ?? {}).sort()).toEqual(['cniVersion', 'code', 'details', 'msg']);
  expect(Number.isInteger(output?.['code'])).toBe(true);
  expect(output?.['code']).not.toBe(999);
  expect(String(output?.['msg'])).not.toMatch(/\n\s+at /);
}

describe('whatever comes in', () => {
  const command = fc.constantFrom('ADD', 'DEL', 'CHECK', 'STATUS', 'GC');

  test('any text on stdin give an error object', () => {
    fc.assert(
      fc.property(command, fc.string({ maxLength: 200 }), (CNI_COMMAND, bytes) => {
        const { code, output } = run({ ...addEnv, CNI_COMMAND }, bytes);
        expect(code).toBe(1);
        expectErrorObject(output);
      }),
    );
  });

  test('any value in any place of the configuration gives a result or an error object', () => {
    const keys = [
      'cniVersion',
      'name',
      'type',
      'network',
      'interface',
      'agentSocket',
      'runtimeConfig',
      'ipam',
      'dns',
      'ipMasq',
      'prevResult',
    ];
    fc.assert(
      fc.property(command, fc.constantFrom(...keys), fc.jsonValue(), (CNI_COMMAND, key, value) => {
        const { code, output } = run({ ...addEnv, CNI_COMMAND }, { ...config, cniVersion: '1.1.0', [key]: value });
        if (code === 1) {
          expectErrorObject(output);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('any prevResult gives a result or an error object', () => {
    const entry = fc.oneof(
      fc.jsonValue(),
      fc.record(
        {
          name: fc.oneof(fc.string(), fc.jsonValue()),
          sandbox: fc.jsonValue(),
          address: fc.oneof(fc.constantFrom('10.0.0.1/24', 'fd00::1/64', '::/129'), fc.jsonValue()),
          dst: fc.oneof(fc.constantFrom('0.0.0.0/0', '::/0'), fc.jsonValue()),
          interface: fc.oneof(fc.nat(3), fc.jsonValue()),
          mtu: fc.oneof(fc.nat(), fc.jsonValue()),
        },
        { requiredKeys: [] },
      ),
    );
    const list = fc.oneof(fc.array(entry, { maxLength: 3 }), fc.jsonValue());
    const prevResult = fc.record(
      { interfaces: list, ips: list, routes: list, dns: fc.jsonValue() },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(prevResult, (value) => {
        const { code, output } = run(addEnv, { ...config, prevResult: value });
        if (code === 1) {
          expectErrorObject(output);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('any environment gives a result or an error object', () => {
    const variable = fc.oneof(
      fc.string(),
      fc.string({ unit: 'binary' }),
      fc.constantFrom('ADD', 'DEL', 'vpn0', '/x', 'A=B;', 'K8S_POD_NAME=x'),
    );
    const env = fc.record(
      {
        CNI_COMMAND: fc.oneof(command, variable),
        CNI_CONTAINERID: variable,
        CNI_NETNS: variable,
        CNI_IFNAME: variable,
        CNI_ARGS: variable,
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(env, (change) => {
        const { code, output } = run({ ...addEnv, ...change }, config);
        if (code === 1) {
          expectErrorObject(output);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('very deep nesting gives an error object or is ignored', () => {
    const deep = '['.repeat(100_000) + ']'.repeat(100_000);
    const text = JSON.stringify(config).slice(0, -1);
    for (const key of ['ipam', 'prevResult', 'network', 'other', 'runtimeConfig']) {
      const { code, output } = run(addEnv, `${text},"${key}":${deep}}`);
      expect([key, code]).toEqual([key, key === 'other' ? 0 : 1]);
      if (code === 1) {
        expectErrorObject(output);
      }
    }
    const { output } = run(addEnv, `${text},"dns":{"nameservers":${deep}}}`);
    expect(output).toMatchObject({ code: 2 });
  });
});
