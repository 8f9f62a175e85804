#!/bin/sh
# Finishes a Debian root whose packages have just been installed; /proc, /sys and a few device nodes are there and
# nothing of the host is.
# Arguments: the root, the suite, the file system's UUID, the GUID of the root partition.
set -eu
root=$1 suite=$2 uuid=$3 root_partuuid=$4

in_root() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# --- configuration, as on the vendor's cloud images ---

echo localhost > "$root/etc/hostname"
chmod 0644 "$root/etc/hostname"
cat > "$root/etc/hosts" <<END
127.0.0.1	localhost
::1		localhost ip6-localhost ip6-loopback
ff02::1		ip6-allnodes
ff02::2		ip6-allrouters
END
if [ -e "$root/usr/sbin/update-locale" ]; then
    in_root update-locale LANG=C.UTF-8
fi

# --- the boot loader, where there is one ---

boot_loader() {
    # With this file, updates of GRUB in a running guest install themselves for BIOS and UEFI (grub-cloud-amd64).
    touch "$root/etc/grub.d/enable_cloud"
    # The vendor's five seconds are a third of a boot; one still lets a person at the console stop it.
    mkdir -p "$root/etc/default/grub.d"
    echo GRUB_TIMEOUT=1 > "$root/etc/default/grub.d/10_short_timeout.cfg"

    grub=$root/boot/grub
    for platform in i386-pc x86_64-efi; do
        mkdir -p "$grub/$platform"
        cp "$root/usr/lib/grub/$platform"/*.mod "$root/usr/lib/grub/$platform"/*.lst "$grub/$platform/"
    done
    mkdir -p "$grub/fonts"
    cp "$root/usr/share/grub/unicode.pf2" "$grub/fonts/"
    in_root grub-editenv /boot/grub/grubenv create
    cat > "$grub/i386-pc/load.cfg" <<END
search.fs_uuid $uuid root hd0,gpt1
set prefix=(\$root)'/boot/grub'
END
    in_root grub-mkimage --format=i386-pc --output=/boot/grub/i386-pc/core.img --config=/boot/grub/i386-pc/load.cfg \
        --prefix=/boot/grub biosdisk part_gpt ext2 search_fs_uuid
    cp "$root/usr/lib/grub/i386-pc/boot.img" "$grub/i386-pc/boot.img"

    # grub-mkconfig asks grub-probe where / is. The disk does not exist yet, so what it will be is answered instead.
    probe=$root/usr/sbin/grub-probe
    restore() {
        if [ -e "$probe.real" ]; then
            mv -f "$probe.real" "$probe"
        fi
        rm -rf "$root/dev/disk"
    }
    trap restore EXIT
    mv "$probe" "$probe.real"
    cat > "$probe" <<END
#!/bin/sh
target=
while [ \$# -gt 0 ]; do
    case \$1 in
        --target=*) target=\${1#--target=} ;;
        -t|--target) target=\$2; shift ;;
    esac
    shift
done
case \$target in
    device) echo /dev/vda1 ;;
    fs_uuid) echo $uuid ;;
    partuuid) echo $root_partuuid ;;
    fs) echo ext2 ;;
    partmap) echo gpt ;;
    drive) echo '(hd0,gpt1)' ;;
    compatibility_hint) echo hd0,gpt1 ;;
    hints_string) echo "--hint='hd0,gpt1'" ;;
    abstraction | cryptodisk_uuid) ;;
    *) exit 1 ;;
esac
END
    chmod 0755 "$probe"
    mkdir -p "$root/dev/disk/by-uuid"
    # Only its existence is asked for; a link would dangle.
    touch "$root/dev/disk/by-uuid/$uuid"
    in_root update-grub
    restore
    trap - EXIT
    grep -q "root=UUID=$uuid" "$grub/grub.cfg"
}
if [ -e "$root/usr/sbin/update-grub" ]; then
    boot_loader
else
    # The smallest system stays small, and has no name servers of the machine that it was made on.
    echo 'APT::Install-Recommends "false";' > "$root/etc/apt/apt.conf.d/70no-recommends"
    : > "$root/etc/resolv.conf"
fi

# --- nothing that two machines must not share, and no traces of the making ---

in_root passwd --lock root > /dev/null
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/systemd/random-seed" "$root/var/lib/systemd/credential.secret"
rm -f "$root/var/lib/dbus/machine-id" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/var/log/bootstrap.log"
# Every boot makes these anew.
rm -rf "$root/run/lock"
rm -f "$root"/etc/*- "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
