import { describe, expect, test } from '@jest/globals';
import type { AgentRequest, Attachment } from '@ovpn-operator/operator/attach-protocol';
import { protocolVersion } from '@ovpn-operator/operator/attach-protocol';
import { OvpnError, errorTable } from '@ovpn-operator/operator/errors';
import fc from 'fast-check';
import { CniFailure, agentFailure } from './cni-error.ts';
import { runPlugin } from './skeleton.ts';
import { configBounds, readAll } from './stdin.ts';
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

interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly output: Record<string, unknown> | undefined;
  readonly requests: readonly AgentRequest[];
}

async function run(
  env: Record<string, string | undefined>,
  stdin: string | Uint8Array | object,
  answer: (request: AgentRequest) => unknown = (request) =>
    request.op === 'add' ? { attachments: [attachment] } : null,
): Promise<Run> {
  const requests: AgentRequest[] = [];
  let stdout = '';
  const bytes =
    stdin instanceof Uint8Array ? stdin : Buffer.from(typeof stdin === 'string' ? stdin : JSON.stringify(stdin));
  const code = await runPlugin({
    env,
    stdin: () => Promise.resolve(bytes),
    stdout: (text) => (stdout += text),
    stderr: () => undefined,
    callAgent: (_socketPath, request) => {
      requests.push(request);
      return Promise.resolve().then(() => answer(request));
    },
  });
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
  ])('answers %s', async (_name, stdin, cniVersion) => {
    const { code, output } = await run({ CNI_COMMAND: 'VERSION' }, stdin);
    expect({ code, output }).toEqual({ code: 0, output: { cniVersion, supportedVersions: [...supportedVersions] } });
  });

  test('lists only versions whose operations all work: none with CHECK or GC', () => {
    expect(supportedVersions).toEqual(['0.3.0', '0.3.1']);
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
  ])('%s is code 4 and names the variable', async (_name, change, variable) => {
    const { code, output, requests } = await run({ ...addEnv, ...change }, config);
    expect(code).toBe(1);
    expect(output).toMatchObject({
      code: 4,
      msg: expect.stringContaining(variable),
      details: expect.stringContaining('OVPN502'),
    });
    expect(requests).toEqual([]);
  });

  test.each(['vpn0', 'a', 'a'.repeat(15), 'ä'.repeat(7), 'eth0.100', '-'])('interface %s is taken', async (ifname) => {
    const { requests } = await run({ ...addEnv, CNI_IFNAME: ifname }, config);
    expect(requests).toMatchObject([{ ifname }]);
  });

  test.each([
    ['', undefined],
    ['FOO=1;IgnoreUnknown=true', undefined],
    ['K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;', { namespace: 'a', name: 'b' }],
    ['K8S_POD_NAMESPACE=a;K8S_POD_NAME=b.c;K8S_POD_UID=;K8S_POD_INFRA_CONTAINER_ID=x', { namespace: 'a', name: 'b.c' }],
  ])('CNI_ARGS %j', async (CNI_ARGS, pod) => {
    const { requests } = await run({ ...addEnv, CNI_ARGS }, config);
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
    ['no network', { ...config, network: undefined }, 7, 'network'],
    ['an empty network', { ...config, network: '' }, 7, 'network'],
    ['a network that is a number', { ...config, network: 7 }, 7, 'network'],
    ['a network that is no name', { ...config, network: 'Office' }, 7, 'network'],
    ['a network with an empty label', { ...config, network: 'a..b' }, 7, 'network'],
    ['a relative socket', { ...config, agentSocket: 'agent.sock' }, 7, 'agentSocket'],
    ['a socket that is too long', { ...config, agentSocket: `/${'a'.repeat(107)}` }, 7, 'agentSocket'],
    ['an interface of 16 bytes', { ...config, interface: 'a'.repeat(16) }, 7, 'interface'],
    ['runtimeConfig that is a list', { ...config, runtimeConfig: [] }, 7, 'runtimeConfig'],
    [
      'ipam',
      { ...config, ipam: { type: 'host-local' } },
      2,
      'ipam: unsupported field with value "{\\"type\\":\\"host-local\\"}"',
    ],
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
  ])('%s', async (_name, stdin, expected, text) => {
    const { code, output, requests } = await run(addEnv, stdin);
    expect({ code, cniCode: output?.['code'] }).toEqual({ code: 1, cniCode: expected });
    expect(output?.['msg']).toContain(text);
    expect(output?.['details']).toContain('OVPN501');
    expect(requests).toEqual([]);
  });

  test('an error carries the version of the configuration', async () => {
    const { output } = await run(addEnv, { ...config, cniVersion: '0.4.0', network: undefined });
    expect(output).toEqual({
      cniVersion: '0.4.0',
      code: 7,
      msg: 'network: is missing',
      details: 'to mend it: correct the network configuration of the ovpn-cni plugin [OVPN501]',
    });
  });

  test('unknown keys, null and the empty objects of Go programs are taken', async () => {
    const { code } = await run(addEnv, {
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

  test('stdin that is no UTF-8 is code 6', async () => {
    const { output } = await run(addEnv, Buffer.from([0x7b, 0xff, 0x7d]));
    expect(output).toMatchObject({ code: 6 });
  });

  test.each([
    ['too long', () => readAll(endless(), { bytes: 1000, ms: 1000 }), 'more than 1000 bytes'],
    ['without an end', () => readAll(silent(), { bytes: 10, ms: 10 }), 'did not end within 10 ms'],
    ['broken', () => readAll(broken(), configBounds), 'cannot be read'],
  ])('stdin %s is code 5', async (_name, stdin, text) => {
    let stdout = '';
    const io = { env: addEnv, stderr: () => undefined, callAgent: () => Promise.reject(new Error('not called')) };
    const code = await runPlugin({ ...io, stdin, stdout: (part) => (stdout += part) });
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: 5, msg: expect.stringContaining(text) });
  });
});

