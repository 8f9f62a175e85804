#!/bin/sh
# Runs as mmdebstrap's extract hook, as an ordinary user: the essential packages are extracted, nothing is installed.
# Has apt fetch all packages, and leaves beside the root what installs them later, as root of a machine without network.
# Arguments: the root, the directory to fill, the suite, the architecture, the packages.
set -eu
root=$1 out=$2 suite=$3 arch=$4
shift 4
APT_CONFIG=${MMDEBSTRAP_APT_CONFIG:-$APT_CONFIG}
export APT_CONFIG

# The same choices as mmdebstrap's own in its variant "minbase".
of_suite="?or(?archive(^$suite\$),?codename(^$suite\$)),?architecture($arch)"
essential="?narrow($of_suite,?essential)"
required="?narrow($of_suite,?and(?priority(required),?not(?essential)))"

mkdir -p "$out/archives/partial" "$out/lists/partial"

# The files of the packages that these need, in apt's order.
files_of() {
    apt-get -qq -o "Dir::Cache::archives=$out/none" --print-uris install "$@" > "$out/uris"
    cut -d ' ' -f 2 "$out/uris"
    rm "$out/uris"
}
files_of "$essential" > "$out/essential"
files_of "$essential" apt > "$out/apt"

# By name: the machine's apt has no other versions to ask which suite they are of.
apt-cache show --no-all-versions "$required" | sed -n 's/^Package: //p' | sort -u > "$out/required"
printf '%s\n' "$@" apt | cat - "$out/required" > "$out/wanted"
apt-get -q --yes --download-only install "$essential" $(cat "$out/wanted")
mv "$root"/var/cache/apt/archives/*.deb "$out/archives/"

# The suite's own configuration decides how the file system is made.
dpkg-deb --fsys-tarfile "$out"/archives/e2fsprogs_*.deb | tar -x -O -f - ./etc/mke2fs.conf > "$out/../mke2fs.conf"

for list in "$root"/var/lib/apt/lists/*; do
    case $list in
        */lock | */partial | */auxfiles) ;;
        *) mv "$list" "$out/lists/" ;;
    esac
done
rm -rf "$root/var/lib/apt/lists/auxfiles"
