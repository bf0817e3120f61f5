"""agentmesh keys: API keys."""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from agentmesh_client.models import ApiKey
from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from agentmesh_cli.errors import EXIT_OK, UsageError
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.local_store import at_local_store
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.json_output import dump, to_json
from agentmesh_cli.rendering.tables import print_keys
from agentmesh_cli.rendering.terminal_text import one_line

KEYS_EXAMPLES = """Examples:
  agentmesh keys create --tenant acme --role operator --name ci
  agentmesh keys create --role viewer --scope conversations:read --expires 90d
  agentmesh keys list
  agentmesh keys rotate key_… --overlap 12h
  agentmesh keys revoke key_…
  agentmesh keys create --role viewer --address mesh:50051

Without --address they change the store of the data directory directly, whether
its mesh runs or not. With --address they ask a gateway, for your own tenant,
with an admin key in AGENTMESH_API_KEY.
"""


DEFAULT_TENANT = "default"
TenantHelp = Parameter(help=f"Tenant of the key [default: {DEFAULT_TENANT}].")


Scopes = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="Limit the key to this scope, such as conversations:read. Repeatable.",
    ),
]
_SPAN = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_LONGEST = 100_000  # of whatever unit


class Role(StrEnum):
    """What a key may do; each but service includes those before it."""

    VIEWER = "viewer"
    USER = "user"
    SERVICE = "service"
    OPERATOR = "operator"
    ADMIN = "admin"


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""
    keys = App(
        name="keys", help="Create, list, rotate and revoke API keys.", help_epilogue=KEYS_EXAMPLES
    )
    app.command(keys)

    @keys.command(help_epilogue=KEYS_EXAMPLES)
    async def create(
        *,
        tenant: Annotated[str, TenantHelp] = "",
        role: Annotated[Role, Parameter(help="Role of the key.")] = Role.OPERATOR,
        name: Annotated[str, Parameter(help="Display name.")] = "",
        scope: Scopes = None,
        expires: Annotated[
            str | None, Parameter(help="Lifetime: 90d, 12h or 30m [default: unlimited].")
        ] = None,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Create an API key and show its secret, this once."""
        ttl = _span("--expires", expires)
        if not connection.address:
            _refuse_json(json)
            arguments = ["--tenant", tenant or DEFAULT_TENANT, "--role", role, "--name", name]
            arguments += [part for wanted in scope or () for part in ("--scope", wanted)]
            if ttl is not None:
                arguments += ["--ttl-hours", _hours(ttl)]
            return at_local_store(connection, "keys", "create", *arguments)
        _refuse_tenant(tenant)
        async with Gateway.open(connection) as gateway:
            made = await gateway.mesh.keys.create(role, name=name, ttl=ttl, scopes=scope or ())
        _show_secret(console, made, json)
        return EXIT_OK

    @keys.command
    async def rotate(
        key: str,
        /,
        *,
        tenant: Annotated[str, TenantHelp] = "",
        overlap: Annotated[
            str,
            Parameter(help="How long the old secret stays valid, such as 12h; 0 ends it at once."),
        ] = "24h",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Give an API key a new secret and show it, this once; the old one stays valid for a while.

        Parameters
        ----------
        key
            Its id (key_…).
        """
        both = timedelta() if overlap == "0" else _span("--overlap", overlap) or timedelta()
        if not connection.address:
            _refuse_json(json)
            arguments = [key, "--tenant", tenant or DEFAULT_TENANT, "--overlap-hours", _hours(both)]
            return at_local_store(connection, "keys", "rotate", *arguments)
        _refuse_tenant(tenant)
        async with Gateway.open(connection) as gateway:
            rotated = await gateway.mesh.keys.rotate(key, overlap=both)
        _show_secret(console, rotated, json)
        return EXIT_OK

    @keys.command(name="list")
    async def list_(
        *,
        tenant: Annotated[str, TenantHelp] = "",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """List API keys, without their secrets."""
        if not connection.address:
            _refuse_json(json)
            return at_local_store(connection, "keys", "list", "--tenant", tenant or DEFAULT_TENANT)
        _refuse_tenant(tenant)
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.keys.list()
        if json:
            console.out(dump([to_json(key.raw) for key in found]), highlight=False)
        else:
            print_keys(console, found)
        return EXIT_OK

    @keys.command
    async def revoke(
        key: str,
        /,
        *,
        tenant: Annotated[str, TenantHelp] = "",
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Revoke an API key; it stops working within seconds.

        Parameters
        ----------
        key
            Its id (key_…).
        """
        if not connection.address:
            return at_local_store(
                connection, "keys", "revoke", key, "--tenant", tenant or DEFAULT_TENANT
            )
        _refuse_tenant(tenant)
        async with Gateway.open(connection) as gateway:
            revoked = await gateway.mesh.keys.revoke(key)
        print_keys(console, [revoked])
        return EXIT_OK


def _show_secret(console: Console, key: ApiKey, json: bool) -> None:
    if json:
        shown = {"key": to_json(key.raw), "secret": key.secret}
        console.out(dump(shown), highlight=False)
        return
    print_keys(console, [key])
    console.print(Text(one_line(key.secret, 256), "bold"), soft_wrap=True)


def _span(option: str, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if found is None or not 0 < int(found["number"]) <= _LONGEST:
        raise UsageError(
            f"{option} {text} is not a duration",
            remedy="write days, hours or minutes: 90d, 12h, 30m",
        )
    return timedelta(**{_UNITS[found["unit"]]: int(found["number"])})


def _hours(span: timedelta) -> str:
    return str(span / timedelta(hours=1))


def _refuse_json(json: bool) -> None:
    if json:
        raise UsageError("--json needs a mesh", remedy="name its gateway with --address")


def _refuse_tenant(tenant: str) -> None:
    if tenant:
        raise UsageError(
            "--tenant cannot be chosen with --address",
            remedy="a key made through a mesh belongs to the tenant of the key that asks for it",
        )
