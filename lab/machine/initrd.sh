#!/bin/busybox sh
# The first program in the laboratory's machine: puts the root together and hands over to init.sh, which a run
# brings along. A failure powers the machine off with its reason on the serial console.
#
# Drives, in the order of lab/machine.ts:
#   vda  the machine    read-only EROFS
#   vdb  the kit        read-only EROFS: init.sh, the command, Node, images
#   vdc  the checkout   read-only EROFS
#   vdd  scratch        ext4, made for the run
PATH=
umask 022

power_off() {
  /bin/busybox echo "lab: $*"
  /bin/busybox poweroff -f
  while :; do /bin/busybox sleep 1000; done
}

/bin/busybox mkdir -p /proc /base /scratch /root
/bin/busybox mount -t proc proc /proc
mkdir -p /dev /sys
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
for module in /modules/*.ko; do
  insmod "$module" || echo "lab: $module could not be loaded"
done

mount -t erofs -o ro /dev/vda /base || power_off 'the machine could not be mounted'
mount -t ext4 /dev/vdd /scratch || power_off 'the scratch disk could not be mounted'
mkdir -p /scratch/root /scratch/root-work /scratch/wrenn /scratch/wrenn-work
mount -t overlay -o lowerdir=/base,upperdir=/scratch/root,workdir=/scratch/root-work root /root ||
  power_off 'the root could not be put together'
mount -t erofs -o ro /dev/vdb /root/opt/kit || power_off 'the kit could not be mounted'
mkdir -p /checkout
mount -t erofs -o ro /dev/vdc /checkout || power_off 'the checkout could not be mounted'
mount -t overlay -o lowerdir=/checkout,upperdir=/scratch/wrenn,workdir=/scratch/wrenn-work wrenn /root/opt/wrenn ||
  power_off 'the checkout could not be made writable'
# The real disk, for what does not work on an overlay, as the layers of sandboxes.
mkdir -p /scratch/data /root/data
mount --bind /scratch/data /root/data
mount --move /dev /root/dev
mount --move /sys /root/sys
mount --move /proc /root/proc
exec /bin/busybox switch_root /root /bin/bash /opt/kit/init.sh
