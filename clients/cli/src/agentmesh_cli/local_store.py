"""The store's own commands, on the data directory of this machine."""

import subprocess
import sys
from pathlib import Path

from agentmesh_cli import settings
from agentmesh_cli.options import Connection


def at_local_store(connection: Connection, *arguments: str) -> int:
    """Runs a command of the store, whether its mesh runs or not; it shares this terminal."""
    directory: Path = connection.data_dir or settings.default_data_dir()
    environment = {**settings.service_environment(), "AGENTMESH_DATA_DIR": str(directory)}
    command = [sys.executable, "-m", "agentmesh_conversation_store", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603  fixed
