// SPDX-License-Identifier: Apache-2.0
/*
 * The yardstick of the benchmarks: the same netlink work as operator/src/kernel, in plain C. Nothing but libc;
 * written from the uapi (linux/netlink.h, linux/genetlink.h, Documentation/netlink/specs/ovpn.yaml).
 *
 *   ovpn-netlink load IFINDEX PEERS REPEATS [once]   PEER_NEW and KEY_NEW of PEERS peers, then as `read`
 *   ovpn-netlink read IFINDEX PEERS REPEATS [once]   REPEATS times: PEER_GET dump, KEY_GET of both slots of all
 *   ovpn-netlink set  IFINDEX ID PORT                PEER_SET of one peer's remote
 *
 * Runs in the network namespace of the device. `load` takes the UDP socket of the peers as descriptor 3. Every
 * request asks for an acknowledgement, or with `once` the last of each send, as ours do; all answers are checked.
 * The result is a line of JSON; times are in nanoseconds and leave out start-up and the making of keys.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CMD_PEER_NEW = 1, CMD_PEER_SET = 2, CMD_PEER_GET = 3, CMD_KEY_NEW = 6, CMD_KEY_GET = 7 };
enum { A_IFINDEX = 1, A_PEER = 2, A_KEYCONF = 3 };
enum {
	P_ID = 1, P_REMOTE_IPV4 = 2, P_REMOTE_IPV6 = 3, P_SCOPE_ID = 4, P_REMOTE_PORT = 5, P_SOCKET = 6,
	P_SOCKET_NETNSID = 7, P_VPN_IPV4 = 8, P_VPN_IPV6 = 9, P_LOCAL_IPV4 = 10, P_LOCAL_IPV6 = 11, P_LOCAL_PORT = 12,
	P_KEEPALIVE_INTERVAL = 13, P_KEEPALIVE_TIMEOUT = 14, P_FIRST_COUNTER = 16, P_LAST_COUNTER = 23, P_TX_ID = 24
};
enum { K_PEER_ID = 1, K_SLOT = 2, K_KEY_ID = 3, K_CIPHER = 4, K_ENCRYPT = 5, K_DECRYPT = 6 };
enum { D_CIPHER_KEY = 1, D_NONCE_TAIL = 2 };

/* The same as in operator/src/kernel/netlink/socket.ts. */
enum { BATCH_BYTES = 64 * 1024, RECEIVE_BYTES = 128 * 1024, SOCKET_BYTES = 4 * 1024 * 1024 };
enum { KEY_BYTES = 32, TAIL_BYTES = 8, TYPE_MASK = 0x3fff };

struct direction { uint8_t key[KEY_BYTES], tail[TAIL_BYTES]; };
struct keys { struct direction encrypt, decrypt; };

/* All that PEER_GET tells of a peer. */
struct peer {
	uint32_t id, tx_id, scope_id, interval, timeout;
	int32_t netnsid;
	uint8_t remote[16], vpn4[4], vpn6[16], local[16];
	uint16_t remote_port, local_port;
	uint64_t counters[P_LAST_COUNTER - P_FIRST_COUNTER + 1];
};
struct key { uint32_t peer, slot, id, cipher; };

static int fd;
static uint16_t family;
static uint32_t sequence, ifindex;
static uint8_t out[BATCH_BYTES + 4096], in[RECEIVE_BYTES];
static size_t used;
static size_t message_start;
/* NLM_F_ACK when every request asks for an acknowledgement. */
static uint16_t ack = NLM_F_ACK;

static void fail(const char *what, int error)
{
	fprintf(stderr, "ovpn-netlink: %s: %s\n", what, strerror(error));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Writing. */

static void attribute(uint16_t type, const void *value, size_t length)
{
	struct nlattr *a = (struct nlattr *)(out + used);
	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + length);
	memcpy(out + used + NLA_HDRLEN, value, length);
	memset(out + used + NLA_HDRLEN + length, 0, NLA_ALIGN(length) - length);
	used += NLA_HDRLEN + NLA_ALIGN(length);
}

static void u32(uint16_t type, uint32_t value) { attribute(type, &value, sizeof value); }

static size_t nest(uint16_t type)
{
	struct nlattr *a = (struct nlattr *)(out + used);
	a->nla_type = type | NLA_F_NESTED;
	used += NLA_HDRLEN;
	return used - NLA_HDRLEN;
}

static void end_nest(size_t start) { ((struct nlattr *)(out + start))->nla_len = (uint16_t)(used - start); }

