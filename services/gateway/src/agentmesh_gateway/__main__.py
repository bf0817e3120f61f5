"""The command `agentmesh-gateway`."""

from __future__ import annotations

import cyclopts
from meshkit.process import avoid_preemption
from meshkit.server import run
from meshkit.settings import load_settings

from agentmesh_gateway.server import build
from agentmesh_gateway.settings import GatewaySettings

app = cyclopts.App(
    name="agentmesh-gateway",
    help="The one door of agentmesh: the public gRPC API, REST and server-sent events.",
    version_flags=["--version"],
)


@app.default
def serve() -> None:
    """Serve until SIGTERM or SIGINT. Settings come from the environment; see the README."""
    settings = load_settings(GatewaySettings)

    async def main() -> None:
        await build(settings).serve_until_signalled()

    avoid_preemption()
    run(main)


def main() -> None:
    """Runs the command."""
    app()


if __name__ == "__main__":
    main()
