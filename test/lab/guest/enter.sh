# Sourced by the init scripts: what is the same in every lab kernel we boot ourselves.

# Moves into the stacked root and starts stage 2 there.
# enter NEW_ROOT CONTROL_MOUNT RESULTS_MOUNT
enter() {
  mkdir -p "$1/.lab/ctl" "$1/.lab/results" "$1/.lab/old"
  mount --move "$2" "$1/.lab/ctl" || fail "cannot move the control folder into the new root"
  mount --move "$3" "$1/.lab/results" || fail "cannot move the results folder into the new root"
  cd "$1" || fail "cannot enter the new root"
  pivot_root . .lab/old || fail "cannot change the root"
  exec chroot . /bin/sh /.lab/ctl/stage2.sh
}
