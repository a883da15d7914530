import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { NodeReport } from '../../operator/src/agent/report.ts';
import { Hosts, AgentProcess, ping } from '../support/hosts.ts';
import { KernelView } from '../support/kernel-view.ts';
import { key, newStaticKey, peer, secret } from '../support/manifests.ts';
import { attachPod, officeKey, officeNetwork, officePeer, type Pod } from '../support/office.ts';
import { PlainRemote } from '../support/remote.ts';
import { attempt, eventually, run, Service } from '../support/run.ts';

/**
 * An agent that the machine denies what it needs: room on its disk, descriptors, requests to the kernel. What stands
 * goes on, what cannot be done is said, and is done by itself when it can be.
 */
let hosts: Hosts;
let agent: AgentProcess;
let kernel: KernelView;
let pod: Pod;
const lan = '192.168.50.1';
const material = newStaticKey();

beforeAll(async () => {
  hosts = await Hosts.create('faults');
  const node = await hosts.host('node');
  const remoteHost = await hosts.host('remote');
  agent = new AgentProcess(node, ['--resync', '1', '--status-interval', '1']);
  kernel = new KernelView(agent);
  mkdirSync(agent.state, { mode: 0o700 });
  // A disk of its own that can be filled.
  await run('mount', '-t', 'tmpfs', '-o', 'size=512k,mode=700', 'tmpfs', agent.state);
  hosts.onCleanup(async () => {
    await attempt('umount', ['-l', agent.state]);
  });
  agent.apply('network.yaml', officeNetwork(node));
  agent.apply('key.yaml', officeKey());
  agent.apply('secret.yaml', secret('office', material));
  agent.apply('peer.yaml', officePeer(remoteHost));
  await run('ip', '-n', remoteHost.namespace, 'addr', 'add', `${lan}/32`, 'dev', 'lo');
  const remote = await PlainRemote.create(remoteHost, {
    peerId: 7,
    addresses: ['10.80.0.2/24', 'fd80::2/112'],
    routes: ['10.81.1.0/24'],
    endpoint: { address: node.ipv4, port: 1194 },
    material,
  });
  // It takes the next key whenever that comes.
  remote.install('secondary', 2);
  await agent.start();
  await agent.untilReady('corp', 1);
  pod = await attachPod(agent, 'p');
});
afterAll(async () => {
  await hosts.remove();
});

const messageOf = ({ networks }: NodeReport): string =>
  networks[0]?.peers.find(({ name }) => name.endsWith('office'))?.message ?? '';
const flows = async (): Promise<void> => {
  expect(await ping(pod.netns, lan, { count: 3 })).toMatchObject({ received: 3 });
};

/** Fills the disk of the state folder to its last block; gives it back. */
function fillDisk(): () => void {
  const file = join(agent.state, 'filler');
  for (const size of ['4k', '1k', '1']) {
    try {
      execFileSync('dd', ['if=/dev/zero', `of=${file}`, `bs=${size}`, 'oflag=append', 'conv=notrunc'], {
        stdio: 'pipe',
      });
    } catch {
      // It ends with ENOSPC: that is what it is for.
    }
  }
  return () => rmSync(file);
}

/** Has strace(1) make system calls of the agent fail, until the answer is called. */
async function inject(syscall: string, how: string): Promise<() => Promise<void>> {
  const args = ['-f', '-p', String(agent.agentPid), '-o', '/dev/null', '-e', `trace=${syscall}`];
  const tracer = new Service('strace', [...args, '-e', `inject=${syscall}:${how}`]);
  await eventually('strace has hold of the agent', () => tracer.log.includes('attached') || undefined, { stepMs: 10 });
  return () => tracer.end();
}

