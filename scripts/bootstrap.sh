#!/usr/bin/env bash
# Makes .venv with everything in it: the locked dependencies by hash, then the packages of this
# repository in place. Uses uv if it is there, else python's own venv and pip.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(protos/gen/python libs/meshkit services/* clients/python clients/cli)
editable=()
for package in "${packages[@]}"; do editable+=(-e "$package"); done

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "agentmesh needs Python 3.11 or newer; install it (Debian: apt-get install python3 python3-venv)" >&2
    return 1
}

python=$(find_python)
echo "setting up .venv with $("$python" --version) (first time: a minute or two)"
if uv --version >/dev/null 2>&1; then
    uv venv --quiet --allow-existing --python "$python" .venv
    export VIRTUAL_ENV=$PWD/.venv
    uv pip sync --quiet --require-hashes requirements/dev.txt
    uv pip install --quiet --no-deps --no-build-isolation "${editable[@]}"
else
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "neither uv nor python's venv is there; install one (Debian: apt-get install python3-venv)" >&2
        exit 1
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/dev.txt
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation "${editable[@]}"
fi
