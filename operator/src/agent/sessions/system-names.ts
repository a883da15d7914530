import { lookup, Resolver } from 'node:dns/promises';
import { describe } from '../../errors.ts';
import { type NameAnswer, NameGone } from '../../openvpn/endpoint/remote-names.ts';

/** How long to wait for the time to live once there are addresses. Milliseconds. */
const ttlPatienceMs = 1_000;

/**
 * Asks this host's resolver for a name: files, search domains and the order of addresses (RFC 6724) are the host's own,
 * as for any program. It tells no time to live, so the name servers are asked for that beside it; where they do not know
 * these addresses, nobody says how long they are good for.
 *
 * Rejects with NameGone when nothing has the name, with an Error when there is no answer.
 */
export async function askSystem(host: string): Promise<NameAnswer> {
  const timesToLive = askTimesToLive(host);
  try {
    const found = await lookup(host, { all: true, order: 'verbatim' });
    return answerOf(
      found.map(({ address }) => address),
      await timesToLive,
    );
  } catch (error) {
    const isGone = (error as NodeJS.ErrnoException).code === 'ENOTFOUND';
    throw isGone ? new NameGone(describe(error), { cause: error }) : error;
  }
}

/** The addresses, good for as long as each of them is; nobody says when one of them is not among the known. */
export function answerOf(addresses: readonly string[], timesToLive: ReadonlyMap<string, number>): NameAnswer {
  const known = addresses.flatMap((address) => timesToLive.get(address) ?? []);
  const isWhole = addresses.length > 0 && known.length === addresses.length;
  return { addresses, ttlSeconds: isWhole ? Math.min(...known) : undefined };
}

/** The times to live of a name's addresses, in seconds; none where there is no answer. */
async function askTimesToLive(host: string): Promise<ReadonlyMap<string, number>> {
  // Anew each time: the host's name servers may have changed.
  const resolver = new Resolver({ timeout: ttlPatienceMs, tries: 1 });
  const answers = await Promise.allSettled([
    resolver.resolve4(host, { ttl: true }),
    resolver.resolve6(host, { ttl: true }),
  ]);
  const records = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
  return new Map(records.map(({ address, ttl }) => [address, ttl]));
}
