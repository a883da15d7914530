# Sourced: brings up what a Linux userland expects. Used on every kernel, the host's own included.

mount_kernel_filesystems() {
  mount -t proc -o nosuid,nodev,noexec proc /proc || fail "cannot mount /proc"
  mount -t sysfs -o nosuid,nodev,noexec sysfs /sys || fail "cannot mount /sys"
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup || echo "lab-init: no cgroup2"
  mount -t bpf bpf /sys/fs/bpf 2>/dev/null
  mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
  return 0
}

mount_devices() {
  mount -t devtmpfs -o nosuid,mode=755 dev /dev || fail "cannot mount /dev"
  mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/net
  mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts || fail "cannot mount /dev/pts"
  mount -t tmpfs -o nosuid,nodev,mode=1777 shm /dev/shm || fail "cannot mount /dev/shm"
  mount -t mqueue mqueue /dev/mqueue 2>/dev/null
  [ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200
  ln -sfn /proc/self/fd /dev/fd
  ln -sfn /proc/self/fd/0 /dev/stdin
  ln -sfn /proc/self/fd/1 /dev/stdout
  ln -sfn /proc/self/fd/2 /dev/stderr
  [ -e /dev/ptmx ] || ln -sfn pts/ptmx /dev/ptmx
}

# /run and /tmp become empty tmpfs. What the job needs from below them (the project or its Node.js may
# live there) is bound back; the file given as argument holds those folders, one in a line.
fresh_run_and_tmp() {
  # What is open stays reachable through /proc when something is mounted over them.
  exec 7<"$1" 8</run 9</tmp
  mount -t tmpfs -o nosuid,nodev,mode=755 run /run || fail "cannot mount /run"
  mount -t tmpfs -o nosuid,nodev,mode=1777 tmp /tmp || fail "cannot mount /tmp"
  mkdir -p /run/netns /run/lock
  # (mount must not resolve these paths itself: it would end up in the new, empty folder.)
  while IFS= read -r folder; do
    case $folder in
      /run/*) before=/proc/self/fd/8/${folder#/run/} ;;
      *) before=/proc/self/fd/9/${folder#/tmp/} ;;
    esac
    mkdir -p "$folder" && mount --no-canonicalize --bind "$before" "$folder" || fail "cannot show $folder in the lab"
  done <&7
  exec 7<&- 8<&- 9<&-
}

loopback_up() { ip link set lo up || fail "cannot bring the loopback interface up"; }

# The hard limit is the kernel's own; the soft one stays where programs that close "every possible" file
# descriptor are still quick.
raise_limits() {
  ulimit -H -n 1048576 2>/dev/null
  ulimit -S -n 65536 2>/dev/null
  return 0
}
