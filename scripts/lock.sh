#!/usr/bin/env bash
# Resolves all dependencies afresh and writes requirements/*.txt: exact versions with hashes and
# no addresses. dev.txt is everything for development, build.txt what builds the packages in an
# image's first stage, and the others are what one image runs with.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(command -v uv || echo .venv/bin/uv)
"$uv" lock "$@"

export_lock() { # FILE ARGUMENTS...
    local file=requirements/$1.txt
    shift
    "$uv" export --quiet --frozen --no-emit-workspace --no-header --no-annotate \
        --format requirements-txt --output-file "$file" "$@"
    echo "$file: $(grep -c '==' "$file") packages"
}

export_lock dev --all-packages --all-extras --group dev
export_lock build --only-group build
for service in gateway agent_runtime conversation_store; do
    export_lock "$service" --package "agentmesh-${service//_/-}" --no-default-groups
done
export_lock tool_runner --package agentmesh-tool-runner --extra docker --no-default-groups
