/** The container image: built twice, read by its digests, and run as far as that goes without a container runtime. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Built } from '../../image/build.ts';
import type { Sbom } from '../../image/sbom.ts';
import { nodeOptions } from '../../scripts/bundle.ts';
import { screenProgress } from '../lab/progress.ts';
import { needRegistry, registryCommand } from '../programs/registry.ts';
import { ControlPlane } from '../support/kube/control-plane.ts';
import { type Config, elfFiles, files, type Index, inRoot, type Manifest, ReadLayout } from '../support/image.ts';
import { attempt, eventually, type Finished, run, Service } from '../support/run.ts';

const projectRoot = join(import.meta.dirname, '../..');
const architectures = ['amd64', 'arm64'] as const;
type Architecture = (typeof architectures)[number];
const own: Architecture = process.arch === 'arm64' ? 'arm64' : 'amd64';

let folder: string;
let built: Built;
let layout: ReadLayout;
const manifests = new Map<Architecture, Manifest>();

/** Builds as a person does, of sources that are not a commit. */
function build(project: string, out: string, umask: string, env: Record<string, string> = {}): Built {
  const command = `umask ${umask}; exec "$@"`;
  const args = ['image/build.ts', '--out', out, '--revision', 'none', '--source', 'https://example.com', '-o', 'json'];
  const text = execFileSync('/bin/sh', ['-c', command, 'sh', process.execPath, ...args], {
    cwd: project,
    encoding: 'utf8',
    env: { ...process.env, SOURCE_DATE_EPOCH: '1700000000', ...env },
    maxBuffer: 1e8,
  });
  return JSON.parse(text) as Built;
}

const manifestOf = (architecture: Architecture): Manifest => manifests.get(architecture)!;
const rootOf = (architecture: Architecture): string => join(folder, `root-${architecture}`);

beforeAll(async () => {
  // Beside the sources, so that a copy of node_modules can be one of links.
  mkdirSync(join(projectRoot, 'dist'), { recursive: true });
  folder = mkdtempSync(join(projectRoot, 'dist/image-test-'));
  built = build(projectRoot, join(folder, 'one'), '022');
  layout = new ReadLayout(built.layout);
  const [top] = layout.index.manifests;
  const index = await layout.json<Index>(top!);
  for (const architecture of architectures) {
    const found = index.manifests.find(({ platform }) => platform?.architecture === architecture);
    manifests.set(architecture, await layout.json<Manifest>(found!));
    await layout.unpack(manifestOf(architecture).layers, rootOf(architecture));
  }
}, 600_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the layout', () => {
  test('is well-formed: every digest and size is right, and nothing else is in it', async () => {
    expect(JSON.parse(readFileSync(join(layout.folder, 'oci-layout'), 'utf8'))).toEqual({
      imageLayoutVersion: '1.0.0',
    });
    const [top, ...others] = layout.index.manifests;
    expect(others).toEqual([]);
    expect(top).toMatchObject({ mediaType: 'application/vnd.oci.image.index.v1+json', digest: built.digest });
    expect(top!.annotations?.['io.containerd.image.name']).toBe(built.reference);
    const index = await layout.json<Index>(top!);
    expect(index).toMatchObject({ schemaVersion: 2, mediaType: top!.mediaType });
    expect(index.manifests.map(({ platform, artifactType }) => [platform, artifactType])).toEqual([
      [{ os: 'linux', architecture: 'amd64' }, undefined],
      [{ os: 'linux', architecture: 'arm64' }, undefined],
      [{ os: 'unknown', architecture: 'unknown' }, 'application/spdx+json'],
      [{ os: 'unknown', architecture: 'unknown' }, 'application/spdx+json'],
    ]);
    for (const descriptor of index.manifests) {
      const manifest = await layout.json<Manifest>(descriptor);
      expect(manifest).toMatchObject({ schemaVersion: 2, mediaType: descriptor.mediaType });
      for (const each of [manifest.config, ...manifest.layers]) await layout.file(each);
    }
    expect(layout.unread()).toEqual([]);
  });

  test.each(architectures)('%s: the config fits its layers, and says what it is', async (architecture) => {
    const { config, layers, annotations } = manifestOf(architecture);
    const { rootfs, history, ...rest } = await layout.json<Config>(config);
    expect(rootfs).toEqual({ type: 'layers', diff_ids: await Promise.all(layers.map((each) => layout.diffId(each))) });
    expect(history).toHaveLength(layers.length);
    expect(rest).toMatchObject({ architecture, os: 'linux', created: '2023-11-14T22:13:20Z' });
    expect(rest.config.User).toBe('65532:65532');
    expect(rest.config.Labels).toEqual(annotations);
    const dockerfile = readFileSync(join(projectRoot, 'image/Dockerfile'), 'utf8');
    expect(rest.config.Env).toEqual([...dockerfile.matchAll(/^ENV (.*)$/gm)].map(([, variable]) => variable));
    expect(annotations).toMatchObject({
      'org.opencontainers.image.licenses': 'Apache-2.0',
      'org.opencontainers.image.source': 'https://example.com',
      'org.opencontainers.image.revision': 'none',
      'org.opencontainers.image.created': '2023-11-14T22:13:20Z',
    });
  });

  test.each(architectures)(
    '%s: its bill of materials refers to it, and is the file beside the image',
    async (architecture) => {
      const index = await layout.json<Index>(layout.index.manifests[0]!);
      const image = index.manifests.find(({ platform }) => platform?.architecture === architecture)!;
      const referrers = await Promise.all(
        index.manifests
          .filter(({ artifactType }) => artifactType !== undefined)
          .map((each) => layout.json<Manifest>(each)),
      );
      const [referrer, ...others] = referrers.filter(({ subject }) => subject?.digest === image.digest);
      expect(others).toEqual([]);
      const sbom = await layout.json<Sbom>(referrer!.layers[0]!);
      const beside = built.images.find((each) => each.architecture === architecture)!.sbom;
      expect(JSON.parse(readFileSync(beside, 'utf8'))).toEqual(sbom);
    },
  );

  test('in one file it is the same', async () => {
    const unpacked = join(folder, 'archive');
    mkdirSync(unpacked);
    await run('tar', '-xf', built.archive, '-C', unpacked);
    await run('diff', '-r', unpacked, built.layout);
  });
});

