"""DATA_DIR/mesh.json: how other commands find a mesh that runs on this machine."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agentmesh_cli.supervisor.lock import lock_is_held

_NAME = "mesh.json"


@dataclass(frozen=True)
class MeshFile:
    """Where the mesh of a data directory listens, and as which processes.

    `addresses` holds host:port by service name, and the gateway's REST address as a URL under
    "gateway_rest". `ready` is true once every service has served.
    """

    supervisor_pid: int
    ready: bool
    addresses: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)


def write_mesh_file(data_dir: Path, mesh: MeshFile) -> None:
    """Replaces the file in one step; readable by its owner alone."""
    temporary = data_dir / f".{_NAME}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(asdict(mesh), stream, indent=2)
        stream.write("\n")
    temporary.replace(data_dir / _NAME)


def remove_mesh_file(data_dir: Path) -> None:
    """Removes the file if it is there."""
    (data_dir / _NAME).unlink(missing_ok=True)


def read_mesh_file(data_dir: Path) -> MeshFile | None:
    """The mesh that runs on `data_dir` now; None if none does, whatever a kill left behind."""
    if not lock_is_held(data_dir):
        return None
    try:
        found = json.loads((data_dir / _NAME).read_text(encoding="utf-8"))
        return MeshFile(**found)
    except (OSError, ValueError, TypeError):
        return None
