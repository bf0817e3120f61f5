"""agentmesh audit: who did what, and whether the records of it are whole."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli.errors import EXIT_OK, UsageError
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.local_store import at_local_store
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.audit import print_audit
from agentmesh_cli.rendering.json_output import dump, to_json

AUDIT_EXAMPLES = """Examples:
  agentmesh audit verify --heads /mnt/elsewhere/heads.json
  agentmesh audit list --tenant acme --code PERMISSION_DENIED
  agentmesh audit list --resource conversation:conv_… --address mesh:50051

Without --address they read the store of the data directory, or of POSTGRES_URL.
With --address they ask a gateway about your own tenant, with an admin key in
AGENTMESH_API_KEY.
"""

DEFAULT_TENANT = "default"
_MOST_SHOWN = 10_000


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""
    audit = App(name="audit", help="Show and verify the audit log.", help_epilogue=AUDIT_EXAMPLES)
    app.command(audit)

    @audit.command(name="list", help_epilogue=AUDIT_EXAMPLES)
    async def list_(
        *,
        tenant: Annotated[
            str | None,
            Parameter(help=f'Tenant; "" for unauthenticated calls [default: {DEFAULT_TENANT}].'),
        ] = None,
        principal: Annotated[str, Parameter(help="Only records of this caller.")] = "",
        method: Annotated[str, Parameter(help="Only records of this method.")] = "",
        resource: Annotated[
            str, Parameter(help='Only records about this, such as "key:key_…".')
        ] = "",
        code: Annotated[str, Parameter(help="Only records with this status code.")] = "",
        limit: Annotated[int, Parameter(help="Maximum number to show.")] = 100,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """List audit records, newest first."""
        if not 1 <= limit <= _MOST_SHOWN:
            raise UsageError("--limit is out of range", remedy=f"1 to {_MOST_SHOWN}")
        filters = {"principal": principal, "method": method, "resource": resource, "code": code}
        if not connection.address:
            if json:
                raise UsageError("--json needs a mesh", remedy="name its gateway with --address")
            whose = DEFAULT_TENANT if tenant is None else tenant
            options = [f"--{name}={value}" for name, value in filters.items() if value]
            return at_local_store(
                connection, "audit", "list", f"--tenant={whose}", f"--limit={limit}", *options
            )
        if tenant is not None:
            raise UsageError(
                "--tenant cannot be chosen with --address",
                remedy="through a mesh it is the tenant of the key that asks",
            )
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.audit(limit=limit, **filters)
        if json:
            console.out(dump([to_json(record) for record in found]), highlight=False)
        else:
            print_audit(console, found)
        return EXIT_OK

    @audit.command(help_epilogue=AUDIT_EXAMPLES)
    def verify(
        *,
        heads: Annotated[
            Path | None,
            Parameter(
                help="File with the heads of the last check: compared if it exists, then updated."
            ),
        ] = None,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Verify the audit log of every tenant; exit with 1 at the first broken place.

        Reads the store's database and needs the store's sealing key. A chain cannot show on its own
        that its newest batches were cut off: keep the --heads file on another machine, or compare
        with the heads in the store's log.
        """
        if connection.address:
            raise UsageError(
                "the audit log can only be verified where the store's database is",
                remedy="leave --address out, and name the database with POSTGRES_URL or --data-dir",
            )
        options = [] if heads is None else [f"--heads={heads}"]
        return at_local_store(connection, "audit", "verify", *options)
