#!/bin/sh
# Runs before the kernel is installed, because what is written here shapes the initial RAM disk.
# Arguments: the root, the GUIDs of the root and of the EFI system partition.
set -eu
root=$1 root_partuuid=$2 efi_partuuid=$3

cat > "$root/etc/fstab" <<END
# /etc/fstab: static file system information
PARTUUID=$root_partuuid / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
PARTUUID=$efi_partuuid /boot/efi vfat defaults 0 0
END
mkdir -p "$root/boot/efi" "$root/etc/initramfs-tools/conf.d"
# The disk does not exist yet, so initramfs-tools cannot find out which checker the root needs.
echo FSTYPE=ext4 > "$root/etc/initramfs-tools/conf.d/root_type"