describe.each<[string, number, () => Promise<() => unknown>]>([
  ['full', 2, () => Promise.resolve(fillDisk())],
  ['on a disk that fails', 3, () => inject('fsync', 'error=EIO')],
])('a state folder that is %s', (_what, generation, deny) => {
  let giveBack: () => unknown;
  beforeAll(async () => {
    giveBack = await deny();
  });

  test('lets no key be installed that cannot be written down, and says so; the one in use stays', async () => {
    agent.apply('key.yaml', officeKey(generation));
    const said = /no space left|i\/o error/i;
    await agent.until('the complaint', (report) => said.test(messageOf(report)) || said.test(agent.log));
    const slots = kernel.slots(7).split('/');
    expect(slots).toContain(String(generation - 1));
    // The last block of a file that is there may have room for a line on the fullest disk. Then it is written down.
    const ledger = readFileSync(join(agent.state, 'spent-keys.jsonl'), 'utf8');
    if (generation === 3 || !ledger.includes(`"generation":${generation}`))
      expect(slots).not.toContain(String(generation));
    if (generation === 2) await flows();
  });

  test('lets no pod be attached whose address cannot be written down, and says so; the others stay', async () => {
    const netns = await hosts.namespace(`faults-${generation}`);
    const call = { network: 'corp', containerId: `faults-${generation}`, netns };
    const refused = await agent.cni('ADD', call);
    expect(refused.code).not.toBe(0);
    expect(refused.stdout).toMatch(/ENOSPC|no space left|EIO|i\/o error/i);
    // Nothing is left in the sandbox, and the agent lives.
    expect(await run('nsenter', `--net=${netns}`, 'ip', '-o', 'link')).not.toContain('vpn0');
    await agent.report();
  });

  test('is used again by itself when it can be: the key is rotated, pods are attached', async () => {
    await giveBack();
    await eventually('the next key', () => kernel.slots(7).startsWith(`${generation}/`) || undefined);
    if (generation === 2) await flows();
    const again = await attachPod(agent, `after-${generation}`);
    expect((await agent.cni('DEL', again.call)).code).toBe(0);
  });
});

test('an agent without a free descriptor attaches nothing, says so, and does so again when it has some', async () => {
  const pid = String(agent.agentPid);
  const used = Math.max(...readdirSync(`/proc/${pid}/fd`).map(Number));
  // As many as it has now: the connection of a caller is one too many, or what serving it opens.
  await run('prlimit', '--pid', pid, `--nofile=${used + 1}:524288`);
  const netns = await hosts.namespace('faults-fds');
  const call = { network: 'corp', containerId: 'faults-fds', netns };
  const refused = await agent.cni('ADD', call);
  expect(refused.code).not.toBe(0);
  expect(await run('nsenter', `--net=${netns}`, 'ip', '-o', 'link')).not.toContain('vpn0');
  expect(kernel.peers()).toHaveLength(1);
  await run('prlimit', '--pid', pid, '--nofile=524288:524288');
  await eventually('it attaches again', async () => {
    const { code } = await agent.cni('ADD', call);
    return code === 0 || undefined;
  });
  expect((await agent.cni('DEL', call)).code).toBe(0);
  expect(agent.agentPid).toBe(Number(pid));
});

describe('a request to the kernel that fails', () => {
  const branch = (n: number): readonly [string, string][] => [
    [`step-secret.yaml`, secret('step', newStaticKey())],
    [`step-key.yaml`, key({ name: 'step', direction: 'Normal', generation: n })],
    [
      `step-peer.yaml`,
      peer({
        name: 'step',
        peerID: 9,
        endpoint: { address: '203.0.113.77', port: 1194 },
        addresses: ['10.80.0.9', 'fd80::9'],
        routes: ['192.168.77.0/24', 'fd77::/64'],
      }),
    ],
  ];
  /** As many as there are, and some of the next look at the network. */
  const steps = 6;
  const errnos = ['ENOBUFS', 'EPERM'] as const;
  const picture = async (): Promise<string> => {
    const text = await kernel.picture();
    // What the kernel counts down or up.
    return text.replaceAll(/ (valid_lft|preferred_lft|expires) \S+/g, '');
  };

  test('whichever it is of those that make a peer, is made again, and the end is the same', async () => {
    let first: string | undefined;
    for (let step = 1; step <= steps; step++) {
      const errno = errnos[step % 2] ?? errnos[0];
      const giveBack = await inject('sendto', `error=${errno}:when=${step}`);
      for (const [file, text] of branch(step % 2 === 0 ? 2 : 1)) agent.apply(file, text);
      await agent.until(
        `the peer after ${errno} at request ${step}`,
        ({ networks }) =>
          networks[0]?.peers.some(({ name, ready }) => name.endsWith('step') && ready === 'True') === true,
      );
      await giveBack();
      const now = (await picture()).replaceAll(/keys of 9: \d/g, 'keys of 9: n');
      first ??= now;
      expect(now).toBe(first);
      for (const [file] of branch(1)) agent.unapply(file);
      await eventually('the peer is gone', () => kernel.peer(9) === undefined || undefined);
    }
  });
});
