"""agentmesh health."""

from dataclasses import asdict

from cyclopts import App
from rich.console import Console

from agentmesh_cli.errors import EXIT_FAILED, EXIT_OK
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.json_output import dump
from agentmesh_cli.rendering.tables import print_health

HEALTH_EXAMPLES = """Examples:
  agentmesh health
  agentmesh health --address mesh.example:50051 --json
"""


def register(app: App, console: Console) -> None:
    """Adds the command to `app`."""

    @app.command(help_epilogue=HEALTH_EXAMPLES)
    async def health(*, json: JsonFlag = False, connection: Connection = NO_CONNECTION) -> int:
        """Show the health of each service; exit with 1 unless all of them serve."""
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.health()
        if json:
            console.out(dump(asdict(found)), highlight=False)
        else:
            print_health(console, found.status, found.services, found.version)
        return EXIT_OK if found.status == "healthy" else EXIT_FAILED
