import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type ChainEntry, pluginType } from './network-list.ts';
import { type ConfFile, planChain, planUnchain, type Step } from './plan.ts';

const entry: ChainEntry = { type: pluginType };
const main = { type: 'calico', policy: { type: 'k8s' }, odd: [1, null, 'ä'] };

const file = (name: string, content: unknown): ConfFile => ({
  name,
  text: typeof content === 'string' ? content : JSON.stringify(content),
});
const list = (name: string, plugins: unknown[], more: object = {}): ConfFile =>
  file(name, { cniVersion: '1.0.0', name: 'cluster', plugins, ...more });
const conf = (name: string, more: object = {}): ConfFile =>
  file(name, { cniVersion: '1.0.0', name: 'c', ...main, ...more });

/** The folder after the steps, and after each of them the file that a runtime takes. */
function carryOut(files: readonly ConfFile[], steps: readonly Step[]): { after: ConfFile[]; inForce: string[] } {
  const folder = new Map(files.map(({ name, text }) => [name, text]));
  const inForce: string[] = [];
  for (const step of steps) {
    if (step.kind === 'write') folder.set(step.name, step.text);
    if (step.kind === 'remove') expect(folder.delete(step.name)).toBe(true);
    if (step.kind === 'rename') {
      const text = folder.get(step.from);
      if (text === undefined) throw new Error(`${step.from} is not there`);
      folder.delete(step.from);
      folder.set(step.to, text);
    }
    inForce.push([...folder.keys()].filter((name) => /\.(conf|conflist|json)$/.test(name)).sort()[0] ?? 'none');
  }
  return { after: [...folder].map(([name, text]) => ({ name, text })), inForce };
}

const parsed = (files: readonly ConfFile[]): Record<string, unknown> =>
  Object.fromEntries(files.map(({ name, text }) => [name, JSON.parse(text) as unknown]));

describe('planChain', () => {
  test.each<[string, readonly ConfFile[], string | undefined, unknown]>([
    ['waits while there is nothing', [], undefined, undefined],
    [
      'waits while there is nothing that a runtime reads',
      [file('README', 'x'), file('a.conf.bak', '{}')],
      undefined,
      undefined,
    ],
    ['goes behind the plugins of the list', [list('10-a.conflist', [main])], '10-a.conflist', [main, entry]],
    [
      'takes the first list by name, as runtimes do',
      [list('20-b.conflist', [{ type: 'b' }]), list('10-a.conflist', [main])],
      '10-a.conflist',
      [main, entry],
    ],
    ['reads .json as a list', [list('10-a.json', [main])], '10-a.json', [main, entry]],
    [
      'brings an older entry of ours up to date where it stands',
      [list('10-a.conflist', [main, { type: pluginType, agentSocket: '/old' }, { type: 'portmap' }])],
      '10-a.conflist',
      [main, entry, { type: 'portmap' }],
    ],
    [
      'leaves an entry that a person made for one network',
      [list('10-a.conflist', [main, { type: pluginType, network: 'corp', interface: 'vpn0' }])],
      '10-a.conflist',
      [main, { type: pluginType, network: 'corp', interface: 'vpn0' }, entry],
    ],
    ['makes a list of a single configuration', [conf('10-a.conf')], '10-a.conflist', [main, entry]],
    ['makes a list of a single configuration in .json', [conf('10-a.json')], '10-a.conflist', [main, entry]],
  ])('%s', (_name, files, name, plugins) => {
    const plan = planChain(files, entry);
    expect(plan.list).toBe(name);
    const { after, inForce } = carryOut(files, plan.steps);
    if (name === undefined) expect(plan.steps).toEqual([]);
    else {
      expect(parsed(after.filter((each) => each.name === name))).toMatchObject({ [name]: { plugins } });
      expect(inForce).not.toContain('none');
      expect(inForce.at(-1)).toBe(name);
    }
    // Done once, it is done.
    expect(planChain(after, entry)).toEqual({ ...(name === undefined ? {} : { list: name }), steps: [] });
  });

  test('keeps what the list has for itself', () => {
    const files = [
      list('10-a.conflist', [main], { disableCheck: true, disableGC: true, cniVersions: ['1.0.0', '1.1.0'] }),
    ];
    const { after } = carryOut(files, planChain(files, entry).steps);
    expect(parsed(after)).toEqual({
      '10-a.conflist': {
        ...{ cniVersion: '1.0.0', name: 'cluster', disableCheck: true, disableGC: true },
        ...{ cniVersions: ['1.0.0', '1.1.0'], plugins: [main, entry] },
      },
    });
  });

  test('a single configuration that its owner writes anew is made a list anew', () => {
    const files = [conf('10-a.conf')];
    const { after } = carryOut(files, planChain(files, entry).steps);
    const rewritten = [...after, conf('10-a.conf', { mtu: 1400 })];
    const again = carryOut(rewritten, planChain(rewritten, entry).steps).after;
    expect(parsed(again)).toMatchObject({ '10-a.conflist': { plugins: [{ ...main, mtu: 1400 }, entry] } });
    expect(again.map(({ name }) => name).sort()).toEqual(['10-a.conf.replaced-by-ovpn', '10-a.conflist']);
  });

  test.each<[string, ConfFile, RegExp]>([
    ['no JSON', file('10-a.conflist', '{"plugins": ['), /10-a\.conflist.*not JSON.*OVPN509/],
    ['no object', file('10-a.conflist', '[]'), /not a JSON object/],
    ['no plugins', file('10-a.conflist', { cniVersion: '1.0.0', name: 'a' }), /no list of plugins/],
    ['a plugin without a type', list('10-a.conflist', [{ policy: 1 }]), /no field `type`/],
    ['a single configuration without a type', file('10-a.conf', { name: 'a' }), /no field `type`/],
    [
      'a version that we do not speak',
      list('10-a.conflist', [main], { cniVersion: '0.2.0' }),
      /"0\.2\.0".*0\.3\.0 to 1\.1\.0/,
    ],
    ['no version, which means 0.1.0', file('10-a.conflist', { name: 'a', plugins: [main] }), /"0\.1\.0"/],
  ])('refuses %s', (_name, broken, message) => {
    expect(() => planChain([broken], entry)).toThrow(message);
  });
});

