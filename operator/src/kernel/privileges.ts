import { readFileSync } from 'node:fs';
import { OvpnError } from '../errors.ts';

/** Bits of capabilities(7) that the kernel asks for: links and peers; entering and making namespaces. */
const needed = { CAP_NET_ADMIN: 12n, CAP_SYS_ADMIN: 21n };

/** What a whole machine maps: anything less is a user namespace of its own. */
const initialUidMap = '0 0 4294967295';

/**
 * Says at the start, and in one sentence, what would otherwise be refusals of the kernel one by one.
 *
 * @param folder of this process in proc(5)
 * @throws OvpnError NotPermitted
 */
export function requirePrivileges(folder = '/proc/self'): void {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync(`${folder}/status`, 'utf8'))?.[1] ?? '0';
  const missing = Object.entries(needed).flatMap(([name, bit]) =>
    (BigInt(`0x${effective}`) >> bit) & 1n ? [] : [name],
  );
  if (missing.length > 0) throw new OvpnError('NotPermitted', `this process does not have ${missing.join(' and ')}`);
  if (readFileSync(`${folder}/uid_map`, 'utf8').trim().replaceAll(/\s+/g, ' ') !== initialUidMap) {
    throw new OvpnError(
      'NotPermitted',
      'this process is in a user namespace of its own, whose rights end at its own network namespaces',
    );
  }
}
