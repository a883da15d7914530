#!/bin/sh
# First process of a QEMU lab. The root is the host's own `/`, read-only over virtiofs.
# Does what init-uml.sh does, and loads the stock kernel's modules. Settings come as environment
# variables from the kernel command line.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

fail() {
  echo "lab-init: $*"
  echo o >/proc/sysrq-trigger
  sleep 10
}

# share TAG MOUNT_POINT OPTION
share() {
  mkdir -p "$2"
  mount -t virtiofs -o "$3" "$1" "$2" || fail "cannot mount the host folder shared as '$1' at $2"
}

mount -t proc proc /proc || fail "cannot mount /proc"
mount -t tmpfs -o mode=755,size=100% lab /run || fail "cannot mount a tmpfs at /run"
mkdir -p /run/upper /run/work /run/root
share ctl /run/ctl rw
share cache /run/cache ro
share results /run/results rw

load() { modprobe -d "/run/cache/$LAB_QEMU/root/usr" -a "$@" || fail "the stock kernel could not load: $*"; }
load overlay
mount -t overlay -o "lowerdir=/run/cache/$LAB_QEMU/root:/run/cache/$LAB_TOOLS:/,upperdir=/run/upper,workdir=/run/work" lab /run/root ||
  fail "cannot stack the lab's root (overlayfs)"
load ovpn tun veth

. /run/ctl/enter.sh
enter /run/root /run/ctl /run/results
