#!/bin/sh
# Second stage of the lab's init, inside the stacked root: kernel file systems, limits, then the job.
# What the job prints goes to $LAB_STDOUT and $LAB_STDERR, the rest of the console is noise.
set -u

fail() {
  echo "lab-init: $*"
  [ -e /proc/sysrq-trigger ] && echo o >/proc/sysrq-trigger
  sleep 10
}

umount -l /.lab/old
. /.lab/ctl/system.sh
mount_kernel_filesystems
mount_devices
fresh_run_and_tmp /.lab/ctl/keep
mkdir -p /run/lab/ctl /run/lab/results
mount --move /.lab/ctl /run/lab/ctl || fail "cannot move the control folder"
mount --move /.lab/results /run/lab/results || fail "cannot move the results folder"
rmdir /.lab/ctl /.lab/results /.lab/old /.lab
hostname lab 2>/dev/null || echo lab >/proc/sys/kernel/hostname
loopback_up
raise_limits

# The job's stdout and stderr must be pipes, as they are on the host: on a terminal programs draw colours
# and progress bars. A relay carries each to the host.
for stream in "$LAB_STDOUT" "$LAB_STDERR"; do
  case $stream in /dev/tty*) stty -F "$stream" raw -echo ;; esac
done
mkfifo /run/lab/stdout /run/lab/stderr
cat /run/lab/stdout >"$LAB_STDOUT" &
relay1=$!
cat /run/lab/stderr >"$LAB_STDERR" &
relay2=$!

echo running >/run/lab/ctl/state
setsid -w bash /run/lab/ctl/job.sh </dev/null >/run/lab/stdout 2>/run/lab/stderr
code=$?

# Programs the job left in the background may hold the pipes open for ever: after a moment they go.
for signal in none TERM KILL; do
  [ "$signal" = none ] || for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    case $pid in 1 | "$relay1" | "$relay2") continue ;; esac
    # Kernel threads have no command line.
    [ -s "/proc/$pid/cmdline" ] && kill -s "$signal" "$pid" 2>/dev/null
  done
  tries=0
  while kill -0 $relay1 2>/dev/null || kill -0 $relay2 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -gt 10 ] && break
    sleep 0.05
  done
  kill -0 $relay1 2>/dev/null || kill -0 $relay2 2>/dev/null || break
done
for stream in "$LAB_STDOUT" "$LAB_STDERR"; do
  # Changing a terminal's settings waits until it has sent everything.
  case $stream in /dev/tty*) stty -F "$stream" raw -echo ;; esac
done

echo "$code" >/run/lab/ctl/exit.new && mv /run/lab/ctl/exit.new /run/lab/ctl/exit
sync
umount /run/lab/results /run/lab/ctl
echo o >/proc/sysrq-trigger
sleep 60
