import type { Host } from '../support/hosts.ts';
import { run } from '../support/run.ts';

/** A LAN of one host, PREFIX.10, with `router` at PREFIX.1. @returns the path of that host's namespace */
export async function makeLan(router: Host, namespace: string, prefix: string): Promise<string> {
  const path = await router.hosts.namespace(namespace);
  const ends = ['lan0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace];
  await run('ip', '-n', router.namespace, 'link', 'add', ...ends);
  await run('ip', '-n', router.namespace, 'addr', 'add', `${prefix}.1/24`, 'dev', 'lan0');
  await run('ip', '-n', router.namespace, 'link', 'set', 'lan0', 'up');
  await run('ip', '-n', namespace, 'addr', 'add', `${prefix}.10/24`, 'dev', 'eth0');
  await run('ip', '-n', namespace, 'link', 'set', 'eth0', 'up');
  await run('ip', '-n', namespace, 'route', 'add', 'default', 'via', `${prefix}.1`);
  await router.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1');
  return path;
}
