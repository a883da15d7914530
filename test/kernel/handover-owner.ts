// The first owner of handover.test.ts: makes a socket with a peer in the namespace argv[2], hands it over at argv[4].
import { AF_UNIX, connect, sendWithFd, SOCK_SEQPACKET, socket } from '../../operator/src/kernel/libc.ts';
import { inNamespace } from '../../operator/src/kernel/netns.ts';
import { OvpnFamily } from '../../operator/src/kernel/ovpn/family.ts';
import { openUdpSocket } from '../../operator/src/kernel/transport-socket.ts';

const [namespace = '', device = '', path = ''] = process.argv.slice(2);
const family = OvpnFamily.open(namespace);
const fd = inNamespace(namespace, () => openUdpSocket({ address: '127.0.0.1', port: 0 }));
family.send(
  family.requests.peerNew(Number(device), {
    id: 5,
    socket: fd,
    remote: { address: '127.0.0.1', port: 1194 },
    vpnIpv4: '10.80.0.2',
  }),
);
const connection = socket(AF_UNIX, SOCK_SEQPACKET, 0);
connect(connection, Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(`${path}\0`)]));
sendWithFd(connection, Buffer.from('here it is'), fd);
// Until it is killed.
setInterval(() => undefined, 60_000);