static void begin(uint16_t type, uint16_t flags, uint8_t command, int with_ifindex)
{
	struct nlmsghdr *h = (struct nlmsghdr *)(out + used);
	struct genlmsghdr *g = (struct genlmsghdr *)(out + used + NLMSG_HDRLEN);
	message_start = used;
	*h = (struct nlmsghdr){.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = ++sequence};
	*g = (struct genlmsghdr){.cmd = command, .version = 1};
	used += NLMSG_HDRLEN + GENL_HDRLEN;
	if (with_ifindex) u32(A_IFINDEX, ifindex);
}

static void end(void) { ((struct nlmsghdr *)(out + message_start))->nlmsg_len = (uint32_t)(used - message_start); }

static void flush(void)
{
	struct nlmsghdr *last = (struct nlmsghdr *)(out + message_start);
	if (!(last->nlmsg_flags & NLM_F_DUMP)) last->nlmsg_flags |= NLM_F_ACK;
	if (send(fd, out, used, 0) < 0) fail("send", errno);
	used = 0;
}

/* Reading. */

static ssize_t receive(void)
{
	struct sockaddr_nl from;
	socklen_t length = sizeof from;
	ssize_t got = recvfrom(fd, in, sizeof in, MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &length);
	if (got < 0) fail("recvfrom", errno);
	if (from.nl_pid != 0) return 0;
	if ((size_t)got > sizeof in) fail("reply cut off", EMSGSIZE);
	return got;
}

typedef void reader(const struct nlmsghdr *);

/* Reads until the last request of a send of `count` is acknowledged; refuses errors except `allowed`. */
static void collect(uint32_t count, int allowed, reader *read)
{
	for (uint32_t acknowledged = 0;;) {
		int left = (int)receive();
		for (struct nlmsghdr *h = (struct nlmsghdr *)in; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
			if (h->nlmsg_type != NLMSG_ERROR) {
				if (read) read(h);
				continue;
			}
			int error = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
			if (error != 0 && error != allowed) fail("the kernel refused a request", error);
			acknowledged++;
			if (h->nlmsg_seq != sequence) continue;
			if (ack && acknowledged != count) fail("an acknowledgement is missing", EBADMSG);
			return;
		}
	}
}

static void dump(reader *read)
{
	for (;;) {
		int left = (int)receive();
		for (struct nlmsghdr *h = (struct nlmsghdr *)in; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
			if (h->nlmsg_type == NLMSG_DONE) {
				int error = -*(int *)NLMSG_DATA(h);
				if (error != 0) fail("dump", error);
				return;
			}
			if (h->nlmsg_type == NLMSG_ERROR) fail("dump", -((struct nlmsgerr *)NLMSG_DATA(h))->error);
			if (h->nlmsg_flags & NLM_F_DUMP_INTR) fail("dump", EINTR);
			read(h);
		}
	}
}

#define EACH(a, data, length)                                                                                     \
	for (struct nlattr *a = (struct nlattr *)(data), *stop_ = (struct nlattr *)((uint8_t *)(data) + (length)); \
	     (uint8_t *)a + NLA_HDRLEN <= (uint8_t *)stop_ && a->nla_len >= NLA_HDRLEN &&                          \
	     (uint8_t *)a + a->nla_len <= (uint8_t *)stop_;                                                        \
	     a = (struct nlattr *)((uint8_t *)a + NLA_ALIGN(a->nla_len)))
#define VALUE(a) ((void *)((uint8_t *)(a) + NLA_HDRLEN))
#define LENGTH(a) ((size_t)(a)->nla_len - NLA_HDRLEN)
#define TYPE(a) ((a)->nla_type & TYPE_MASK)

static const struct nlattr *find(const struct nlmsghdr *h, int type)
{
	EACH(a, (uint8_t *)h + NLMSG_HDRLEN + GENL_HDRLEN, h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN)
		if (TYPE(a) == type) return a;
	fail("reply without its nest", EBADMSG);
	return NULL;
}

static void copy(void *to, size_t room, const struct nlattr *a)
{
	if (LENGTH(a) > room) fail("reply with a long attribute", EBADMSG);
	memcpy(to, VALUE(a), LENGTH(a));
}

static struct peer *peers;
static struct key *found_keys;
static size_t peer_room, peer_count, key_count;

