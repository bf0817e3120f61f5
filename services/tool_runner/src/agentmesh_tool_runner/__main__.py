"""The command: serves."""

from __future__ import annotations

import cyclopts
from meshkit import server
from meshkit.settings import load_settings

from .server import ToolRunner
from .settings import ToolRunnerSettings

app = cyclopts.App(
    name="agentmesh-tool-runner",
    help="Runs what models write, in sandboxes. Settings come from the environment; see README.md.",
)


@app.default
def serve() -> None:
    """Serves until SIGTERM or SIGINT."""
    settings = load_settings(ToolRunnerSettings)

    async def main() -> None:
        await ToolRunner(settings).host.serve_until_signalled()

    server.run(main)


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()
