"""agentmesh health."""

from dataclasses import asdict

from cyclopts import App
from rich.console import Console

from agentmesh_cli.errors import EXIT_FAILED, EXIT_OK
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.json_output import dump
from agentmesh_cli.rendering.tables import print_health


def register(app: App, console: Console) -> None:
    """Adds the command to `app`."""

    @app.command
    async def health(*, json: JsonFlag = False, connection: Connection = NO_CONNECTION) -> int:
        """Show whether the mesh serves, service by service; status 1 unless it is healthy."""
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.health()
        if json:
            console.out(dump(asdict(found)), highlight=False)
        else:
            print_health(console, found.status, found.services, found.version)
        return EXIT_OK if found.status == "healthy" else EXIT_FAILED
