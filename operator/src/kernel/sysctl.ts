import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inNamespace } from './netns.ts';

/**
 * Network sysctls of a namespace. /proc/sys/net shows the namespace of the thread that opens the file
 * (net/sysctl_net.c, net_ctl_header_lookup), so each is read and written from inside.
 *
 * @param names e.g. `net.ipv4.ip_forward`; a dot inside an interface name is written as a slash, as in sysctl(8)
 */
export function readSysctls(namespace: string, names: readonly string[]): Map<string, string | undefined> {
  return inNamespace(namespace, () => {
    const values = new Map<string, string | undefined>();
    for (const name of names) {
      try {
        values.set(name, readFileSync(sysctlPath(name), 'utf8').trim());
      } catch {
        values.set(name, undefined);
      }
    }
    return values;
  });
}

export function writeSysctls(namespace: string, values: ReadonlyMap<string, string>): void {
  inNamespace(namespace, () => {
    for (const [name, value] of values) writeFileSync(sysctlPath(name), value);
  });
}

function sysctlPath(name: string): string {
  // sysctl(8) swaps the two separators, so that eth0.5 can be named: net.ipv4.conf.eth0/5.forwarding
  return join('/proc/sys', ...name.split('.').map((part) => part.replaceAll('/', '.')));
}
