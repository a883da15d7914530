/**
 * Measures how fast the driver releases peers, with and without expedited RCU grace periods.
 * In the lab: `node test/kernel/measure-release.ts [PEERS]`
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { Scene } from './support.ts';

const expedited = '/sys/kernel/rcu_expedited';
const count = Number(process.argv[2] ?? 300);

for (const value of ['0', '1']) {
  writeFileSync(expedited, value);
  const scene = new Scene();
  const ns = scene.namespace();
  const { fd } = scene.udp(ns);
  const ids = Array.from({ length: count }, (_, i) => i + 1);
  const make = (device: number, socket: number): void => {
    const outcomes = ns.ovpn.batch(
      ids.map((id) =>
        ns.ovpn.requests.peerNew(device, {
          id,
          socket,
          remote: { address: '127.0.0.1', port: 1000 + id },
          vpnIpv4: `10.80.${id >> 8}.${id & 255}`,
        }),
      ),
    );
    if (!outcomes.every(({ ok }) => ok)) throw new Error('refused');
  };
  const report = (what: string, act: () => void): void => {
    const start = performance.now();
    act();
    const ms = performance.now() - start;
    console.log(
      `rcu_expedited=${readFileSync(expedited, 'utf8').trim()} ${what}: ${count} in ${ms.toFixed(0)} ms, ${((count * 1000) / ms).toFixed(0)}/s`,
    );
  };
  const first = ns.device('mp', ['10.80.255.254/16']);
  report('create', () => make(first, fd));
  report('PEER_DEL batch', () => ns.ovpn.batch(ids.map((id) => ns.ovpn.requests.peerDel(first, id))));
  make(first, fd);
  report('delete the device', () => ns.deleteDevice(first));
  const second = ns.device('mp');
  const other = scene.udp(ns);
  make(second, other.fd);
  report('close the socket', () => scene.closeFd(other.fd));
  report('close the socket, then delete the device', () => ns.deleteDevice(second));
  const p2p = ns.device('p2p');
  report('replace in p2p', () =>
    ns.ovpn.batch(
      ids.map((id) => ns.ovpn.requests.peerNew(p2p, { id, socket: fd, remote: { address: '127.0.0.1', port: 9 } })),
    ),
  );
  await scene.close();
}
writeFileSync(expedited, '0');
