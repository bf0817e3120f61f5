"""Folders beside /usr that sandboxes see because an operator says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from agentmesh_tool_runner.sandbox.model import ExecutionSpec, WorkspaceKey
from agentmesh_tool_runner.settings import ToolRunnerSettings
from pydantic import ValidationError

from .conftest import LIMITS, collect, make_backend

FOLDER = Path("/etc/default")  # one that every machine has, and that sandboxes do not see
LOOK = f"ls -d {FOLDER}; echo $PATH; touch {FOLDER}/x 2>&1 | grep -o Read-only"


@pytest.mark.parametrize("kind", ["bubblewrap", "sandlock"])
@pytest.mark.parametrize("folders", [(), (FOLDER,)])
async def test_what_an_operator_names_is_seen(
    kind: str, folders: tuple[Path, ...], tmp_path: Path
) -> None:
    backend = make_backend(kind, tmp_path, toolchains=folders)
    await backend.start()
    try:
        workspace = await backend.workspace(WorkspaceKey("tenant", "conv_test"))
        ended = await collect(workspace, ExecutionSpec(["/bin/sh", "-c", LOOK], limits=LIMITS))
    finally:
        await backend.close()
    if folders:
        folder, path, refused = ended.stdout.splitlines()
        assert folder == str(FOLDER)
        assert path.split(":")[:2] != ["/usr/local/bin", "/usr/bin"]
        assert f"{FOLDER}/bin" in path.split(":")
        assert refused == "Read-only"
    else:
        assert str(FOLDER) not in ended.stdout


@pytest.mark.parametrize(
    "folder", ["/root/.cargo", "/home/a", "/var/lib", "/", "opt/rust", "/run/x"]
)
def test_folders_that_nobody_may_see(folder: str) -> None:
    with pytest.raises(ValidationError, match="sandbox_toolchains"):
        ToolRunnerSettings(sandbox_toolchains=f"/opt/fine:{folder}")
