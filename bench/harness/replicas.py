"""A mesh of processes that a measurement may pin, kill and look into, with as many runtimes as it
wants."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1 import conversation_service_pb2_grpc
from meshkit.testkit import MeshProcess

from bench.harness.mesh import model_environment

ENDED = (
    conversation_pb2.CONVERSATION_STATUS_COMPLETED,
    conversation_pb2.CONVERSATION_STATUS_FAILED,
    conversation_pb2.CONVERSATION_STATUS_CANCELLED,
)


@dataclass
class Replicas:
    """The processes. Calls go through the gateway."""

    folder: Path
    environment: Mapping[str, str]
    runtimes: list[MeshProcess] = field(default_factory=list)
    store: MeshProcess = field(init=False)
    tool_runner: MeshProcess = field(init=False)
    gateway: MeshProcess = field(init=False)
    channel: grpc.aio.Channel = field(init=False)

    async def start(self) -> None:
        """Starts everything but the runtimes and the gateway, then those."""
        self.store = await self._start("conversation_store")
        addresses = {"AGENTMESH_STORE_ADDRESS": self.store.grpc_address}
        self.tool_runner = await self._start("tool_runner", **addresses)
        runtime = await self.add_runtime()
        self.gateway = await self._start(
            "gateway",
            APP_PORT="0",
            AGENTMESH_RUNTIME_ADDRESS=runtime.grpc_address,
            AGENTMESH_TOOL_RUNNER_ADDRESS=self.tool_runner.grpc_address,
            **addresses,
        )
        self.channel = grpc.aio.insecure_channel(self.gateway.grpc_address)

    async def add_runtime(self) -> MeshProcess:
        """One replica more."""
        runtime = await self._start(
            "agent_runtime",
            f"agent_runtime_{len(self.runtimes)}",
            AGENTMESH_STORE_ADDRESS=self.store.grpc_address,
            AGENTMESH_TOOL_RUNNER_ADDRESS=self.tool_runner.grpc_address,
        )
        self.runtimes.append(runtime)
        return runtime

    async def _start(self, service: str, name: str = "", **environment: str) -> MeshProcess:
        process = MeshProcess(
            [sys.executable, "-m", f"agentmesh_{service}"],
            self.folder / (name or service),
            {
                "LOG_LEVEL": "WARNING",
                "AGENTMESH_DATA_DIR": str(self.folder / "data"),
                **self.environment,
                **environment,
            },
        )
        await process.start()
        return process

    async def close(self) -> None:
        """Ends all processes."""
        await self.channel.close()
        for process in (self.gateway, *self.runtimes, self.tool_runner, self.store):
            await process.close()

    @property
    def stub(self) -> Any:
        """Of the gateway."""
        return conversation_service_pb2_grpc.ConversationServiceStub(self.channel)

    async def start_conversation(self, agents: Sequence[str], **fields: Any) -> str:
        """The id of a new one."""
        request = pb2.StartConversationRequest(agents=agents, task="Go.", **fields)
        return str((await self.stub.StartConversation(request)).conversation_id)

    async def reach(
        self, conversation_ids: Sequence[str], *statuses: int, within: float = 120.0
    ) -> None:
        """Waits until each has one of the statuses."""
        async with asyncio.timeout(within):
            for conversation_id in conversation_ids:
                request = pb2.GetConversationRequest(
                    conversation_id=conversation_id, without_messages=True
                )
                while True:
                    if (await self.stub.GetConversation(request)).status in statuses:
                        break
                    await asyncio.sleep(0.1)

    async def events(self, conversation_id: str) -> Sequence[event_pb2.Event]:
        """The whole log of a short conversation."""
        request = pb2.ListEventsRequest(conversation_id=conversation_id, page_size=500)
        events: Sequence[event_pb2.Event] = (await self.stub.ListEvents(request)).events
        return events


def committed_at(event: event_pb2.Event) -> float:
    """When, in seconds of the store's clock, which is this machine's."""
    return event.time.ToNanoseconds() / 1e9


def cpu_seconds(process: MeshProcess) -> float:
    """What the process has used of processors so far."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def pin(process: MeshProcess, core: int) -> None:
    """Every thread of the process stays on one core from now on."""
    for thread in psutil.Process(process.pid).threads():
        os.sched_setaffinity(thread.id, {core})


@asynccontextmanager
async def replicas(base_url: str, **environment: str) -> AsyncIterator[Replicas]:
    """A mesh with one runtime over an empty data directory, `environment` for all of it."""
    common = {"AGENTMESH_INTERNAL_SECRET": secrets.token_hex(32), **environment}
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as name:
        mesh = Replicas(Path(name), common | model_environment(base_url))
        await mesh.start()
        try:
            yield mesh
        finally:
            await mesh.close()