describe('planUnchain', () => {
  test('takes the entry out of every list, and leaves what people wrote', () => {
    const byHand = { type: pluginType, network: 'corp' };
    const files = [
      list('10-a.conflist', [main, entry, byHand]),
      list('20-b.conflist', [{ type: 'b' }, { ...entry, agentSocket: '/other' }]),
      list('30-c.conflist', [main]),
      conf('40-d.conf'),
    ];
    const { after } = carryOut(files, planUnchain(files));
    const plugins = Object.values(parsed(after)).map((each) => (each as { plugins?: unknown }).plugins);
    expect(plugins).toEqual([[main, byHand], [{ type: 'b' }], [main], undefined]);
    expect(planUnchain(after)).toEqual([]);
  });

  test.each([
    ['the one that was put aside', false],
    ['the one that its owner wrote since', true],
  ])('of a single configuration the runtime gets back %s', (_name, rewritten) => {
    const original = conf('10-a.conf');
    const chained = carryOut([original], planChain([original], entry).steps).after;
    const newer = conf('10-a.conf', { mtu: 1400 });
    const files = rewritten ? [...chained, newer] : chained;
    const { after, inForce } = carryOut(files, planUnchain(files));
    expect(after).toEqual([rewritten ? newer : original]);
    expect(inForce).not.toContain('none');
  });
});

test('chaining and taking out again means the same as before, whatever the list holds', () => {
  const plugin = fc
    .dictionary(fc.string(), fc.jsonValue())
    .map((fields) => ({ ...fields, type: 'some', network: undefined }));
  const folder = fc.array(fc.record({ at: fc.nat(99), plugins: fc.array(plugin, { minLength: 1, maxLength: 4 }) }));
  fc.assert(
    fc.property(folder, (lists) => {
      const names = new Map(lists.map(({ at, plugins }) => [`${at}-x.conflist`, plugins]));
      const files = [...names].map(([name, plugins]) => list(name, plugins));
      const chained = carryOut(files, planChain(files, entry).steps).after;
      expect(planChain(chained, entry).steps).toEqual([]);
      expect(parsed(carryOut(chained, planUnchain(chained)).after)).toEqual(parsed(files));
    }),
  );
});