static void read_peer(const struct nlmsghdr *h)
{
	const struct nlattr *nested = find(h, A_PEER);
	if (peer_count == peer_room) fail("more peers than were made", EOVERFLOW);
	struct peer *p = &peers[peer_count++];
	*p = (struct peer){0};
	EACH(a, VALUE(nested), LENGTH(nested)) {
		int type = TYPE(a);
		switch (type) {
		case P_ID: copy(&p->id, 4, a); break;
		case P_TX_ID: copy(&p->tx_id, 4, a); break;
		case P_REMOTE_IPV4:
		case P_REMOTE_IPV6: copy(p->remote, 16, a); break;
		case P_SCOPE_ID: copy(&p->scope_id, 4, a); break;
		case P_REMOTE_PORT: copy(&p->remote_port, 2, a); p->remote_port = ntohs(p->remote_port); break;
		case P_LOCAL_IPV4:
		case P_LOCAL_IPV6: copy(p->local, 16, a); break;
		case P_LOCAL_PORT: copy(&p->local_port, 2, a); p->local_port = ntohs(p->local_port); break;
		case P_SOCKET_NETNSID: copy(&p->netnsid, 4, a); break;
		case P_VPN_IPV4: copy(p->vpn4, 4, a); break;
		case P_VPN_IPV6: copy(p->vpn6, 16, a); break;
		case P_KEEPALIVE_INTERVAL: copy(&p->interval, 4, a); break;
		case P_KEEPALIVE_TIMEOUT: copy(&p->timeout, 4, a); break;
		default:
			if (type >= P_FIRST_COUNTER && type <= P_LAST_COUNTER) copy(&p->counters[type - P_FIRST_COUNTER], 8, a);
		}
	}
}

static void read_key(const struct nlmsghdr *h)
{
	const struct nlattr *nested = find(h, A_KEYCONF);
	if (key_count == 2 * peer_room) fail("more keys than slots", EOVERFLOW);
	struct key *k = &found_keys[key_count++];
	EACH(a, VALUE(nested), LENGTH(nested)) {
		switch (TYPE(a)) {
		case K_PEER_ID: copy(&k->peer, 4, a); break;
		case K_SLOT: copy(&k->slot, 4, a); break;
		case K_KEY_ID: copy(&k->id, 4, a); break;
		case K_CIPHER: copy(&k->cipher, 4, a); break;
		}
	}
}

/* Start-up. */

static void read_family(const struct nlmsghdr *h) { copy(&family, 2, find(h, CTRL_ATTR_FAMILY_ID)); }

static void open_family(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK};
	int on = 1, bytes = SOCKET_BYTES;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (fd < 0) fail("socket", errno);
	setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
	setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind", errno);
	begin(GENL_ID_CTRL, NLM_F_ACK, CTRL_CMD_GETFAMILY, 0);
	attribute(CTRL_ATTR_FAMILY_NAME, "ovpn", 5);
	end();
	flush();
	collect(1, 0, read_family);
}

/* The work. */

static void remote_of(uint32_t id)
{
	uint32_t address = htonl(0xc6120000u + id); /* 198.18.0.0/15 */
	uint16_t port = htons((uint16_t)(1024 + id % 60000));
	attribute(P_REMOTE_IPV4, &address, sizeof address);
	attribute(P_REMOTE_PORT, &port, sizeof port);
}

static uint64_t new_peers(uint32_t count)
{
	uint64_t start = now();
	for (uint32_t id = 1; id <= count;) {
		uint32_t batch = 0;
		for (; id <= count && used < BATCH_BYTES; id++, batch++) {
			uint32_t vpn = htonl(0x0a500000u + id); /* 10.80.0.0/16 */
			begin(family, ack, CMD_PEER_NEW, 1);
			size_t peer = nest(A_PEER);
			u32(P_ID, id);
			remote_of(id);
			u32(P_SOCKET, 3);
			attribute(P_VPN_IPV4, &vpn, sizeof vpn);
			u32(P_KEEPALIVE_INTERVAL, 3600);
			u32(P_KEEPALIVE_TIMEOUT, 7200);
			end_nest(peer);
			end();
		}
		flush();
		collect(batch, 0, NULL);
	}
	return now() - start;
}

static void write_direction(uint16_t type, const struct direction *d)
{
	size_t start = nest(type);
	attribute(D_CIPHER_KEY, d->key, KEY_BYTES);
	attribute(D_NONCE_TAIL, d->tail, TAIL_BYTES);
	end_nest(start);
}

static uint64_t new_keys(uint32_t count, const struct keys *keys)
{
	uint64_t start = now();
	for (uint32_t id = 1; id <= count;) {
		uint32_t batch = 0;
		for (; id <= count && used < BATCH_BYTES; id++, batch++) {
			begin(family, ack, CMD_KEY_NEW, 1);
			size_t keyconf = nest(A_KEYCONF);
			u32(K_PEER_ID, id);
			u32(K_SLOT, 0);
			u32(K_KEY_ID, 1);
			u32(K_CIPHER, 1); /* AES-GCM */
			write_direction(K_ENCRYPT, &keys[id - 1].encrypt);
			write_direction(K_DECRYPT, &keys[id - 1].decrypt);
			end_nest(keyconf);
			end();
		}
		flush();
		collect(batch, 0, NULL);
	}
	return now() - start;
}

