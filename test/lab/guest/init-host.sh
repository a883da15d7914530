#!/bin/sh
# Sets up the lab on the host's own kernel. Runs in fresh mount, network, pid, uts, ipc and cgroup
# namespaces (see host.ts), so nothing here reaches the host's configuration.
# $1: control folder, $2: project folder
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

fail() {
  echo "lab: $*" >&2
  exit 125
}

control=$1
project=$2
. "$control/system.sh"
mount_kernel_filesystems
fresh_run_and_tmp "$control/keep"
[ -e "$control/job.sh" ] || fail "the control folder $control got lost"
mkdir -p /run/lab/upper /run/lab/work
mount -t overlay -o "lowerdir=$project,upperdir=/run/lab/upper,workdir=/run/lab/work" lab "$project" ||
  fail "cannot lay a throw-away layer over $project"
hostname lab
loopback_up
raise_limits
exec bash "$control/job.sh"
