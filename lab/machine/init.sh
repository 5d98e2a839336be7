#!/bin/bash
# PID 1 of the laboratory's machine once its root is there: makes it a host that Wrenn can run on, runs the
# command of the kit on the terminal (hvc0), reports how it ended, and powers off.
export PATH=/opt/kit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

# What this script itself says goes to the serial console; the host shows it when the machine does not come up.
say() { echo "lab: $*" >/dev/console; }

power_off() {
  sync
  busybox poweroff -f
  while :; do sleep 1000; done
}
trap 'say "init came to its end"; power_off' EXIT

# The device of a port to the host, by the name that lab/machine.ts gives it.
port() {
  for name in /sys/class/virtio-ports/*/name; do
    [ "$(<"$name")" = "$1" ] && echo "/dev/$(basename "$(dirname "$name")")" && return
  done
  say "there is no port $1"
}

mount -t tmpfs -o nosuid,mode=0755 run /run
mkdir -p /dev/pts /dev/shm /run/lock /run/netns
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
# Off the overlay: sandboxes' directories are made below /tmp.
mkdir -p -m 1777 /data/tmp && mount --bind /data/tmp /tmp
modprobe -a virtio_console virtio_rng kvm_amd tun veth || say 'a module could not be loaded'
hostname lab
ip link set lo up

terminal=/dev/hvc0
status=$(port org.wrenn.lab.status)
report=$(port org.wrenn.lab.report)
# While these come, the machine is alive, whatever the suite does.
beats=$(port org.wrenn.lab.beats)
while :; do
  echo >"$beats"
  sleep 2
done &
mapfile -d '' -t command </opt/kit/command
mapfile -d '' -t environment </opt/kit/environment
stty -F "$terminal" -onlcr -echo

echo up >"$status"
cd /opt/wrenn || say 'there is no checkout'
if [ "${command[0]}" = /bin/bash ]; then
  stty -F "$terminal" sane
  env "${environment[@]}" setsid --ctty --wait "${command[@]}" <"$terminal" >"$terminal" 2>&1
  code=$?
else
  # No terminal: a program that finds one draws on it.
  env "${environment[@]}" "${command[@]}" </dev/null 2>&1 | cat >"$terminal"
  code=${PIPESTATUS[0]}
fi
[ -s /run/report ] && cat /run/report >"$report"
echo "exit $code" >"$status"
sleep 0.2
power_off
