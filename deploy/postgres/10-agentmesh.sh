#!/usr/bin/env bash
# Runs once, on an empty volume: the store's database, owned by an ordinary role. The image's own
# user is a superuser, whom row-level security between tenants does not bind.
set -euo pipefail
psql --set ON_ERROR_STOP=1 --set password="$AGENTMESH_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE ROLE agentmesh LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE agentmesh OWNER agentmesh;
SQL
