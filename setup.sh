#!/bin/sh
# Sets a Debian 12, Debian 13 or Ubuntu 24.04 machine up for Labwright.
#
#   ./setup.sh demo     installs what is missing, builds the program, builds and packs
#                       recipes/library/debian-terminal, and boots it to a terminal in the browser
#   ./setup.sh test     installs what the tests need as well, and runs all checks and tests
#   ./setup.sh image    installs what is missing, builds the program, and builds Labwright's own container image of it
#                       (recipes/library/labwright)
#   ./setup.sh install  installs what is missing and builds the program, nothing else
#   ./setup.sh host     installs what a program that is built already needs, nothing else
#
# Every step looks first whether it is needed, so the script can be run again at any time.
# It installs with apt-get, and a Rust toolchain with rustup; it uses sudo where it is not root.
set -eu

RUST_VERSION=1.95.0
CARGO_DENY_VERSION=0.20.2
CARGO_NEXTEST_VERSION=0.9.148

cd "$(dirname "$0")"
ROOT=$PWD
TOOLS=$ROOT/target/tools
export DEBIAN_FRONTEND=noninteractive

say() {
    printf '\n==> %s\n' "$*"
}

die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "run this as root, or install sudo"
        sudo --preserve-env=DEBIAN_FRONTEND "$@"
    fi
}

# --- Packages of the distribution ----------------------------------------------------------------------------------

distribution() {
    [ -r /etc/os-release ] || die "this is neither Debian nor Ubuntu: /etc/os-release is missing"
    # shellcheck disable=SC1091  # the file is the machine's own
    . /etc/os-release
    CODENAME=${VERSION_CODENAME:-}
    case "${ID:-}:${VERSION_ID:-}" in
        debian:12 | debian:13 | ubuntu:24.04) ;;
        debian:* | ubuntu:*) say "${PRETTY_NAME:-this system} was never tried; going on" ;;
        *) die "only Debian and Ubuntu are supported, this is ${PRETTY_NAME:-unknown}; install what \`labwright doctor\` lists by hand" ;;
    esac
    ARCH=$(dpkg --print-architecture)
    case $ARCH in
        amd64) QEMU_PACKAGES="qemu-system-x86 ovmf" MUSL=x86_64-unknown-linux-musl ;;
        arm64) QEMU_PACKAGES="qemu-system-arm qemu-efi-aarch64" MUSL=aarch64-unknown-linux-musl ;;
        *) die "only amd64 and arm64 are supported, this is $ARCH" ;;
    esac
}

installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# QEMU's packages must all have one version. Where some came from backports, the rest must too, and apt has to know
# backports: it may have been installed from a source that is gone.
backports() {
    QEMU_RELEASE=
    version=$(dpkg-query --show --showformat='${Version}' qemu-utils 2>/dev/null || true)
    case $version in
        *~bpo*) ;;
        *) return 0 ;;
    esac
    QEMU_RELEASE=$CODENAME-backports
    if [ -n "$(apt-get indextargets "Created-By: Packages" "Release: $QEMU_RELEASE" 2>/dev/null)" ]; then
        return 0
    fi
    say "apt: adding $QEMU_RELEASE, from which this machine's QEMU $version came"
    # shellcheck disable=SC2016  # fields of apt, not variables of the shell
    entry=$(apt-get indextargets --format '$(REPO_URI) $(SOURCESENTRY)' "Created-By: Packages" "Release: $CODENAME" "Component: main" | head -n 1)
    uri=${entry%% *}
    file=${entry#* }
    file=${file%:*}
    [ -n "$uri" ] || die "apt has no source for $CODENAME to take the address of backports from"
    key=$(sed -n -E 's/^Signed-By:[[:space:]]*(\/[^[:space:]]+).*/\1/p; s/.*signed-by=(\/[^] ]+).*/\1/p' "$file" 2>/dev/null | head -n 1)
    {
        printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$QEMU_RELEASE"
        [ -z "$key" ] || printf 'Signed-By: %s\n' "$key"
    } | as_root tee /etc/apt/sources.list.d/labwright-backports.sources >/dev/null
}

