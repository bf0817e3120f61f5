"""A running tool_runner with a store, both on real gRPC servers."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agentmesh.conversation.v1 import message_pb2
from agentmesh.conversation_store.v1 import (
    blob_service_pb2_grpc,
    catalog_service_pb2_grpc,
    turn_service_pb2_grpc,
    workspace_service_pb2_grpc,
)
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh.tool_runner.v1 import tool_runner_service_pb2_grpc as pb_grpc
from agentmesh_tool_runner.calls import ToolCall
from agentmesh_tool_runner.sandbox.sandlock import landlock_version
from agentmesh_tool_runner.sandbox.workspaces import Workspaces
from agentmesh_tool_runner.server import ToolRunner
from agentmesh_tool_runner.settings import ToolRunnerSettings
from meshkit.channels import MeshChannels, call_metadata
from meshkit.context import Principal
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, mesh_hosts
from meshkit.testkit.hosts import Registration

from .memory_store import MemoryStore, Step
from .processes import PATIENCE

__all__ = ["mesh_hosts"]

CONVERSATION = "conv_1"
RUN = "run_1"
TENANT = "acme"
PACKAGE = "agentmesh.conversation_store.v1"


@dataclass
class Called:
    """Everything a tool call streamed."""

    items: list[pb.CallToolResponse] = field(default_factory=list)

    @property
    def replayed(self) -> bool:
        return self.items[0].started.replayed

    @property
    def output(self) -> str:
        return b"".join(item.output.data for item in self.items).decode()

    @property
    def result(self) -> message_pb2.ToolResultPart:
        return self.items[-1].finished.result


class Mesh:
    """tool_runner and its store, with a client for each role."""

    def __init__(self, runner: ToolRunner, store: MemoryStore, channels: MeshChannels) -> None:
        self.runner = runner
        self.store = store
        self.channel = channels.channel(runner.host.grpc_address, "tool_runner")
        self.stub = pb_grpc.ToolRunnerServiceStub(self.channel)

    @property
    def workspaces(self) -> Workspaces:
        """Those that the runner has open."""
        return self.runner.sandboxes.backend.workspaces

    def worker(self) -> Any:
        """Metadata of a worker that holds the run's lease."""
        token = self.runner.host.identity.mint_capability(
            tenant=TENANT,
            conversation_id=CONVERSATION,
            run_id=RUN,
            fence=self.store.fence,
        )
        return call_metadata(Principal("runtime", "", 0), token)

    def user(self, tenant: str = TENANT, role: int = 2) -> Any:
        """Metadata of a user's call that the gateway passes on."""
        return call_metadata(Principal("alice", tenant, role))

    async def call(self, tool: str, call_id: str = "", **arguments: Any) -> Called:
        """Calls a tool as a worker."""
        return await self.call_raw(tool, json.dumps(arguments), call_id or f"call_{tool}")

    async def call_raw(self, tool: str, arguments_json: str, call_id: str) -> Called:
        called = Called()
        async for item in self.start_call(tool, arguments_json, call_id):
            called.items.append(item)
        return called

    def start_call(self, tool: str, arguments_json: str, call_id: str, metadata: Any = None) -> Any:
        """A call of whoever holds the lease now, unless `metadata` is of another worker."""
        request = pb.CallToolRequest(
            turn=1,
            tool_call_id=call_id,
            tool=tool,
            arguments_json=arguments_json,
            agent="developer",
            message_id=f"msg_{call_id}",
        )
        return self.stub.CallTool(request, metadata=metadata or self.worker())

    async def execute(self, code: str, **fields: Any) -> list[pb.ExecutionItem]:
        """Runs code as a user."""
        request = pb.ExecuteRequest(code=code, **fields)
        if not request.language:
            request.language = pb.EXECUTION_LANGUAGE_PYTHON
        return [i.item async for i in self.stub.Execute(request, metadata=self.user())]


@pytest.fixture
async def store_host(
    mesh_hosts: HostFactory, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MemoryStore, ServiceHost]:
    store = MemoryStore()  # type: ignore[abstract]  # serves what tool_runner calls
    store.files.folder = tmp_path_factory.mktemp("blobs")
    turns = turn_service_pb2_grpc.add_TurnServiceServicer_to_server
    catalog = catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server
    services: list[Registration] = [
        (turns, store, f"{PACKAGE}.TurnService"),
        (catalog, store, f"{PACKAGE}.CatalogService"),
        (
            blob_service_pb2_grpc.add_BlobServiceServicer_to_server,
            store.files,
            f"{PACKAGE}.BlobService",
        ),
        (
            workspace_service_pb2_grpc.add_WorkspaceServiceServicer_to_server,
            store.files,
            f"{PACKAGE}.WorkspaceService",
        ),
    ]
    return store, await mesh_hosts.start("conversation_store", services)


def backends() -> list[str]:
    """What this machine can have, as the service prefers it."""
    found = ["bubblewrap"] if shutil.which("bwrap") else []
    return found + (["sandlock"] if landlock_version() >= 6 else [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what is about a backend that this machine cannot have."""
    items[:] = [item for item in items if _kind(item) in (None, *backends())]


def _kind(item: pytest.Item) -> str | None:
    if item.path.parent != Path(__file__).parent or not hasattr(item, "callspec"):
        return None
    kind: str | None = item.callspec.params.get("kind")
    return kind


@pytest.fixture
async def mesh(
    mesh_hosts: HostFactory, store_host: tuple[MemoryStore, ServiceHost], tmp_path: Path
) -> AsyncIterator[Mesh]:
    if not backends():
        pytest.skip("neither bubblewrap nor Landlock is here")
    store, host = store_host
    runner = ToolRunner(settings(tmp_path, host.grpc_address))
    await runner.host.start()
    yield Mesh(runner, store, mesh_hosts.channels())
    await runner.host.stop()


def settings(folder: Path, store_address: str, **values: Any) -> ToolRunnerSettings:
    """Of a runner in a test."""
    given: dict[str, Any] = {
        "grpc_port": 0,
        "data_dir": folder / "data",
        "store_address": store_address,
        "drain_seconds": 1.0,
        "execution_seconds": 60.0,
    }
    return ToolRunnerSettings(**(given | values))


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits until the condition holds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"never: {what}")


async def orphan(mesh: Mesh, tool: str, arguments_json: str) -> None:
    """A claim of a runner that died: the digest of the same call, an attempt nobody knows."""
    call = ToolCall(1, "call_1", tool, arguments_json, "developer", "msg")
    mesh.store.steps[1, "call_1"] = Step(1, "a runner that died:1", call.digest)


async def first_output(stream: Any) -> None:
    """Reads a call's stream until its program has written."""
    async for item in stream:
        if item.output.data:
            return
