#!/run/wrenn/busybox sh
# PID 1 of a guest once its root stands: finishes the mounts, brings the network up, keeps envd running,
# reaps zombies, and shuts down cleanly when asked to.
#
# It may never end, so nothing here is fatal: each failed step is told on the console with its reason, and
# where the shell itself gives up (a fork that fails, an error of its own) it begins anew: see EXIT below.
# `wait` in this shell reaps every child that it inherits, which is all that PID 1 owes to orphans.
PATH=
umask 022
log=/run/init-step.log

say() { echo "wrenn-init: $*"; }

# step NAME COMMAND…: runs it; on failure tells why and returns 1.
step() {
  name=$1
  shift
  why=
  if [ -n "$log" ]; then
    "$@" 2>"$log" && return 0
    read -r why <"$log"
  else
    "$@" && return 0
  fi
  say "failed: $name: ${why:-no reason given}"
  return 1
}

# write PATH TEXT: replaces a symbolic link, as images made for other systems have it for /etc/resolv.conf.
write() {
  [ -L "$1" ] && rm -f "$1"
  step "write $1" printf_to "$1" "$2"
}

# A function's redirection that fails is an error of printf's; that of `:` or `exec` would end the shell.
printf_to() { printf %b "$2" >"$1"; }

mount_rest() {
  mkdir -p /dev/pts /dev/shm
  step 'mount /dev/pts' mount -t devpts -o nosuid,noexec,gid=5,mode=0620,ptmxmode=0666 devpts /dev/pts
  step 'mount /dev/shm' mount -t tmpfs -o nosuid,nodev,mode=1777 shm /dev/shm
  step 'mount cgroup2' mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
  ln -sf /proc/self/fd /dev/fd
  ln -sf /proc/self/fd/0 /dev/stdin
  ln -sf /proc/self/fd/1 /dev/stdout
  ln -sf /proc/self/fd/2 /dev/stderr
  ln -sf /dev/pts/ptmx /dev/ptmx
  # /tmp stays on the layer: memory is what a guest has least of, and tmpfs keeps no user attributes here.
  [ -d /tmp ] || mkdir -m 1777 /tmp
  mkdir -p /run/lock /run/user
  chmod 1777 /run/lock
}

name_machine() {
  write /proc/sys/kernel/hostname "$hostname\n"
  write /etc/hostname "$hostname\n"
  write /etc/hosts "127.0.0.1 localhost\n127.0.1.1 $hostname\n::1 localhost ip6-localhost ip6-loopback\n"
  # One line of 32 hexadecimal digits, as machine-id(5) wants it.
  read -r id </proc/sys/kernel/random/uuid
  old_ifs=$IFS
  IFS=-
  set -- $id
  IFS=$old_ifs
  write /etc/machine-id "$1$2$3$4$5\n"
}

# What the kernel does by itself many times a minute costs an idle guest most of what it takes of the host: compacting
# memory ahead of need, looking for a CPU that hangs, and adding up its statistics each second.
let_kernel_rest() {
  write /proc/sys/vm/compaction_proactiveness '0\n'
  write /proc/sys/kernel/watchdog '0\n'
  write /proc/sys/vm/stat_interval '10\n'
}

join_network() {
  step 'bring lo up' ip link set lo up
  [ -n "$address" ] || return 0
  step 'address eth0' ip address add "$address" dev eth0
  step 'bring eth0 up' ip link set eth0 up
  step 'default route' ip route add default via "$gateway" dev eth0
  old_ifs=$IFS
  IFS=,
  lines=
  for server in $nameservers; do
    lines="${lines}nameserver $server\n"
  done
  IFS=$old_ifs
  write /etc/resolv.conf "$lines"
}