static uint64_t get_peers(void)
{
	uint64_t start = now();
	peer_count = 0;
	begin(family, NLM_F_DUMP, CMD_PEER_GET, 1);
	end();
	flush();
	dump(read_peer);
	return now() - start;
}

static uint64_t get_keys(void)
{
	uint64_t start = now();
	key_count = 0;
	for (size_t slot = 0; slot < 2 * peer_count;) {
		uint32_t batch = 0;
		for (; slot < 2 * peer_count && used < BATCH_BYTES; slot++, batch++) {
			begin(family, ack, CMD_KEY_GET, 1);
			size_t keyconf = nest(A_KEYCONF);
			u32(K_PEER_ID, peers[slot / 2].id);
			u32(K_SLOT, slot % 2);
			end_nest(keyconf);
			end();
		}
		flush();
		collect(batch, ENOENT, read_key);
	}
	return now() - start;
}

static void set_remote(uint32_t id, uint16_t port)
{
	uint32_t address = htonl(0xc6120000u + id);
	uint16_t be = htons(port);
	begin(family, ack, CMD_PEER_SET, 1);
	size_t peer = nest(A_PEER);
	u32(P_ID, id);
	attribute(P_REMOTE_IPV4, &address, sizeof address);
	attribute(P_REMOTE_PORT, &be, sizeof be);
	end_nest(peer);
	end();
	flush();
	collect(1, 0, NULL);
}

static void print_all(const char *name, const uint64_t *values, size_t count)
{
	printf("\"%s\":[", name);
	for (size_t i = 0; i < count; i++) printf("%s%llu", i ? "," : "", (unsigned long long)values[i]);
	printf("],");
}

/* ru_maxrss would not do: it counts what the parent had before exec. */
static long peak_kib(void)
{
	char line[256];
	long kib = 0;
	FILE *status = fopen("/proc/self/status", "r");
	if (!status) fail("/proc/self/status", errno);
	while (fgets(line, sizeof line, status)) sscanf(line, "VmHWM: %ld", &kib);
	fclose(status);
	return kib;
}

int main(int argc, char **argv)
{
	if (argc != 5 && argc != 6) {
		fprintf(stderr, "usage: ovpn-netlink load|read IFINDEX PEERS REPEATS [once]\n       ovpn-netlink set IFINDEX ID PORT\n");
		return 2;
	}
	if (argc == 6) ack = 0;
	int load = strcmp(argv[1], "load") == 0;
	ifindex = (uint32_t)strtoul(argv[2], NULL, 10);
	uint32_t count = (uint32_t)strtoul(argv[3], NULL, 10);
	size_t repeats = strtoul(argv[4], NULL, 10);
	open_family();
	if (strcmp(argv[1], "set") == 0) {
		set_remote(count, (uint16_t)repeats);
		printf("{}\n");
		return 0;
	}
	uint64_t peer_new = 0, key_new = 0;
	if (load) {
		struct keys *keys = calloc(count, sizeof *keys);
		if (!keys) fail("calloc", ENOMEM);
		for (uint32_t i = 0; i < count; i++)
			if (getrandom(&keys[i], sizeof *keys, 0) != sizeof *keys) fail("getrandom", errno);
		peer_new = new_peers(count);
		key_new = new_keys(count, keys);
		explicit_bzero(keys, count * sizeof *keys);
		free(keys);
	}
	peer_room = count;
	peers = calloc(count, sizeof *peers);
	found_keys = calloc(2 * (size_t)count, sizeof *found_keys);
	uint64_t *dumps = calloc(repeats + 1, sizeof *dumps), *gets = calloc(repeats + 1, sizeof *gets);
	if (!peers || !found_keys || !dumps || !gets) fail("calloc", ENOMEM);
	for (size_t i = 0; i < repeats; i++) {
		dumps[i] = get_peers();
		gets[i] = get_keys();
	}
	printf("{\"peerNew\":%llu,\"keyNew\":%llu,", (unsigned long long)peer_new, (unsigned long long)key_new);
	print_all("dump", dumps, repeats);
	print_all("keyGet", gets, repeats);
	printf("\"peers\":%zu,\"keys\":%zu,\"peakKiB\":%ld}\n", peer_count, key_count, peak_kib());
	return 0;
}