/* eslint-disable @typescript-eslint/require-await -- streams that never wait */
async function* endless(): AsyncGenerator<Uint8Array> {
  for (;;) {
    yield Buffer.alloc(100);
  }
}
async function* silent(): AsyncGenerator<Uint8Array> {
  yield await new Promise<Uint8Array>(() => undefined);
}
async function* broken(): AsyncGenerator<Uint8Array> {
  yield Buffer.from('{');
  throw Object.assign(new Error('secret text'), { code: 'EIO' });
}
/* eslint-enable @typescript-eslint/require-await */

describe('ADD', () => {
  test('asks the agent once, with everything it was given', async () => {
    const { requests } = await run(addEnv, config);
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
  ])('a reply with %s is code 402', async (_name, given, field) => {
    const { output } = await run(addEnv, config, () => ({ attachments: [given] }));
    expect(output).toMatchObject({
      code: 402,
      msg: expect.stringContaining(field),
      details: expect.stringContaining('OVPN402'),
    });
  });

  test('a failure of the agent keeps its text; retry is code 11, else the number of the OVPN code', async () => {
    const { message, name, code } = new OvpnError('PoolExhausted', 'no address left', { object: 'VpnNetwork office' });
    for (const [retry, cniCode] of [
      [false, 505],
      [true, 11],
    ] as const) {
      const { output } = await run(addEnv, config, () => {
        throw agentFailure({ name, code, message, retry });
      });
      expect(output).toEqual({
        cniVersion: '1.0.0',
        code: cniCode,
        msg: 'VpnNetwork office: no address left',
        details: 'to mend it: delete unused pods or give the node a larger pod block [OVPN505]',
      });
    }
  });

  test('every error of the table has a code: its own from 100 on, or one of the specification', async () => {
    for (const [name, { code }] of Object.entries(errorTable)) {
      const { output } = await run(addEnv, config, () => {
        throw agentFailure({ name, code, message: 'x', retry: false });
      });
      const special: Record<string, number> = { CniConfigInvalid: 7, CniEnvironmentInvalid: 4, AgentUnreachable: 11 };
      expect([name, output?.['code']]).toEqual([name, special[name] ?? Number(code.slice(4))]);
    }
  });

  test('a defect is code 999 without a stack trace', async () => {
    const { stdout, output } = await run(addEnv, config, () => {
      throw new TypeError('x is not a function');
    });
    expect(output).toMatchObject({ code: 999 });
    expect(stdout).not.toContain('skeleton.ts');
  });
});

