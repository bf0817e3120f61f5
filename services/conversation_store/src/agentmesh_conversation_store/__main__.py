"""`agentmesh-store`: serves, migrates its database, makes keys, and verifies the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from cyclopts import App, Parameter
from meshkit.policy import known_scopes
from meshkit.process import avoid_preemption
from meshkit.roles import Role
from meshkit.settings import load_settings

from . import audit_commands
from .codec.events import ProtobufEvents
from .domain.audit_keys import AuditKeys
from .domain.keys import ApiKey, Grantor
from .domain.model import SECOND, Instant
from .domain.rejections import Rejection
from .identity import ApiKeys, NewKey, load_pepper, random_seed
from .sealing import sealing_keys
from .settings import StoreSettings
from .storage.chosen import chosen_storage
from .storage.interface import Storage

app = App(
    name="agentmesh-store",
    help="The durable side of agentmesh: conversations, runs, leases, catalog and keys.",
)
keys = App(name="keys", help="API keys, in the database of POSTGRES_URL or AGENTMESH_DATA_DIR.")
app.command(keys)

RoleName = Literal["viewer", "user", "service", "operator", "admin"]
_KEYS_LISTED = 1000
_HOUR = 3600 * SECOND
_LONGEST_OVERLAP_HOURS = 30 * 24
_OPERATOR = Grantor("command line", Role.ADMIN)
"""Who has the database may make any key."""


@app.default
@app.command
def serve() -> None:
    """Serves until SIGTERM or SIGINT. All settings come from the environment."""
    # Imported here: the `keys` commands need no server, and start in a fraction of the time.
    from meshkit.server import run

    from .server import build

    settings = load_settings(StoreSettings)

    async def main() -> None:
        await build(settings).serve_until_signalled()

    avoid_preemption()
    run(main)


@app.command
def migrate() -> None:
    """Brings the schema of the database up to date, once however many run at the same time."""
    settings = load_settings(StoreSettings).model_copy(update={"migrate_at_start": True})
    _with_storage(settings, _say_migrated)


async def _say_migrated(storage: Storage) -> None:
    print("the schema is up to date")  # noqa: T201 - the command's output


@keys.command
def create(
    *,
    tenant: Annotated[str, Parameter(help="Whom the key speaks for.")],
    role: Annotated[RoleName, Parameter(help="What it may do.")],
    name: Annotated[str, Parameter(help="A name for people.")] = "",
    ttl_hours: Annotated[float | None, Parameter(help="How long it lives; else for ever.")] = None,
    scope: Annotated[
        list[str] | None, Parameter(help="Limits it to this, as agents:read; may be repeated.")
    ] = None,
) -> None:
    """Makes a key and prints its secret, for the only time."""
    if not tenant:
        raise SystemExit("error: --tenant must not be empty")

    unknown = set(scope or ()) - set(known_scopes())
    if unknown:
        raise SystemExit(f"error: --scope must be one of {', '.join(known_scopes())}")
    if ttl_hours is not None and ttl_hours <= 0:
        raise SystemExit("error: --ttl-hours must be more than 0")

    async def make(storage: Storage, api_keys: ApiKeys) -> None:
        ttl = None if ttl_hours is None else round(ttl_hours * _HOUR)
        scopes = tuple(sorted(set(scope or ())))
        wanted = NewKey(tenant, Role[role.upper()], name, ttl, scopes)
        seed = random_seed()
        made = await api_keys.create(wanted, _OPERATOR, seed)
        assert isinstance(made, ApiKey)  # noqa: S101  bytes answer repeated requests alone
        print(api_keys.secret(tenant, made.key_id, made.created_at, seed))  # noqa: T201

    _with_keys(make)


@keys.command
def rotate(
    key_id: Annotated[str, Parameter(help='"key_…".')],
    *,
    tenant: Annotated[str, Parameter(help="Whose key it is.")],
    overlap_hours: Annotated[
        float, Parameter(help="How long the present secret stays good.")
    ] = 24.0,
) -> None:
    """Gives a key a new secret and prints it, for the only time."""
    if not 0 <= overlap_hours <= _LONGEST_OVERLAP_HOURS:
        raise SystemExit(f"error: --overlap-hours must be 0 to {_LONGEST_OVERLAP_HOURS}")

    async def change(storage: Storage, api_keys: ApiKeys) -> None:
        seed = random_seed()
        overlap = round(overlap_hours * _HOUR)
        made = await api_keys.rotate(tenant, key_id, overlap, _OPERATOR, seed)
        assert isinstance(made, ApiKey)  # noqa: S101  bytes answer repeated requests alone
        assert made.rotated_at is not None  # noqa: S101  it was just rotated
        print(api_keys.secret(tenant, made.key_id, made.rotated_at, seed))  # noqa: T201

    _with_keys(change)


@keys.command(name="list")
def list_keys(*, tenant: Annotated[str, Parameter(help="Whose keys.")]) -> None:
    """Lists a tenant's keys, newest first, without their secrets."""

    async def show(storage: Storage, _: ApiKeys) -> None:
        now = await storage.now()
        for key in await storage.keys(tenant, None, _KEYS_LISTED):
            print(_line(key, now))  # noqa: T201 - the command's output

    _with_keys(show)


@keys.command
def revoke(
    key_id: Annotated[str, Parameter(help='"key_…".')],
    *,
    tenant: Annotated[str, Parameter(help="Whose key it is.")],
) -> None:
    """Makes a key useless at once."""

    async def end(storage: Storage, _: ApiKeys) -> None:
        await storage.revoke_key(tenant, key_id)

    _with_keys(end)


def _with_keys(work: Callable[[Storage, ApiKeys], Awaitable[None]]) -> None:
    """Works directly on the database; the service may run meanwhile."""
    settings = load_settings(StoreSettings)
    _with_storage(settings, lambda storage: work(storage, ApiKeys(storage, load_pepper(settings))))


def _with_storage(settings: StoreSettings, work: Callable[[Storage], Awaitable[None]]) -> None:
    async def main() -> None:
        audit_keys = AuditKeys(sealing_keys(settings))
        storage = chosen_storage(settings, ProtobufEvents(), audit_keys)
        await storage.open()
        try:
            await work(storage)
        finally:
            await storage.close()

    try:
        asyncio.run(main())
    except (Rejection, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def _line(key: ApiKey, now: Instant) -> str:
    used = "never" if key.last_used_at is None else _time(key.last_used_at)
    return (
        f"{key.key_id}  {key.role.name.lower():8}  {key.state_at(now):7}  {_time(key.created_at)}"
        f"  used {used}  {' '.join(key.scopes) or '*'}  {key.name}"
    ).rstrip()


def _time(at: Instant) -> str:
    return datetime.fromtimestamp(at / SECOND, UTC).isoformat(timespec="seconds")


audit_commands.register(app, _with_storage)


def main() -> None:
    """The command."""
    app()


if __name__ == "__main__":
    main()
