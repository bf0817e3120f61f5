"""The Docker engine of the tests: started by the first that needs it, gone with the run."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentmesh_tool_runner.sandbox.docker import flags

if TYPE_CHECKING:
    import docker

IMAGE = "agentmesh/sandbox:tests"
_SCRIPT = Path(__file__).parents[4] / "scripts/sandbox_image.py"


@functools.cache
def is_to_be_had() -> bool:
    """True where an engine can be started and its image is there, or can be made.

    To make it takes minutes, so only a strict run does.
    """
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        return False
    return os.environ.get("STRICT") == "1" or _image("--check").returncode == 0


@functools.cache
def address() -> str:
    """Of the engine, which has the image."""
    # An ordinary user's run has neither engine nor this.
    from meshkit.testkit.docker_engine import docker_engine

    running = contextlib.ExitStack()
    atexit.register(running.close)
    found = running.enter_context(docker_engine())
    _image("--engine", found, "--tag", IMAGE).check_returncode()
    return found


def ours(client: docker.APIClient, role: str = "") -> list[dict[str, Any]]:
    label = f"{flags.ROLE_LABEL}={role}" if role else flags.ROLE_LABEL
    return list(client.containers(all=True, filters={"label": label}))


def volumes(client: docker.APIClient) -> list[str]:
    found = client.volumes(filters={"label": flags.OWNER_LABEL})
    return [volume["Name"] for volume in found["Volumes"] or []]


def _image(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(_SCRIPT), *arguments]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
