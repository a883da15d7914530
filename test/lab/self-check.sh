#!/usr/bin/env bash
# Checks that a lab kernel is fit for the project's tests. Run it in the lab:
#   npm run lab -- test/lab/self-check.sh
# Prints one line per check and ends with 1 if any failed.
set -u
failed=0
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null' EXIT

check() { # check NAME COMMAND…
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    echo "ok      $name"
  else
    echo "FAILED  $name: ${output:0:400}"
    failed=1
  fi
}

[ -n "${LAB_KERNEL:-}" ] || {
  echo "This runs in the lab: npm run lab -- test/lab/self-check.sh" >&2
  exit 2
}
echo "kernel $LAB_KERNEL: $(uname -r), $(nproc) CPU(s), $(ip -V)"

# The host's own programs, on newer libraries where the lab brings some.
check 'bash' bash -c 'printf %s x | tr x y | grep -q y'
check 'node, with a worker and a child' node -e '
  const { Worker } = require("worker_threads");
  new Worker("require(`child_process`).execFileSync(`true`)", { eval: true }).on("exit", process.exit)'
for program in python3 git; do
  command -v $program >/dev/null && check "$program" $program --version
done
check 'throw-away project folder' sh -c 'echo x >self-check.tmp && rm self-check.tmp'
check 'cgroup v2 controllers' grep -q 'memory.*pids' /sys/fs/cgroup/cgroup.controllers
check 'fresh /run and /tmp' sh -c 'touch /run/x /tmp/x && rm /run/x /tmp/x'
check '/dev/net/tun' sh -c 'ip tuntap add dev tun9 mode tun && ip link del tun9'

check 'two network namespaces' sh -c 'ip netns add a && ip netns add b &&
  ip link add va netns a type veth peer name vb netns b &&
  ip -n a addr add 192.0.2.1/24 dev va && ip -n b addr add 192.0.2.2/24 dev vb &&
  ip -n a link set va up && ip -n b link set vb up && ip -n a link set lo up && ip -n b link set lo up'
check 'veth and ping' ip netns exec a ping -c 2 -i 0.2 -W 2 192.0.2.2
check 'nftables: inet, nat, fib, ct' ip netns exec a nft -f - <<'N'
table inet t {
  chain c { type filter hook input priority 0; fib saddr oif exists ct state new counter accept; }
  chain n { type nat hook postrouting priority 100; ip saddr 203.0.113.0/24 masquerade; }
  chain m { type filter hook forward priority 0; tcp flags syn tcp option maxseg size set rt mtu; }
}
N
check 'netem' ip netns exec a tc qdisc add dev va root netem delay 1ms
check 'wireguard device' sh -c 'ip link add wg9 type wireguard && ip link del wg9'
check 'vrf device' sh -c 'ip link add vrf9 type vrf table 9 && ip link del vrf9'
check 'ovpn device, multi-peer' sh -c 'ip link add mp9 type ovpn mode mp && ip -d link show mp9 | grep -q "ovpn mode mp" && ip link del mp9'

certificate() { # certificate NAME
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" \
    -keyout "$work/$1.key" -out "$work/$1.crt" 2>/dev/null
}
fingerprint() { openssl x509 -in "$work/$1.crt" -noout -fingerprint -sha256 | cut -d= -f2; }

tunnel() { # tunnel SERVER_PROGRAM CLIENT_PROGRAM WHERE
  ip netns exec a "$1" --dev ovpn-a --dev-type tun --proto udp4 --local 192.0.2.1 --topology subnet --dh none \
    --server 198.51.100.0 255.255.255.0 --cert "$work/server.crt" --key "$work/server.key" \
    --peer-fingerprint "$(fingerprint client)" --keepalive 5 30 --log "$work/$3-server.log" &
  local server=$!
  ip netns exec b "$2" --dev ovpn-b --dev-type tun --proto udp4 --client --remote 192.0.2.1 --nobind \
    --cert "$work/client.crt" --key "$work/client.key" --peer-fingerprint "$(fingerprint server)" \
    --connect-retry 1 --log "$work/$3-client.log" &
  local client=$! ok=1
  for _ in $(seq 60); do
    ip netns exec b ping -c 1 -W 1 198.51.100.1 >/dev/null 2>&1 && ok=0 && break
    sleep 0.5
  done
  [ $ok = 0 ] || tail -n 5 "$work/$3-server.log" "$work/$3-client.log"
  if [ $ok = 0 ] && [ "$1" = openvpn ]; then
    ip -n a -d link show ovpn-a | grep -q 'ovpn mode mp' || { echo 'the server does not use the ovpn driver'; ok=1; }
  fi
  kill $server $client
  wait $server $client 2>/dev/null
  return $ok
}
if command -v openvpn openssl >/dev/null; then
  certificate server && certificate client
  check "$(openvpn --version | head -1 | cut -d' ' -f1,2) over the driver, both ends" tunnel openvpn openvpn new
  command -v openvpn-2.6 >/dev/null &&
    check "$(openvpn-2.6 --version | head -1 | cut -d' ' -f1,2) as client" tunnel openvpn openvpn-2.6 old
fi
exit $failed