test('another folder, another umask and another time zone give the same digest', async () => {
  const copy = join(folder, 'copy');
  mkdirSync(copy);
  const names = await run('git', '-C', projectRoot, 'ls-files', '-z', '--cached', '--others', '--exclude-standard');
  for (const name of names.split('\0').filter((each) => each !== '' && existsSync(join(projectRoot, each)))) {
    mkdirSync(dirname(join(copy, name)), { recursive: true });
    copyFileSync(join(projectRoot, name), join(copy, name));
  }
  // Links of files; links of folders would lead esbuild back here.
  await run('cp', '-al', join(projectRoot, 'node_modules'), join(copy, 'node_modules'));
  const again = build(copy, join(folder, 'two'), '077', { TZ: 'Asia/Tokyo', LC_ALL: 'C' });
  expect(again.digest).toBe(built.digest);
}, 600_000);

describe.each(architectures)('the files for %s', (architecture) => {
  const root = (): string => rootOf(architecture);

  test('belong to root, who alone may write them, and none gives rights away', async () => {
    const lines = await layout.list(manifestOf(architecture).layers);
    expect(lines.length).toBeGreaterThan(100);
    const strange = lines.filter((line) => !/^([-d]r[-w]xr-xr-x|-rw-r--r--|lrwxrwxrwx) 0\/0 /.test(line));
    expect(strange.map((line) => line.replaceAll(/ +/g, ' '))).toEqual([
      expect.stringMatching(/^drwxrwxrwt 0\/0 0 1970-01-01 \S+ tmp\/$/),
    ]);
  });

  test('are those that are needed: what can be started is listed here', async () => {
    const executable = (await run('find', root(), '-type', 'f', '-perm', '/111', '-printf', '%P\\n'))
      .trim()
      .split('\n');
    const programs = executable.filter((path) => !path.startsWith(`usr/lib/`)).sort();
    expect(programs).toEqual([
      'usr/local/bin/node',
      'usr/local/lib/ovpn-operator/agent/ovpn-agent.js',
      'usr/local/lib/ovpn-operator/controller/ovpn-controller.js',
      'usr/local/lib/ovpn-operator/ovpn-cni',
    ]);
    const tools = /\/(sh|bash|dash|busybox|npm|npx|corepack|gcc|cc|ld|make|python3?|perl|apt-get|dpkg)$/;
    expect(files(root()).filter((path) => tools.test(`/${path}`))).toEqual([]);
  });

  test('are all of its architecture, and have every library that they need', async () => {
    const machine = { amd64: /X86-64/, arm64: /AArch64/ }[architecture];
    const elves = await elfFiles(root());
    expect(elves.map(({ path }) => path)).toEqual(
      expect.arrayContaining([
        'usr/local/bin/node',
        'usr/local/lib/ovpn-operator/ovpn-cni',
        expect.stringMatching(/koffi\.node$/),
        expect.stringMatching(/libc\.so\.6$/),
      ]),
    );
    const triplet = { amd64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' }[architecture];
    for (const { path, machine: found, interpreter, needed } of elves) {
      expect([path, found]).toEqual([path, expect.stringMatching(machine)]);
      if (interpreter !== undefined)
        expect([interpreter, inRoot(root(), interpreter)]).toEqual([interpreter, expect.any(String)]);
      for (const library of needed) {
        const places = [`/lib/${triplet}/${library}`, `/lib64/${library}`, `/lib/${library}`];
        expect([path, library, places.some((place) => inRoot(root(), place) !== undefined)]).toEqual([
          path,
          library,
          true,
        ]);
      }
    }
    const cni = elves.find(({ path }) => path.endsWith('/ovpn-cni'));
    expect(cni).toMatchObject({ needed: [], interpreter: undefined });
  });

  test('come with the licence of every package of the bill of materials', () => {
    const path = built.images.find((each) => each.architecture === architecture)!.sbom;
    const { packages } = JSON.parse(readFileSync(path, 'utf8')) as Sbom;
    expect(packages.length).toBeGreaterThan(60);
    const licensed = files(root())
      .map((each) => /^usr\/share\/doc\/(?:npm\/)?((?:@[^/]+\/)?[^/]+)\//.exec(each)?.[1])
      .map((name) => (name === 'node' ? `node-linux-${architecture === 'amd64' ? 'x64' : 'arm64'}` : name));
    const names = packages.map(({ name }) => name).filter((name) => name !== 'ovpn-cni');
    expect(names.filter((name) => !licensed.includes(name))).toEqual([]);
    const list = readFileSync(join(root(), 'usr/share/doc/ovpn-operator/THIRD-PARTY.md'), 'utf8');
    const unlisted = packages.filter(({ name, versionInfo }) => !list.includes(`| ${name} | ${versionInfo} | `));
    expect(unlisted.map(({ name }) => name)).toEqual(['ovpn-operator', 'ovpn-cni']);
  });
});

describe('skopeo', () => {
  let registry: Service;
  let address: string;
  const skopeo = async (...args: string[]): Promise<string> => {
    const [command, ...words] = registryCommand('skopeo');
    // Machines without skopeo have no policy of whose signatures it wants.
    return run(command, ...words, '--insecure-policy', ...args);
  };

  beforeAll(async () => {
    await needRegistry(screenProgress('registry'));
    const config = join(folder, 'registry.yml');
    const storage = { filesystem: { rootdirectory: join(folder, 'registry') } };
    // JSON is YAML.
    writeFileSync(config, JSON.stringify({ version: 0.1, storage, http: { addr: '127.0.0.1:0' } }));
    const [command, ...words] = registryCommand('docker-registry');
    registry = new Service(command, [...words, 'serve', config]);
    address = await eventually('the registry listens', () => {
      if (!registry.running) throw new Error(registry.log);
      return /listening on (127\.0\.0\.1:\d+)/.exec(registry.log)?.[1];
    });
  }, 300_000);
  afterAll(() => registry.end());

  test('copies it to a registry, where it has the digest that the build names', async () => {
    const place = `${address}/ovpn-operator:0.1.0`;
    await skopeo('copy', '--all', '--dest-tls-verify=false', `oci-archive:${built.archive}`, `docker://${place}`);
    const headers = { accept: 'application/vnd.oci.image.index.v1+json' };
    const answer = await fetch(`http://${address}/v2/ovpn-operator/manifests/0.1.0`, { headers });
    expect([answer.status, answer.headers.get('docker-content-digest')]).toEqual([200, built.digest]);
    for (const architecture of architectures) {
      const which = ['--override-arch', architecture, '--tls-verify=false'];
      const config = JSON.parse(
        await skopeo(...which.slice(0, 2), 'inspect', '--config', ...which.slice(2), `docker://${place}`),
      ) as Config;
      expect(config).toEqual(await layout.json<Config>(manifestOf(architecture).config));
    }
  });

  test('makes a file for `docker load` of it', async () => {
    const archive = join(folder, 'docker.tar');
    await skopeo('copy', `oci-archive:${built.archive}`, `docker-archive:${archive}:ovpn-operator:0.1.0`);
    const [{ Config: config = '', RepoTags: tags = [] } = {}] = JSON.parse(
      await run('tar', '-xOf', archive, 'manifest.json'),
    ) as {
      Config?: string;
      RepoTags?: string[];
    }[];
    expect(tags).toEqual(['docker.io/library/ovpn-operator:0.1.0']);
    const { rootfs } = JSON.parse(await run('tar', '-xOf', archive, config)) as Config;
    expect(rootfs).toEqual((await layout.json<Config>(manifestOf(own).config)).rootfs);
  });
});

describe('the image of this machine runs', () => {
  /** In its root filesystem, with nothing of the machine's. */
  const inImage = (command: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Finished> =>
    attempt('unshare', ['--map-root-user', 'chroot', rootOf(own), ...command], {
      env: { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin', NODE_OPTIONS: nodeOptions, ...env },
      input: '',
    });
  const { version } = JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')) as { version: string };

  test('ovpn-agent and ovpn-controller, from PATH', async () => {
    expect(await inImage(['ovpn-agent', '--version'])).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' });
    expect(await inImage(['ovpn-controller', '--version'])).toMatchObject({ code: 0, stdout: `${version}\n` });
    expect((await inImage(['ovpn-controller', '--help'])).stdout).toContain('--kubeconfig');
  });

  test('Node.js of package-lock.json, with TLS and the CAs of the web', async () => {
    const program = `
      const tls = require('node:tls'), fs = require('node:fs');
      const cas = fs.readFileSync('/etc/ssl/certs/ca-certificates.crt', 'utf8').match(/-----BEGIN/g).length;
      tls.createSecureContext({ ca: fs.readFileSync('/etc/ssl/certs/ca-certificates.crt') });
      const key = Buffer.alloc(32, 1), options = { ciphers: 'PSK', maxVersion: 'TLSv1.2' };
      const server = tls.createServer({ ...options, pskCallback: () => key }, (socket) => socket.end('hello'));
      server.listen(0, '127.0.0.1', () => {
        const { port } = server.address();
        const psk = { checkServerIdentity() {}, pskCallback: () => ({ psk: key, identity: 'x' }) };
        tls.connect({ ...options, ...psk, port, host: '127.0.0.1' })
          .on('data', (data) => console.log(process.version, cas > 100, String(data)))
          .on('end', () => server.close());
      });`;
    const lock = JSON.parse(readFileSync(join(projectRoot, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, { version: string }>;
    };
    const node = lock.packages[`node_modules/node-linux-${process.arch}`]!.version;
    expect(await inImage(['node', '-e', program])).toMatchObject({ code: 0, stdout: `v${node} true hello\n` });
  });

  test('the socket holder, which calls libc and opens no debugger', async () => {
    const command = ['--map-root-user', 'chroot', rootOf(own), '/usr/local/bin/ovpn-agent', 'holder'];
    const holder = new Service('unshare', [...command, '--socket', '/tmp/holder.sock']);
    const socket = join(rootOf(own), 'tmp/holder.sock');
    await eventually('the holder listens', () => {
      if (!holder.running) throw new Error(holder.log);
      return existsSync(socket) ? true : undefined;
    });
    // Node.js would open its debugger on SIGUSR1, the tenth of these signals.
    const signals = readFileSync(`/proc/${holder.pid}/status`, 'utf8');
    const caught = BigInt(`0x${/^SigCgt:\s*([0-9a-f]+)$/m.exec(signals)?.[1] ?? 'f'.repeat(16)}`);
    expect((caught >> 9n) & 1n).toBe(0n);
    await holder.end();
    expect(holder.log).not.toMatch(/error/i);
  });

  test('the CNI plugin, and install-cni finds it', async () => {
    const plugin = '/usr/local/lib/ovpn-operator/ovpn-cni';
    const { code, stdout } = await inImage([plugin], { CNI_COMMAND: 'VERSION' });
    expect([code, JSON.parse(stdout)]).toMatchObject([0, { cniVersion: '1.1.0' }]);
    mkdirSync(join(rootOf(own), 'opt/cni/bin'), { recursive: true });
    expect(await inImage(['ovpn-agent', 'install-cni'])).toMatchObject({ code: 0, stderr: '' });
    await run('cmp', join(rootOf(own), 'opt/cni/bin/ovpn-cni'), join(rootOf(own), plugin));
  });

  test('the controller, which takes its Lease at a real API server', async () => {
    const plane = await ControlPlane.start();
    let controller: Service | undefined;
    try {
      const user = await plane.controller('from-image');
      user.writeKubeconfig(join(rootOf(own), 'kubeconfig'));
      const options = ['--kubeconfig', '/kubeconfig', '--name', 'from-image', '--health', '127.0.0.1:18081'];
      const command = ['chroot', rootOf(own), '/usr/local/bin/ovpn-controller', ...options];
      const running = (controller = new Service('unshare', ['--map-root-user', ...command]));
      const lease = await eventually('the controller leads', async () => {
        if (!running.running) throw new Error(running.log);
        return plane.admin.get<{ spec: { holderIdentity: string } }>(
          '/apis/coordination.k8s.io/v1/namespaces/ovpn-system/leases/ovpn-controller',
        );
      });
      expect(lease.spec.holderIdentity).toContain('from-image');
    } finally {
      await controller?.end();
      await plane.stop();
    }
  }, 180_000);
});
