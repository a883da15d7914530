import type { Server } from 'node:http';
import type { Socket } from 'node:net';

/**
 * Holds a server to so many connections at a time. One more takes the place of the oldest of the address that has the
 * most: who opens many loses their own, and whoever opens one for a moment, as a kubelet does for its probes, gets its
 * answer. Node.js' own `maxConnections` turns the newcomer away, so that anybody who reaches the port and holds all of
 * them would have the kubelet restart us.
 */
export function shareConnections(server: Server, most: number): void {
  /** The oldest first. */
  const connections = new Map<Socket, string>();
  server.on('connection', (socket) => {
    // Known now only: a connection that has ended has no address.
    connections.set(socket, socket.remoteAddress ?? '');
    socket.once('close', () => connections.delete(socket));
    if (connections.size > most) oldestOfMost(connections)?.destroy();
  });
}

function oldestOfMost(connections: ReadonlyMap<Socket, string>): Socket | undefined {
  const counts = new Map<string, number>();
  for (const address of connections.values()) counts.set(address, (counts.get(address) ?? 0) + 1);
  const most = Math.max(...counts.values());
  for (const [socket, address] of connections) if (counts.get(address) === most) return socket;
  return undefined;
}
