"""agentmesh agents, health."""

from dataclasses import asdict

from cyclopts import App
from rich.console import Console

from agentmesh_cli.errors import EXIT_FAILED, EXIT_OK
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.json_output import dump, to_json
from agentmesh_cli.rendering.tables import print_agents, print_health


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""

    @app.command
    async def agents(*, json: JsonFlag = False, connection: Connection = NO_CONNECTION) -> int:
        """List the agents that conversations can use."""
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.agents.list()
        if json:
            console.out(dump([to_json(agent.raw) for agent in found]), highlight=False)
        elif not found:
            console.print("no agents; a runtime publishes the shipped ones when it first starts")
        else:
            print_agents(console, found)
        return EXIT_OK

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
