#!/bin/busybox sh
# The first program in a guest: runs from the initrd as PID 1, puts the root file system together and
# hands over to supervisor.sh. No step may end this script (PID 1 that ends is a kernel panic), so every
# step's failure is told on the console and the next step goes on; without a root it powers off.
#
# Drives, in the order that the host attaches them (packages/protocol/src/guest-contract.ts):
#   vda  base    read-only EROFS, shared by all sandboxes
#   vdb  guest   read-only EROFS with envd and supervisor.sh
#   vdc  layer   ext4, private to this sandbox
#
# Every command is a busybox applet: with PATH empty the shell runs its own instead of looking for files.
# It finds itself through /proc, so that is mounted first, by the program's full name.
PATH=
umask 022

say() { echo "wrenn-init: $*"; }

# step NAME COMMAND…: runs it; on failure tells why and returns 1.
step() {
  name=$1
  shift
  why=
  "$@" 2>/step.log && return 0
  read -r why </step.log
  say "failed: $name: ${why:-no reason given}"
  return 1
}

power_off() {
  trap - EXIT
  say "powering off: $*"
  /bin/busybox sync
  # The VMM leaves on a reset as well as on a power-off; Firecracker knows only the reset.
  /bin/busybox reboot -f
  /bin/busybox sleep 5
  /bin/busybox poweroff -f
  while :; do /bin/busybox sleep 1000; done
}

say started
# What a shell cannot go on after, as a fork that fails, ends the guest with a message and not with a panic.
trap 'power_off "init came to its end"' EXIT

/bin/busybox mkdir -p /proc
step 'mount /proc' /bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc
mkdir -p /sys /dev /base /layer /root
step 'mount /dev' mount -t devtmpfs -o nosuid,mode=0755 dev /dev
step 'mount /sys' mount -t sysfs -o nosuid,nodev,noexec sys /sys

for module in /modules/*.ko; do
  step "load $module" insmod "$module"
done

[ -b /dev/vda ] || power_off 'no drives are attached'

step 'mount the base' mount -t erofs -o ro /dev/vda /base || power_off 'there is no base to run'
step 'mount the layer' mount -t ext4 -o noatime,nodiratime,nodev /dev/vdc /layer || {
  say 'the private layer is missing: changes go to memory'
  step 'mount a layer in memory' mount -t tmpfs layer /layer
}
step 'make room in the layer' mkdir -p /layer/upper /layer/work
step 'stack the layer over the base' \
  mount -t overlay -o lowerdir=/base,upperdir=/layer/upper,workdir=/layer/work overlay /root ||
  power_off 'there is no root to run'

# A base need not have them, and a full layer only matters then.
for directory in proc sys dev run; do
  [ -d "/root/$directory" ] || step "make /$directory" mkdir "/root/$directory"
done
step 'mount /run' mount -t tmpfs -o nosuid,nodev,mode=0755,size=25% run /root/run
mkdir -p /root/run/wrenn
step 'mount the guest drive' mount -t erofs -o ro,nosuid,nodev /dev/vdb /root/run/wrenn ||
  power_off 'there is no guest agent to run'

# Tried here, because after the hand-over there is nobody left to tell that it does not run.
step "run the guest drive's shell" /root/run/wrenn/busybox sh -n /root/run/wrenn/supervisor.sh ||
  power_off 'the guest drive lacks a supervisor that runs'
for directory in sys dev; do
  step "move /$directory" mount --move "/$directory" "/root/$directory"
done
# /proc goes last: without it the shell does not find its applets.
step 'move /proc' mount --move /proc /root/proc || power_off 'programs need /proc'
trap - EXIT
exec /bin/busybox switch_root /root /run/wrenn/busybox sh /run/wrenn/supervisor.sh
