#!/bin/sh
# Installs the packages that fetch.sh has fetched: runs as root, in the root of a disk with the essential packages
# extracted and owned by root, without network. Does what mmdebstrap does as root, in the same order.
# Arguments: where the directory of fetch.sh is, the suite, the file system's UUID, the GUIDs of the root and of the EFI
# system partition.
set -eu
in=$1 suite=$2 uuid=$3 root_partuuid=$4 efi_partuuid=$5
export LANG=C.UTF-8 LANGUAGE=C.UTF-8 LC_ALL=C.UTF-8
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
cd "$in/archives"

# An ordinary user's tar could not set owners, and the umask took from the modes. What is mounted over is set already.
extract() {
    for package in "$@"; do
        dpkg-deb --fsys-tarfile "$package" > ../tar
        tar -C / --keep-directory-symlink --anchored --exclude=./dev --exclude=./proc --exclude=./run --exclude=./sys \
            --exclude=./tmp --extract --file ../tar
    done
    rm -f ../tar
}

essential=$(cat ../essential)
extract $essential
dpkg --install --force-depends $essential
# What does not boot needs none of it.
if [ -e ../prepare.sh ]; then
    sh ../prepare.sh / "$root_partuuid" "$efi_partuuid"
fi

# apt is needed to install apt.
others=
for package in $(cat ../apt); do
    case " $(echo $essential) " in
        *" $package "*) ;;
        *) others="$others $package" ;;
    esac
done
extract $others
apt-get -o "Dir::Cache::archives=$in/archives" -o "Dir::State::lists=$in/lists" -o Dir::Cache::pkgcache= \
    -o Dir::Cache::srcpkgcache= --yes --no-download install $(cat ../wanted)

sh ../finish.sh / "$suite" "$uuid" "$root_partuuid"

# What mmdebstrap removes at its end.
apt-get clean
rm -f /etc/apt/apt.conf.d/00mmdebstrap /etc/apt/apt.conf.d/99debconf
rm -f /var/log/dpkg.log /var/log/apt/history.log /var/log/apt/term.log /var/log/apt/eipp.log.xz /var/log/alternatives.log
rm -f /var/cache/ldconfig/aux-cache /var/lib/dbus/machine-id
rm -f /etc/machine-id
: > /etc/machine-id
