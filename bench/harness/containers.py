"""A Docker engine to compare sandboxes with: of the measurement's own, where one can be started.

    with engine() as docker:
        if docker is not None:
            with docker.container() as name:
                docker.exec(name, ["python3", "-c", "print(1)"])

Container and exec are what AutoGen's executor and most products use: the engine's defaults, but for
the network, which this engine has none of.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from meshkit.testkit.docker_engine import can_have_engine, docker_engine

IMAGE = "agentmesh/sandbox:bench"
_SCRIPT = Path(__file__).parents[2] / "scripts/sandbox_image.py"


@dataclass(frozen=True)
class Engine:
    """A running engine that has `image`; `address` is as DOCKER_HOST has it."""

    address: str
    image: str
    api: docker.APIClient

    def run(self, command: Sequence[str]) -> bytes:
        """`docker run --rm`: makes a container, waits for its end, removes it; its output."""
        made = self.api.create_container(
            self.image, list(command), host_config=self.api.create_host_config(network_mode="none")
        )["Id"]
        try:
            attached = self.api.attach(made, stdout=True, stderr=True, stream=True)
            self.api.start(made)
            output = b"".join(attached)
            self.api.wait(made)
        finally:
            self.api.remove_container(made, force=True)
        return output

    @contextlib.contextmanager
    def container(self) -> Iterator[str]:
        """A container that waits for `exec`, as long as the block lasts."""
        made = self.api.create_container(
            self.image,
            ["sleep", "infinity"],
            host_config=self.api.create_host_config(network_mode="none", init=False),
        )["Id"]
        try:
            self.api.start(made)
            yield made
        finally:
            self.api.remove_container(made, force=True)

    def exec(self, container: str, command: Sequence[str]) -> bytes:
        """`docker exec`: its output."""
        made = self.api.exec_create(container, list(command))["Id"]
        output: bytes = self.api.exec_start(made)
        return output


@contextlib.contextmanager
def engine() -> Iterator[Engine | None]:
    """None where no engine can be started. The image is made first if it is not there: minutes."""
    if not can_have_engine():
        yield None
        return
    with docker_engine() as address:
        command = [sys.executable, str(_SCRIPT), "--engine", address, "--tag", IMAGE]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our script
        api = docker.APIClient(base_url=address, version="auto", timeout=60)
        try:
            yield Engine(address, IMAGE, api)
        finally:
            api.close()