# Installs those of the packages that are missing.
packages() {
    missing=
    for package in "$@"; do
        installed "$package" || missing="$missing $package"
    done
    if [ -z "$missing" ]; then
        say "packages: all there"
        return 0
    fi
    say "packages: installing$missing"
    if [ -z "${APT_UPDATED:-}" ]; then
        as_root apt-get update -q
        APT_UPDATED=yes
    fi
    # shellcheck disable=SC2086  # a list of words
    as_root apt-get install -q -y --no-install-recommends ${QEMU_RELEASE:+-t "$QEMU_RELEASE"} $missing
}

install_packages() {
    distribution
    backports
    # shellcheck disable=SC2086  # a list of words
    packages ca-certificates curl build-essential $QEMU_PACKAGES qemu-utils mmdebstrap debian-archive-keyring \
        e2fsprogs fdisk dosfstools mtools util-linux gpgv tar
}

# --- Rust ----------------------------------------------------------------------------------------------------------

# Whether the cargo on PATH is at least as new as the workspace asks for.
cargo_is_new_enough() {
    have=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [ -n "$have" ] || return 1
    [ "$(printf '%s\n%s\n' "$RUST_VERSION" "$have" | sort -V | head -n 1)" = "$RUST_VERSION" ]
}

install_rust() {
    PATH=$HOME/.cargo/bin:$PATH
    export PATH
    if cargo_is_new_enough; then
        say "rust: $(cargo --version)"
    else
        if ! command -v rustup >/dev/null; then
            if apt-cache show rustup >/dev/null 2>&1; then
                packages rustup
            else
                # Debian 12 has no rustup package; this is the installer that rust-lang.org documents.
                say "rust: installing rustup"
                curl --proto '=https' --tlsv1.2 --fail --silent --show-error https://sh.rustup.rs -o "${TMPDIR:-/tmp}/rustup-init.$$"
                sh "${TMPDIR:-/tmp}/rustup-init.$$" -y --no-modify-path --profile minimal --default-toolchain none
                rm -f "${TMPDIR:-/tmp}/rustup-init.$$"
            fi
        fi
        say "rust: installing $RUST_VERSION"
        rustup toolchain install "$RUST_VERSION" --profile minimal --component rustfmt --component clippy
        RUSTUP_TOOLCHAIN=$RUST_VERSION
        export RUSTUP_TOOLCHAIN
    fi
    # The guest program is static: with musl where that target can be had, else against the gnu C library.
    if command -v rustup >/dev/null; then
        rustup target list --installed | grep -qx "$MUSL" || rustup target add "$MUSL" ||
            say "rust: the target $MUSL cannot be had; the guest program is linked statically against glibc"
    fi
}

build() {
    say "cargo: building labwright"
    # Without this, Ctrl-C ends in pages of what the compiler could not finish, which look like defects.
    trap 'trap - INT; say "stopped"; exit 130' INT
    cargo build --locked --release
    trap - INT
    LABWRIGHT=${CARGO_TARGET_DIR:-$ROOT/target}/release/labwright
}

# --- What the commands do ------------------------------------------------------------------------------------------

install() {
    install_packages
    install_rust
    build
    say "done: $LABWRIGHT (put it on your PATH: install -m 755 $LABWRIGHT /usr/local/bin/)"
}

demo() {
    install
    say "doctor: what this machine can do"
    as_root "$LABWRIGHT" doctor
    say "build: recipes/library/debian-terminal"
    as_root "$LABWRIGHT" build recipes/library/debian-terminal
    say "push: into the OCI image layout target/demo"
    as_root "$LABWRIGHT" push debian-terminal oci:target/demo
    say "run: debian-terminal"
    # Nobody could press Ctrl-C in a pipeline.
    if [ -t 1 ] && [ -t 0 ]; then once=; else once=--exit-when-ready; fi
    as_root "$LABWRIGHT" run $once debian-terminal
}