describe('the other operations', () => {
  test('DEL needs no netns and no prevResult that can be read, and prints nothing', async () => {
    const { code, stdout, requests } = await run(
      { ...addEnv, CNI_COMMAND: 'DEL', CNI_NETNS: '' },
      { ...config, prevResult: 'damaged' },
    );
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
    expect(requests).toEqual([
      { version: protocolVersion, op: 'del', config: 'vpn', containerId: 'abc123', cniIfname: 'vpn0' },
    ]);
  });

  test('`interface` names the interface for ADD; DEL goes by what the runtime knows', async () => {
    const chained = { ...config, interface: 'vpn7' };
    for (const CNI_COMMAND of ['ADD', 'DEL']) {
      const { requests } = await run({ ...addEnv, CNI_COMMAND, CNI_IFNAME: 'eth0' }, chained, () => ({
        ...attachment,
        ifname: 'vpn7',
      }));
      expect(requests).toMatchObject([CNI_COMMAND === 'ADD' ? { ifname: 'vpn7' } : { cniIfname: 'eth0' }]);
    }
  });

  test('STATUS asks the agent, and is code 50 whatever the agent has', async () => {
    const env = { CNI_COMMAND: 'STATUS' };
    const newest = { ...config, cniVersion: '1.1.0' };
    await expect(run(env, newest)).resolves.toMatchObject({ code: 0, stdout: '', requests: [{ op: 'status' }] });
    const failed = await run(env, newest, () => {
      throw new CniFailure(11, 'not ready');
    });
    expect(failed.output).toMatchObject({ cniVersion: '1.1.0', code: 50, msg: 'not ready' });
  });

  test.each([
    ['CHECK', '0.3.1', 1, 'CHECK'],
    ['STATUS', '1.0.0', 1, 'STATUS'],
    ['GC', '1.0.0', 1, 'GC'],
    ['CHECK', '1.0.0', 4, 'disableCheck'],
    ['GC', '1.1.0', 4, 'disableGC'],
  ])('%s in version %s is code %i', async (CNI_COMMAND, cniVersion, expected, text) => {
    const { code, stdout, output, requests } = await run({ ...addEnv, CNI_COMMAND }, { ...config, cniVersion });
    expect({ code, cniCode: output?.['code'], cniVersion: output?.['cniVersion'] }).toEqual({
      code: 1,
      cniCode: expected,
      cniVersion,
    });
    expect(stdout).toContain(text);
    expect(requests).toEqual([]);
  });
});

/** What stands on stdout after a failed call: exactly the specification's error object. */
function expectErrorObject(output: Record<string, unknown> | undefined): void {
  expect(Object.keys(output ?? {}).sort()).toEqual(['cniVersion', 'code', 'details', 'msg']);
  expect(Number.isInteger(output?.['code'])).toBe(true);
  expect(output?.['code']).not.toBe(999);
  expect(String(output?.['msg'])).not.toMatch(/\n\s+at /);
}

describe('whatever comes in', () => {
  const command = fc.constantFrom('ADD', 'DEL', 'CHECK', 'STATUS', 'GC');

  test('any bytes on stdin give an error object', async () => {
    await fc.assert(
      fc.asyncProperty(command, fc.uint8Array({ maxLength: 200 }), async (CNI_COMMAND, bytes) => {
        const { code, output } = await run({ ...addEnv, CNI_COMMAND }, bytes);
        expect(code).toBe(1);
        expectErrorObject(output);
      }),
    );
  });

  test('any value in any place of the configuration gives a result or an error object', async () => {
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
    await fc.assert(
      fc.asyncProperty(command, fc.constantFrom(...keys), fc.jsonValue(), async (CNI_COMMAND, key, value) => {
        const { code, output } = await run(
          { ...addEnv, CNI_COMMAND },
          { ...config, cniVersion: '1.1.0', [key]: value },
          (request) => (request.op === 'add' ? { ...attachment, ifname: request.ifname } : null),
        );
        if (code === 1) {
          expectErrorObject(output);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('any prevResult gives a result or an error object', async () => {
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
    await fc.assert(
      fc.asyncProperty(prevResult, async (value) => {
        const { code, output } = await run(addEnv, { ...config, prevResult: value });
        if (code === 1) {
          expectErrorObject(output);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('any environment gives a result or an error object', async () => {
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
    await fc.assert(
      fc.asyncProperty(env, async (change) => {
        const { code, output } = await run({ ...addEnv, ...change }, config, (request) =>
          request.op === 'add' ? { ...attachment, containerId: request.containerId, ifname: request.ifname } : null,
        );
        if (code === 1) {
          expectErrorObject(output);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('very deep nesting gives an error object or is ignored', async () => {
    const deep = '['.repeat(100_000) + ']'.repeat(100_000);
    const text = JSON.stringify(config).slice(0, -1);
    for (const key of ['ipam', 'prevResult', 'network', 'other', 'runtimeConfig']) {
      const { code, output } = await run(addEnv, `${text},"${key}":${deep}}`);
      expect([key, code]).toEqual([key, key === 'other' ? 0 : 1]);
      if (code === 1) {
        expectErrorObject(output);
      }
    }
    const { output } = await run(addEnv, `${text},"ipam":{"type":${deep}}}`);
    expect(output).toMatchObject({ code: 2 });
  });
});
