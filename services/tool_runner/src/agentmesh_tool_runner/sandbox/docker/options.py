"""Settings of the backend."""

from __future__ import annotations

from dataclasses import dataclass

from agentmesh_tool_runner.sandbox.options import LocalOptions

DEFAULT_IMAGE = "agentmesh/sandbox:latest"


@dataclass(frozen=True)
class DockerOptions(LocalOptions):
    """Besides those of every backend: the engine, and what its containers are made of."""

    engine: str | None = None
    """Its address, as DOCKER_HOST has it; None: the socket of this machine."""
    image: str = DEFAULT_IMAGE
    """Must hold Python 3.11 or newer as `python3`."""
    runtime: str | None = None
    """One of the engine's; None: runsc where the engine has it, else the engine's default."""