image() {
    install
    # A relative path would be taken for one below the recipe's directory.
    program=$(realpath "$LABWRIGHT")
    say "build: recipes/library/labwright"
    as_root "$LABWRIGHT" build --update --set "program=$program" recipes/library/labwright
    # The image is in the store of the user who built it.
    if [ "$(id -u)" -eq 0 ]; then prefix=; else prefix="sudo "; fi
    say "done: the image labwright (push it: $prefix$program push labwright REGISTRY/REPOSITORY)"
}

# Fetches a cargo subcommand that PyPI packages carry as a binary. Prints its directory.
python_tool() {
    dir=$TOOLS/$1-$2
    if [ ! -d "$dir" ]; then
        rm -rf "$dir.new"
        # --target keeps it apart from the system's Python.
        python3 -m pip install --quiet --no-deps --only-binary :all: --target "$dir.new" "astral-dev-toolchain-$1==$2" >&2 || return 1
        mv "$dir.new" "$dir"
    fi
    find "$dir" -type f -name "$1" -perm -u+x -printf '%h\n' | head -n 1
}

# Puts a cargo subcommand on PATH if it is not there.
cargo_tool() {
    command -v "$1" >/dev/null && return 0
    python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
    found=$(python_tool "$1" "$2") && [ -n "$found" ] || return 1
    PATH=$found:$PATH
}

# Sets KUBECTL to what a list of needs has for it. Debian has had a kubectl that knows kustomize's components since 13; the
# one of Debian 12 is too old and has another package name, and Ubuntu has none. There the tests use one that is on the
# machine already, and are skipped where none is.
install_kubectl() {
    KUBECTL=
    if ! command -v kubectl >/dev/null && apt-cache show kubectl >/dev/null 2>&1; then
        packages kubectl
    fi
    if kubectl version --client 2>/dev/null | grep -q '^Kustomize Version:'; then
        KUBECTL=,kubectl
    else
        say "kubectl: this distribution has none of 1.21 or later; the tests that need it are skipped"
    fi
}

tests() {
    install_packages
    packages xfsprogs btrfs-progs lvm2 skopeo umoci podman buildah docker-registry nginx-light openssl python3 gnupg xz-utils \
        gettext-base golang-go golang-github-masterminds-sprig-dev
    install_kubectl
    install_rust
    if [ "${CI:-}" = true ]; then
        # Here a test that lacks something fails instead of being skipped.
        LABWRIGHT_REQUIRE=${LABWRIGHT_REQUIRE:-root,qemu,registry,nginx,oci-tools,gpg,mtools,systemd,skopeo,umoci,mmdebstrap,bootstrap,network,xfsprogs,btrfs-progs,lvm2,apt,go$KUBECTL}
        export LABWRIGHT_REQUIRE
    fi
    say "rustfmt"
    cargo fmt --all --check
    say "clippy"
    cargo clippy --locked --workspace --all-targets -- -D warnings
    say "cargo-deny: dependencies, licences, sources"
    cargo_tool cargo-deny "$CARGO_DENY_VERSION" || die "cargo-deny is missing and cannot be installed"
    cargo deny --locked check bans licenses sources
    say "tests"
    # The whole-binary tests run what an ordinary user would: the release of the guest program inside.
    if cargo_tool cargo-nextest "$CARGO_NEXTEST_VERSION"; then
        cargo nextest run --locked --workspace --no-fail-fast
    else
        cargo test --locked --workspace --lib --bins --tests --no-fail-fast
    fi
    say "examples in the documentation"
    cargo test --locked --workspace --doc
    say "all checks passed"
}

case ${1:-} in
    demo) demo ;;
    test) tests ;;
    image) image ;;
    install) install ;;
    host) install_packages ;;
    -h | --help | help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p;}' "$0" ;;
    *)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p;}' "$0" >&2
        exit 2
        ;;
esac
