"""Which tool_runner is called: the one that has the workspace open, if it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh.tool_runner.v1 import tool_runner_service_pb2_grpc as pb_grpc
from agentmesh_agent_runtime.adapters import runners
from agentmesh_agent_runtime.adapters.runners import Runners
from meshkit.channels import call_metadata
from meshkit.context import Principal
from meshkit.testkit import HostFactory, mesh_hosts

__all__ = ["mesh_hosts"]
VIEWER = Principal("alice", "acme", 1)


class NamedRunner(pb_grpc.ToolRunnerServiceServicer):
    """Says who it is."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def GetCapabilities(  # noqa: N802 - as the contract names it
        self, request: pb.GetCapabilitiesRequest, context: object
    ) -> pb.GetCapabilitiesResponse:
        return pb.GetCapabilitiesResponse(backend=self._name)


async def start(hosts: HostFactory, name: str) -> str:
    """A runner of that name; its address."""
    add = pb_grpc.add_ToolRunnerServiceServicer_to_server
    runner = NamedRunner(name)  # type: ignore[abstract]  # serves what the test calls
    full_name = "agentmesh.tool_runner.v1.ToolRunnerService"
    host = await hosts.start("tool_runner", [(add, runner, full_name)])
    return host.grpc_address


@pytest_asyncio.fixture
async def silent(tmp_path: Path) -> AsyncIterator[str]:
    """An address that takes connections and never says a word."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()


async def called(some: Runners, conversation_id: str) -> str:
    """Who answers for a conversation."""
    async with some.at(conversation_id) as stub:
        return await named(stub)


async def named(stub: Any) -> str:
    """Who answers."""
    answer = await stub.GetCapabilities(pb.GetCapabilitiesRequest(), metadata=call_metadata(VIEWER))
    name: str = answer.backend
    return name


async def test_the_runner_that_has_the_workspace_open_is_called(mesh_hosts: HostFactory) -> None:
    near = await start(mesh_hosts, "near")
    some = Runners(mesh_hosts.channels(), await start(mesh_hosts, "any"))
    assert await called(some, "conv_1") == "any"
    some.remember("conv_1", near)
    assert await called(some, "conv_1") == "near"
    assert await called(some, "conv_2") == "any"
    some.lose("conv_1", near)
    assert await called(some, "conv_1") == "any"


async def test_one_that_does_not_answer_is_waited_for_a_moment_only(
    mesh_hosts: HostFactory, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "CONNECT_SECONDS", 0.2)
    some = Runners(mesh_hosts.channels(), await start(mesh_hosts, "any"))
    some.remember("conv_1", silent)
    async with asyncio.timeout(15):
        assert await called(some, "conv_1") == "any"
    assert some.place_of("conv_1") == ""


async def test_not_more_is_remembered_than_there_is_room_for(
    mesh_hosts: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "_MOST_CONVERSATIONS", 2)
    monkeypatch.setattr(runners, "_MOST_RUNNERS", 1)
    some = Runners(mesh_hosts.channels(), await start(mesh_hosts, "any"))
    addresses = [await start(mesh_hosts, f"near {number}") for number in range(3)]
    for number, address in enumerate(addresses):
        some.remember(f"conv_{number}", address)
        assert await called(some, f"conv_{number}") == f"near {number}"
    assert [some.place_of(f"conv_{number}") for number in range(3)] == ["", *addresses[1:]]
    assert await called(some, "conv_1") == "near 1"


async def test_a_runner_that_is_called_is_not_given_up(
    mesh_hosts: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "_MOST_RUNNERS", 1)
    some = Runners(mesh_hosts.channels(), await start(mesh_hosts, "any"))
    some.remember("conv_0", await start(mesh_hosts, "near 0"))
    async with some.at("conv_0") as stub:
        some.remember("conv_0", "")
        for number in (1, 2):
            some.remember("conv_1", await start(mesh_hosts, f"near {number}"))
            assert await called(some, "conv_1") == f"near {number}"
        assert await named(stub) == "near 0"


async def test_the_address_of_all_runners_is_never_given_up(mesh_hosts: HostFactory) -> None:
    address = await start(mesh_hosts, "any")
    some = Runners(mesh_hosts.channels(), address)
    some.remember("conv_1", address)
    some.lose("conv_1", address)
    assert await called(some, "conv_1") == "any"
