import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { openvpn26, openvpn27, type OpenvpnProcess } from '../support/openvpn.ts';
import { connection, peerStatus } from '../support/peer-status.ts';
import { eventually, Service } from '../support/run.ts';
import { defaultPort, netnsOf, nodeVpn, reaches, Scene } from './scene.ts';

/**
 * Strangers who hold on to whatever they get: connections that say nothing or a byte at a time, records of impossible
 * lengths, floods of first packets. Clients get in meanwhile, those who are in notice nothing, and afterwards the agent
 * has given everything back.
 */
let scene: Scene;
let stays: OpenvpnProcess;
let attackers: { readonly netns: string; readonly address: string };

beforeAll(async () => {
  // Without wrapping, strangers get furthest.
  scene = await Scene.open('hostil', { wrap: 'none' });
  scene.admit('stays');
  stays = await scene.connectedClient('stays', { build: openvpn27 });
  const host = await scene.hosts.host('bad');
  attackers = { netns: netnsOf(host), address: scene.node.ipv4 };
});
afterAll(async () => {
  await scene.close();
});

const descriptors = (): number => readdirSync(`/proc/${scene.agent.agentPid}/fd`).length;
const residentKiB = (): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(join('/proc', String(scene.agent.agentPid), 'status'), 'utf8'))?.[1]);

/** Runs a program for Node.js on the attackers' host until it is ended. */
const attack = (program: string): Service =>
  new Service('nsenter', [`--net=${attackers.netns}`, process.execPath, '--input-type=commonjs', '-e', program]);

const target = (): string => `{ port: ${defaultPort}, host: '${attackers.address}' }`;

const attacks: Readonly<Record<string, () => string>> = {
  'hundreds of TCP connections that say nothing': () => `
    const { connect } = require('node:net');
    const open = () => connect(${target()}).on('error', () => undefined).on('close', () => setTimeout(open, 100));
    for (let n = 0; n < 400; n++) open();
    setInterval(() => console.log('at it'), 200);`,
  'TCP connections that send a first packet a byte at a time': () => `
    const { connect } = require('node:net'), { randomBytes } = require('node:crypto');
    const open = () => {
      // P_CONTROL_HARD_RESET_CLIENT_V2, a session id, no acknowledgement, message 0.
      const packet = Buffer.concat([Buffer.from([0, 14, 7 << 3]), randomBytes(8), Buffer.from([0, 0, 0, 0, 0])]);
      const socket = connect(${target()}).on('error', () => undefined);
      let at = 0;
      const timer = setInterval(() => socket.write(packet.subarray(at, ++at)), 300);
      socket.on('close', () => { clearInterval(timer); setTimeout(open, 100); });
    };
    for (let n = 0; n < 200; n++) open();
    setInterval(() => console.log('at it'), 200);`,
  'TCP records of impossible lengths': () => `
    const { connect } = require('node:net'), { randomBytes } = require('node:crypto');
    const open = (n) => {
      const socket = connect(${target()}).on('error', () => undefined).on('close', () => setTimeout(open, 20, n));
      socket.write(Buffer.concat([Buffer.from(n % 2 ? [0xff, 0xff] : [0, 0]), randomBytes(60_000)]));
    };
    for (let n = 0; n < 50; n++) open(n);
    setInterval(() => console.log('at it'), 200);`,
  'a flood of first packets over UDP from many ports, and of acknowledgements of nothing': () => `
    const { createSocket } = require('node:dgram'), { randomBytes } = require('node:crypto');
    const sockets = Array.from({ length: 64 }, () => createSocket('udp4').on('error', () => undefined));
    const first = () => Buffer.concat([Buffer.from([7 << 3]), randomBytes(8), Buffer.from([0, 0, 0, 0, 0])]);
    const ack = () => Buffer.concat([Buffer.from([5 << 3]), randomBytes(8), Buffer.from([8]), randomBytes(32 + 8)]);
    let n = 0;
    setInterval(() => {
      for (let k = 0; k < 100; k++) {
        const packet = n % 2 ? first() : ack();
        sockets[n++ % sockets.length].send(packet, ${defaultPort}, '${attackers.address}', () => undefined);
      }
    }, 20);
    setInterval(() => console.log('at it'), 200);`,
};

test.each(Object.keys(attacks))('%s', async (what) => {
  const before = { descriptors: descriptors(), memory: residentKiB() };
  const attacker = attack(attacks[what]?.() ?? '');
  try {
    await eventually('the attack runs', () => (attacker.log.match(/at it/g)?.length ?? 0) > 10 || undefined);
    // Somebody comes in by the same doors.
    for (const transport of ['UDP', 'TCP'] as const) {
      const name = `new${Object.keys(attacks).indexOf(what)}${transport.toLowerCase()}`;
      scene.admit(name);
      const client = await scene.connectedClient(name, { build: openvpn26, transport });
      await reaches(netnsOf(client.host), [nodeVpn.ipv4]);
      await client.end('SIGTERM');
    }
    await reaches(netnsOf(stays.host), [nodeVpn.ipv4, nodeVpn.ipv6]);
    expect(residentKiB() - before.memory).toBeLessThan(100 * 1024);
    expect(attacker.running).toBe(true);
  } finally {
    await attacker.end('SIGKILL');
  }
  // Handshakes that nobody goes on with end by themselves.
  await eventually('all is given back', () => descriptors() <= before.descriptors + 2 || undefined, {
    timeoutMs: 90_000,
  });
  expect(connection(peerStatus(scene.agent, 'stays'))).toBe('True/Connected');
  expect(stays.log.match(/Initialization Sequence Completed/g)).toHaveLength(1);
});
