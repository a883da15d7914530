import { afterEach, describe, expect, test } from '@jest/globals';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type AttachmentRecord, AttachmentStore, keyText } from './attachment-store.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'attachments-'));
  cleanups.push(() => rmSync(made, { recursive: true, force: true }));
  return join(made, 'state', 'attachments');
}

const damaged: [string, string][] = [];
const open = (path: string): AttachmentStore => {
  damaged.length = 0;
  return new AttachmentStore(path, (file, reason) => damaged.push([file, reason]));
};

const record = (containerId = 'abc', fields: Partial<AttachmentRecord> = {}): AttachmentRecord => ({
  config: 'ovpn',
  containerId,
  cniIfname: 'eth0',
  ifname: 'vpn0',
  network: 'corp',
  netns: '/run/netns/pod',
  sandbox: 'boot/4:4026532001',
  addresses: ['10.81.0.2', 'fd81::2'],
  mac: '02:00:00:00:00:01',
  pod: { namespace: 'shop', name: 'web-0', uid: '6f1c' },
  ...fields,
});

describe('the store of attachments', () => {
  test.each<[string, Partial<AttachmentRecord>]>([
    ['a whole pod', {}],
    ['a pod without uid', { pod: { namespace: 'shop', name: 'web-0' } }],
    ['no pod', { pod: undefined }],
    ['an interface with a dot', { ifname: 'vpn0.1' }],
  ])('knows %s again after a restart', (_name, fields) => {
    const path = folder();
    const given = record('abc', fields);
    open(path).put(given);
    const store = open(path);
    expect(store.get(given)).toEqual(given);
    expect([...store.all()]).toEqual([given]);
    expect(store.ofNetwork('corp')).toEqual([given]);
    expect(store.ofNetwork('lab')).toEqual([]);
    expect(damaged).toEqual([]);
  });

  test('keeps addresses by network, and gives them free with their attachment', () => {
    const path = folder();
    const store = open(path);
    store.put(record('one'));
    store.put(record('two', { addresses: ['10.81.0.3'] }));
    store.put(record('three', { network: 'lab' }));
    for (const known of [store, open(path)]) {
      expect(known.isTaken('corp', '10.81.0.2')).toBe(true);
      expect(known.isTaken('corp', 'fd81::2')).toBe(true);
      expect(known.isTaken('corp', '10.81.0.4')).toBe(false);
      expect(known.isTaken('nowhere', '10.81.0.2')).toBe(false);
    }
    store.remove({ containerId: 'one', ifname: 'vpn0' });
    expect(store.isTaken('corp', '10.81.0.2')).toBe(false);
    expect(store.isTaken('lab', '10.81.0.2')).toBe(true);
    expect(store.isTaken('corp', '10.81.0.3')).toBe(true);
    expect(open(path).get({ containerId: 'one', ifname: 'vpn0' })).toBeUndefined();
    expect(readdirSync(path)).toHaveLength(2);
  });

  test('a new version of an attachment gives its old addresses free', () => {
    const store = open(folder());
    store.put(record('one'));
    store.put(record('one', { addresses: ['10.81.0.9'] }));
    expect([store.isTaken('corp', '10.81.0.2'), store.isTaken('corp', '10.81.0.9')]).toEqual([false, true]);
  });

  test('an address that two files claim stays taken until its last owner goes', () => {
    const path = folder();
    open(path).put(record('one'));
    open(path).put(record('two'));
    const store = open(path);
    const [first = '', second = ''] = readdirSync(path).sort();
    store.remove({ containerId: first.split('@')[0] ?? '', ifname: 'vpn0' });
    expect(store.isTaken('corp', '10.81.0.2')).toBe(true);
    store.remove({ containerId: second.split('@')[0] ?? '', ifname: 'vpn0' });
    expect(store.isTaken('corp', '10.81.0.2')).toBe(false);
  });

  test('removing what is not there is no error', () => {
    const store = open(folder());
    expect(() => store.remove({ containerId: 'nobody', ifname: 'vpn0' })).not.toThrow();
  });

  test('overlooks what a crash left beside its files', () => {
    const path = folder();
    open(path).put(record('one'));
    writeFileSync(join(path, 'two@vpn0.json.tmp'), '{"containerId":"tw');
    const store = open(path);
    expect([...store.all()]).toHaveLength(1);
    expect(damaged).toEqual([]);
    store.put(record('two', { addresses: ['10.81.0.3'] }));
    expect(readdirSync(path).sort()).toEqual(['one@vpn0.json', 'two@vpn0.json']);
  });

  test.each<[string, string]>([
    ['half a file', '{"containerId":"abc","ifn'],
    ['nothing', ''],
    ['null', 'null'],
    ['a list', '[]'],
    ['no container', JSON.stringify({ ...record(), containerId: undefined })],
    ['an empty interface', JSON.stringify({ ...record(), ifname: '' })],
    ['no addresses', JSON.stringify({ ...record(), addresses: [] })],
    ['an address that is none', JSON.stringify({ ...record(), addresses: ['10.81.0.2', '10.81'] })],
    ['an address that is null', JSON.stringify({ ...record(), addresses: [null] })],
    ['a network that is a number', JSON.stringify({ ...record(), network: 7 })],
  ])('tells of a file with %s, leaves it, and reads the others', (_name, content) => {
    const path = folder();
    open(path).put(record('good'));
    writeFileSync(join(path, 'bad.json'), content);
    const store = open(path);
    expect(damaged).toEqual([[join(path, 'bad.json'), expect.stringMatching(/./)]]);
    expect([...store.all()].map(keyText)).toEqual(['good/vpn0']);
    expect(readFileSync(join(path, 'bad.json'), 'utf8')).toBe(content);
  });

  test.each<[string, string, string]>([
    ['a path', '../../etc/passwd', 'vpn0'],
    ['a parent', '..', '..'],
    ['a slash in the interface', 'abc', '../x'],
    ['a name as long as a runtime may send', 'a'.repeat(256), '%'.repeat(15)],
  ])('with %s as its key stays inside its folder', (_name, containerId, ifname) => {
    const path = folder();
    const given = record(containerId, { ifname });
    open(path).put(given);
    expect(readdirSync(path)).toHaveLength(1);
    expect(readdirSync(join(path, '..'))).toEqual(['attachments']);
    const store = open(path);
    expect(store.get(given)).toEqual(given);
    store.remove(given);
    expect(readdirSync(path)).toEqual([]);
  });

  test('is only for its owner to read', () => {
    const path = folder();
    open(path).put(record());
    expect(statSync(path).mode & 0o777).toBe(0o700);
    expect(statSync(join(path, 'abc@vpn0.json')).mode & 0o777).toBe(0o600);
  });

  test('says so when the disk refuses, and knows nothing of the attachment then', () => {
    const path = folder();
    const store = open(path);
    rmSync(path, { recursive: true });
    writeFileSync(path, '');
    expect(() => store.put(record())).toThrow(
      expect.objectContaining({ name: 'StateUnusable', where: { object: path } }),
    );
    expect(store.get(record())).toBeUndefined();
    expect(store.isTaken('corp', '10.81.0.2')).toBe(false);
    expect(() => open(path)).toThrow(expect.objectContaining({ name: 'StateUnusable' }));
  });
});
