"""Services inside the test's own process, on port 0 with a temporary data folder."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest_asyncio

from meshkit.admission import PublicAuthenticator
from meshkit.channels import MeshChannels
from meshkit.server import ServiceHost
from meshkit.settings import ServiceSettings

Registration: TypeAlias = tuple[Callable[[Any, Any], None], object, str]
"""The arguments of ServiceHost.add."""


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_settings(data_dir: Path, **overrides: Any) -> ServiceSettings:
    """Settings of a test: any port, `data_dir`, a short drain."""
    values: dict[str, Any] = {"data_dir": data_dir, "drain_seconds": 2.0, "log_level": "DEBUG"}
    return ServiceSettings(**(values | overrides))


test_settings.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


class HostFactory:
    """Starts hosts and channels; closes them all at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts: list[ServiceHost] = []
        self._channels: list[MeshChannels] = []

    async def start(
        self,
        name: str,
        registrations: Sequence[Registration] = (),
        *,
        public_authenticator: PublicAuthenticator | None = None,
        **settings: Any,
    ) -> ServiceHost:
        """A started host that serves `registrations`."""
        host = self.build(
            name, registrations, public_authenticator=public_authenticator, **settings
        )
        await host.start()
        return host

    def build(
        self,
        name: str,
        registrations: Sequence[Registration] = (),
        *,
        public_authenticator: PublicAuthenticator | None = None,
        **settings: Any,
    ) -> ServiceHost:
        """A host that is not started yet."""
        own = test_settings(self._folder / name, **settings)
        host = ServiceHost(name, own, public_authenticator=public_authenticator)
        for add_to_server, servicer, full_name in registrations:
            host.add(add_to_server, servicer, full_name)
        self._hosts.append(host)
        return host

    def channels(self, name: str = "test", **settings: Any) -> MeshChannels:
        """Channels of a caller called `name`."""
        channels = MeshChannels(name, test_settings(self._folder / name, **settings))
        self._channels.append(channels)
        return channels

    async def close(self) -> None:
        """Closes channels, then hosts."""
        await asyncio.gather(*(channels.close() for channels in self._channels))
        await asyncio.gather(*(host.stop() for host in self._hosts))


@pytest_asyncio.fixture
async def mesh_hosts(tmp_path: Path) -> AsyncIterator[HostFactory]:
    """A HostFactory that lives as long as the test."""
    factory = HostFactory(tmp_path)
    yield factory
    await factory.close()


__all__ = ["HostFactory", "Registration", "free_port", "mesh_hosts", "test_settings"]
