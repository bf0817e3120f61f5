#!/usr/bin/env bash
# Makes sure of the programs that no Python package brings: bubblewrap, which isolates code that
# agents write. As root with apt it is installed; else one line says what to do. Until then code runs
# in sandlock's sandbox where the kernel has Landlock 6, and nowhere else. A strict run also needs a
# Redis server, which a Python package brings for some machines only, and the compilers of all
# languages that sandboxes run, where those see them; a Docker engine, which the tests start
# themselves, with debootstrap, which makes its image; and a browser, which looks at the pages.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v bwrap >/dev/null 2>&1 || missing+=(bubblewrap)
if [ "${STRICT:-}" = 1 ] && ! command -v redis-server >/dev/null 2>&1; then
    [ -x .venv/bin/redis-server ] || missing+=(redis-server)
fi
sandbox_needs() { # program, packages
    (PATH=/usr/local/bin:/usr/bin:/bin command -v "$1" >/dev/null 2>&1) || missing+=("${@:2}")
}
if [ "${STRICT:-}" = 1 ]; then
    sandbox_needs node nodejs
    sandbox_needs esbuild esbuild
    sandbox_needs javac default-jdk-headless
    sandbox_needs gcc gcc libc6-dev
    sandbox_needs g++ g++
    sandbox_needs go golang-go
    sandbox_needs rustc rustc
    if [ "$(id -u)" -eq 0 ]; then
        command -v dockerd >/dev/null 2>&1 || missing+=(docker.io)
        command -v debootstrap >/dev/null 2>&1 || missing+=(debootstrap)
        # Not in every release; what is about gVisor is tested where it is.
        if ! command -v runsc >/dev/null 2>&1 && apt-cache show runsc >/dev/null 2>&1; then
            missing+=(runsc)
        fi
        # Ubuntu's package of that name is none: it wants a snap.
        if ! command -v chromium >/dev/null 2>&1 && grep -qx 'ID=debian' /etc/os-release; then
            missing+=(chromium)
        fi
    fi
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
        exit 0
    fi
fi
echo "missing: ${missing[*]}. Install with: sudo apt-get install ${missing[*]}" >&2
# Only a strict run takes this as its failure: everything but running code works without.
[ "${STRICT:-}" != 1 ]