shut_down() {
  trap '' TERM INT USR1 USR2 PWR
  trap 'exec /run/wrenn/busybox reboot -f' EXIT
  say 'shutting down'
  kill -TERM -1
  # A second for programs to leave in good order, less when they are quick.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    set -- /proc/[0-9]*
    alive=0
    for process; do
      # Kernel threads have an empty command line and do not count; nor does this shell.
      [ "$process" = /proc/1 ] && continue
      command=
      read -r command 2>/dev/null <"$process/cmdline"
      [ -n "$command" ] && alive=1
    done
    [ "$alive" = 0 ] && break
    usleep 100000
  done
  kill -KILL -1
  sync
  # The layer's own mount is out of reach under the overlay: the kernel makes every file system read-only.
  echo u >/proc/sysrq-trigger
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    mode=ro
    read -r mode 2>/dev/null </proc/fs/ext4/vdc/options
    [ "$mode" = ro ] && break
    usleep 50000
  done
  # The VMM leaves on a reset as well as on a power-off; Firecracker knows only the reset.
  reboot -f
  sleep 5
  poweroff -f
}

seconds_up() {
  up=0
  read -r up _ </proc/uptime
  up=${up%%.*}
  up=${up:-0}
}

start_envd() {
  # Code made at run time costs more than it saves under software emulation, so JavaScript is
  # interpreted; bun:ffi needs the machinery of the JIT to be there, so it is not switched off whole. The
  # timer of the garbage collector would wake an idle guest many times a second after each request.
  BUN_JSC_useBaselineJIT=0 BUN_JSC_useDFGJIT=0 BUN_JSC_useRegExpJIT=0 BUN_GC_TIMER_DISABLE=1 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    /run/wrenn/envd --port 49983 --set-clock --own-machine </dev/null &
  envd=$!
}

keep_envd_running() {
  pause_s=0
  while :; do
    seconds_up
    started_s=$up
    start_envd
    # A trapped signal ends `wait` early, and so does an orphan's end: wait until it is envd that ended.
    while [ -d "/proc/$envd" ]; do
      wait "$envd"
      status=$?
    done
    seconds_up
    say "envd ended with status $status; starting it again"
    # One that keeps dying at once is started ever more slowly, at most every five seconds.
    if [ $((up - started_s)) -ge 5 ]; then
      pause_s=0
    elif [ $pause_s -lt 5 ]; then
      pause_s=$((pause_s + 1))
    fi
    [ $pause_s = 0 ] || sleep $pause_s
  done
}

# Busybox's halt, poweroff and reboot ask PID 1 with USR1, USR2 and TERM; Ctrl+Alt+Del comes as INT.
trap shut_down TERM INT USR1 USR2 PWR
# The same process goes on as a new shell: unlike a fork, `exec` works where there is no room for another one.
trap 'exec /run/wrenn/busybox sh /run/wrenn/supervisor.sh again' EXIT

if [ "$1" = again ]; then
  say 'the supervisor stumbled and goes on'
  # A pause without a process: nobody types on the console.
  read -r -t 1 _
  keep_envd_running
fi

{ echo >"$log"; } 2>/dev/null || log=

# Settings come as wrenn.<name>=<value> words of the kernel command line.
hostname=sandbox address= gateway= nameservers=
read -r words </proc/cmdline
set -f
for word in $words; do
  case $word in
    wrenn.hostname=*) hostname=${word#*=} ;;
    wrenn.address=*) address=${word#*=} ;;
    wrenn.gateway=*) gateway=${word#*=} ;;
    wrenn.nameservers=*) nameservers=${word#*=} ;;
  esac
done
set +f

echo 0 >/proc/sys/kernel/ctrl-alt-del
# The kernel's own limit of 4096 open files is too low for databases and dev servers.
ulimit -n 65536
mount_rest
let_kernel_rest
name_machine
join_network
# Real-time clocks are read by the kernel itself; envd sets the time that the host gives it. It also gives clones of a
# snapshot their name, machine-id and name servers, since they never pass through here.

say 'starting envd'
keep_envd_running
