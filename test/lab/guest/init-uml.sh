#!/bin/sh
# First process of a user-mode Linux lab. The root is the host's own `/`, read-only over hostfs.
# Lays the layers (host root, then the lab's newer tools, then a throw-away tmpfs), moves into them
# and hands over to enter.sh. Settings come as environment variables from the kernel command line.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

fail() {
  echo "lab-init: $*"
  echo o >/proc/sysrq-trigger
  sleep 10
}

# hostfs HOST_DIR MOUNT_POINT FILE_EXPECTED_INSIDE OPTION
# util-linux 2.39 and newer spell the option hostfs=DIR, older ones pass the bare path; a wrong spelling
# may also "work" and show another folder, hence the file to look for.
hostfs() {
  mkdir -p "$2"
  for spelling in "hostfs=$1" "$1"; do
    if mount -t hostfs -o "$4,$spelling" none "$2" 2>/dev/null; then
      [ -e "$2/$3" ] && return 0
      umount "$2"
    fi
  done
  fail "cannot mount the host's $1 (hostfs) at $2"
}

mount -t proc proc /proc || fail "cannot mount /proc"
mount -t tmpfs -o mode=755,size=100% lab /run || fail "cannot mount a tmpfs at /run"
mkdir -p /run/upper /run/work /run/root
hostfs "$LAB_CTL" /run/ctl job.sh rw
hostfs "$LAB_TOOLS" /run/tools usr ro
mount -t overlay -o lowerdir=/run/tools:/,upperdir=/run/upper,workdir=/run/work lab /run/root ||
  fail "cannot stack the lab's root (overlayfs)"
hostfs "$LAB_RESULTS_DIR" /run/results . rw

. /run/ctl/enter.sh
enter /run/root /run/ctl /run/results
