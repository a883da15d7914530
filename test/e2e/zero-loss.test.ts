import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { PacketFlow } from '../support/packet-counter.ts';
import { count, type CountedTunnel, CountedTunnels, perSecond } from './counted-tunnels.ts';
import { nodeVpn } from './scene.ts';

/**
 * Numbered packets, 1,000 a second in each direction, while the agent dies and comes back; none is lost, and no
 * nonce is used twice. (Up to three minutes on a busy machine.)
 */
let counted: CountedTunnels;
beforeAll(async () => {
  counted = await CountedTunnels.open('noloss');
});
afterAll(async () => {
  await counted.scene.close();
});

// A machine that is busy with other things sends fewer; how many they were is printed.
describe('up to 1,000 packets a second in each direction, over UDP and TCP,', () => {
  test('are counted: three that are thrown away are missed, by their numbers', async () => {
    const [{ far, near, stock, vpn }] = counted.tunnels as readonly [CountedTunnel];
    const drop = `add table inet t; add chain inet t c { type filter hook input priority 0; }
      add rule inet t c ip saddr ${nodeVpn.ipv4} ip daddr ${vpn.ipv4} udp dport 5000 @th,96,32 { 700, 701, 1500 } drop`;
    await stock.host.exec('nft', drop);
    const flow = await PacketFlow.start(near, far, { perSecond, count: 2_000 });
    const { sent, lost, missing } = await counted.finish('to udp', flow);
    await stock.host.exec('nft', 'delete', 'table', 'inet', 't');
    expect({ sent, lost, missing }).toEqual({
      sent: 2_000,
      lost: 3,
      missing: [
        [700, 701],
        [1500, 1500],
      ],
    });
  });

  test('0 lost of 10,000 over a kill of the agent outside of renegotiations', async () => {
    const flows = await counted.startAll({ count });
    await counted.passes(flows, 3_000);
    await counted.killBetweenHandshakes();
    await counted.scene.agent.startAgent();
    await counted.expectWhole(flows);
  });
});

test('after all of that no nonce was used twice, and the counters of kernel, status and packets agree', async () => {
  await counted.expectCountsAndNonces();
});
