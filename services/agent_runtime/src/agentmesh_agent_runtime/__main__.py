"""The command agentmesh-runtime."""

from __future__ import annotations

import sys

from cyclopts import App

app = App(
    name="agentmesh-runtime",
    help="Runs agents: leases turns from the conversation_store and takes them.",
    version_flags=[],
)


@app.default
def serve() -> None:
    """Serve until SIGTERM. Settings come from the environment; see the README."""
    from meshkit.server import run
    from meshkit.settings import load_settings

    from agentmesh_agent_runtime import server
    from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError
    from agentmesh_agent_runtime.settings import RuntimeSettings

    settings = load_settings(RuntimeSettings)
    try:
        run(lambda: server.serve(settings))
    except DefinitionError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
