import { describe, expect, test } from '@jest/globals';
import { mirrorFrom, networkSettings, sourcesList } from './apt.ts';
import { isInitialUserNamespace } from './host.ts';
import { jobEnvironment } from './job.ts';
import { parseLabArgs } from './args.ts';
import { packageOf } from './tools.ts';
import { executableTmpfs, kernelArgument } from './uml.ts';
import { virtiofsdArguments } from './virtiofs.ts';

describe('the private apt', () => {
  test("uses the machine's own Debian mirror, not its security archive and not other vendors", () => {
    const targets = [
      'Example|Example|https://packages.example.com/apt/',
      'Debian|Debian-Security|http://mirror.example.net/debian-security/',
      'Debian|Debian|http://mirror.example.net/debian/',
    ];
    expect(mirrorFrom(targets.join('\n'))).toBe('http://mirror.example.net/debian');
  });

  test('knows a mirror by its path before the first update, and none on another distribution', () => {
    expect(mirrorFrom('||http://mirror.example.net/debian\n')).toBe('http://mirror.example.net/debian');
    expect(mirrorFrom('Ubuntu|Ubuntu|http://archive.example.net/ubuntu/\n')).toBeUndefined();
    expect(mirrorFrom('')).toBeUndefined();
  });

  test('trusts only the given keyring, and lets only sid be stale', () => {
    const lines = sourcesList('http://m/debian', '/k.gpg').trim().split('\n');
    expect(lines).toHaveLength(3);
    for (const line of lines) expect(line).toContain('signed-by=/k.gpg');
    expect(lines.filter((line) => line.includes('check-valid-until=no'))).toEqual([
      expect.stringContaining(' sid main'),
    ]);
  });

  test('keeps proxies and retries of the machine', () => {
    const dump =
      'APT::Architecture "amd64";\nAcquire::http::Proxy "http://p:1";\nAcquire::Languages "en";\nAcquire::Retries "3";\n';
    expect(networkSettings(dump)).toBe('Acquire::http::Proxy "http://p:1";\nAcquire::Retries "3";\n');
  });

  test('reads the package name from a file name', () => {
    expect(packageOf('/x/libssl3t64_3.5.7-1_amd64.deb')).toBe('libssl3t64');
  });
});

describe('guests', () => {
  test('user-mode Linux keeps its memory on a tmpfs that allows programs', () => {
    const mounts = [
      'tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec 0 0',
      'tmpfs /run tmpfs rw,nosuid 0 0',
      '/dev/sda / ext4 rw 0 0',
      'tmpfs /ro tmpfs ro 0 0',
      '',
    ];
    expect(executableTmpfs(mounts.join('\n'))).toEqual(['/run']);
  });

  test('kernel arguments with spaces are quoted, those that cannot be are refused', () => {
    expect(kernelArgument('A', '/x')).toBe('A=/x');
    expect(kernelArgument('A', '/x y')).toBe('A="/x y"');
    expect(() => kernelArgument('A', '/x"y')).toThrow(/cannot be passed/);
  });

  test('both programs that serve files are called their own way', () => {
    const share = { tag: 'root', folder: '/' };
    expect(virtiofsdArguments(true, share, '/s', false)).toContain('--sandbox=none');
    expect(virtiofsdArguments(false, share, '/s', true)).toContain('source=/');
  });

  test('a user namespace of its own is told from the initial one', () => {
    expect(isInitialUserNamespace('         0          0 4294967295\n')).toBe(true);
    expect(isInitialUserNamespace('         0       1000          1\n')).toBe(false);
  });

  test("a job's environment holds what is promised and nothing else of the host's", () => {
    const options = parseLabArgs(['--env', 'LANG=de', '--env', 'X=1', 'true'], '/');
    if (options === 'help') throw new Error('unexpected help');
    const env = jobEnvironment('qemu', options, '/run/lab/results', { CI: '1', SECRET: 's', PATH: '/opt/x:relative' });
    expect(env).toMatchObject({ CI: '1', X: '1', LANG: 'de', LAB_KERNEL: 'qemu', LAB_RESULTS: '/run/lab/results' });
    expect(env).not.toHaveProperty('SECRET');
    expect(env['PATH']).toMatch(/node_modules\/\.bin:\/usr\/local\/sbin:.*:\/opt\/x$/);
  });
});
