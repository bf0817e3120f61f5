"""A store, a runtime and a tool_runner as real processes, spoken to as the gateway does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import AgentRuntimeServiceStub
from agentmesh.common.v1 import options_pb2, usage_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2, stream_pb2
from agentmesh.conversation_store.v1 import blob_service_pb2 as blobs_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import ledger_service_pb2 as ledger_pb2
from agentmesh.conversation_store.v1.blob_service_pb2_grpc import BlobServiceStub
from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
    ConversationStoreServiceStub,
)
from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceStub
from agentmesh_agent_runtime.adapters.definitions import team_to_proto
from agentmesh_agent_runtime.definitions.specs import TeamSpec
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import MeshProcess, test_settings

SOMEBODY = Principal("tester", "acme", options_pb2.ROLE_OPERATOR, "gateway")
ENDED = frozenset(
    {
        conversation_pb2.CONVERSATION_STATUS_COMPLETED,
        conversation_pb2.CONVERSATION_STATUS_FAILED,
        conversation_pb2.CONVERSATION_STATUS_CANCELLED,
    }
)


StartMesh = Callable[..., Awaitable["RealMesh"]]


class RealMesh:
    """`environment` goes to the runtime."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._folder = folder
        self._environment = environment
        self._channels: MeshChannels | None = None
        self.store = self._process("conversation_store", {"OPENAI_API_KEY": ""})
        self.tool_runner: MeshProcess | None = None
        self.runtimes: list[MeshProcess] = []

    def _process(self, name: str, environment: dict[str, str]) -> MeshProcess:
        command = [sys.executable, "-m", f"agentmesh_{name}"]
        index = len(getattr(self, "runtimes", ()))
        return MeshProcess(command, self._folder / f"{name}{index}", environment)

    async def start(self, *, runtimes: int = 1, tools: bool = False) -> None:
        """Starts all processes."""
        await self.store.start()
        if tools:
            self.tool_runner = self._process("tool_runner", self._addresses())
            await self.tool_runner.start()
        for _ in range(runtimes):
            await self.add_runtime()
        self._channels = MeshChannels("gateway", test_settings(self._folder / "gateway"))

    async def add_runtime(self) -> MeshProcess:
        """One replica more."""
        defaults = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", "LOG_LEVEL": "DEBUG"}
        runtime = self._process("agent_runtime", defaults | self._addresses() | self._environment)
        self.runtimes.append(runtime)
        await runtime.start()
        return runtime

    def _addresses(self) -> dict[str, str]:
        tools = self.tool_runner.grpc_address if self.tool_runner else ""
        return {
            "AGENTMESH_STORE_ADDRESS": self.store.grpc_address,
            "AGENTMESH_TOOL_RUNNER_ADDRESS": tools or "127.0.0.1:9",
        }

    def channel(self, process: MeshProcess, service: str) -> Any:
        """To one of the processes."""
        assert self._channels is not None
        return self._channels.channel(process.grpc_address, service)

    @property
    def stub(self) -> Any:
        """The store's."""
        return ConversationStoreServiceStub(self.channel(self.store, "conversation_store"))

    async def begin(
        self,
        team: TeamSpec,
        task: str = "Do it.",
        *,
        max_rounds: int = 20,
        human: bool = False,
        parts: Sequence[message_pb2.Part] = (),
        **budget: int,
    ) -> str:
        """Starts a conversation; its id."""
        request = store_pb2.StartConversationRequest(
            task=task,
            definition=team_to_proto(team),
            agents=[agent.id for agent in team.agents()],
            max_rounds=max_rounds,
            human_input=human,
            parts=parts,
            budget=_budget(budget),
        )
        with principal_scope(SOMEBODY):
            response = await self.stub.StartConversation(request)
        return str(response.conversation.conversation_id)

    async def active_turns(self, runtime: MeshProcess) -> Sequence[runtime_pb2.ActiveTurn]:
        """What a replica is at."""
        assert self._channels is not None
        stub: Any = AgentRuntimeServiceStub(
            self._channels.channel(runtime.grpc_address, "agent_runtime")
        )
        with principal_scope(replace(SOMEBODY, role=options_pb2.ROLE_ADMIN)):
            response = await stub.ListActiveTurns(runtime_pb2.ListActiveTurnsRequest())
        turns: Sequence[runtime_pb2.ActiveTurn] = response.turns
        return turns

    async def upload(self, data: bytes) -> str:
        """Stores bytes; their digest."""
        assert self._channels is not None
        stub: Any = BlobServiceStub(
            self._channels.channel(self.store.grpc_address, "conversation_store")
        )
        at = range(0, len(data), 1 << 20)
        chunks = [
            blobs_pb2.UploadBlobRequest(size_bytes=len(data), chunk=data[i : i + (1 << 20)])
            for i in at
        ]
        with principal_scope(SOMEBODY):
            return str((await stub.UploadBlob(iter(chunks))).digest)

    async def send(
        self, conversation_id: str, text: str, parts: Sequence[message_pb2.Part] = ()
    ) -> None:
        """Says something."""
        request = store_pb2.SendMessageRequest(
            conversation_id=conversation_id, content=text, parts=parts
        )
        with principal_scope(SOMEBODY):
            await self.stub.SendMessage(request)

    @property
    def ledger(self) -> Any:
        """The store's."""
        assert self._channels is not None
        return LedgerServiceStub(
            self._channels.channel(self.store.grpc_address, "conversation_store")
        )

    async def allow_a_day(self, **budget: int) -> None:
        """Sets what the tenant may consume in a day."""
        policy = ledger_pb2.TenantPolicy(daily_budget=_budget(budget))
        with principal_scope(replace(SOMEBODY, role=options_pb2.ROLE_ADMIN)):
            await self.ledger.PutTenantPolicy(ledger_pb2.PutTenantPolicyRequest(policy=policy))

    async def usage_by_model(self) -> dict[str, usage_pb2.Usage]:
        """What the tenant consumed."""
        request = ledger_pb2.SummarizeUsageRequest(dimension=ledger_pb2.USAGE_DIMENSION_MODEL)
        with principal_scope(SOMEBODY):
            response = await self.ledger.SummarizeUsage(request)
        return {row.key: row.usage for row in response.rows}

    async def cancel(self, conversation_id: str) -> None:
        """Cancels the run."""
        request = store_pb2.CancelConversationRequest(conversation_id=conversation_id)
        with principal_scope(SOMEBODY):
            await self.stub.CancelConversation(request)

    async def conversation(self, conversation_id: str) -> conversation_pb2.Conversation:
        """As it stands. Waits for a store that is on its way back."""
        request = store_pb2.GetConversationRequest(conversation_id=conversation_id)
        with principal_scope(SOMEBODY):
            response = await self.stub.GetConversation(request, timeout=20.0, wait_for_ready=True)
        conversation: conversation_pb2.Conversation = response.conversation
        return conversation

    async def settled(
        self, conversation_id: str, *, within: float = 60.0, waiting: bool = False
    ) -> conversation_pb2.Conversation:
        """The conversation when its run has ended, or waits for somebody."""
        wanted = ENDED | ({conversation_pb2.CONVERSATION_STATUS_WAITING} if waiting else set())
        async with asyncio.timeout(within):
            while (now := await self.conversation(conversation_id)).status not in wanted:
                await asyncio.sleep(0.02)
        return now

    async def stream(self, conversation_id: str) -> list[stream_pb2.StreamItem]:
        """Everything that a subscriber gets until the run ends."""
        request = store_pb2.SubscribeConversationRequest(
            conversation_id=conversation_id, until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END
        )
        with principal_scope(SOMEBODY):
            return [r.item async for r in self.stub.SubscribeConversation(request)]

    async def events(
        self, conversation_id: str, view: store_pb2.EventView.ValueType = store_pb2.EVENT_VIEW_LOG
    ) -> Sequence[event_pb2.Event]:
        """The log."""
        request = store_pb2.ListEventsRequest(
            conversation_id=conversation_id, page_size=1000, view=view
        )
        with principal_scope(SOMEBODY):
            response = await self.stub.ListEvents(request)
        events: Sequence[event_pb2.Event] = response.events
        return events

    async def texts(self, conversation_id: str) -> list[tuple[str, str]]:
        """Who said what."""
        return [
            (event.message.agent, event.message.content)
            for event in await self.events(conversation_id)
            if event.HasField("message")
        ]

    async def close(self) -> None:
        """Ends all processes."""
        if self._channels is not None:
            await self._channels.close()
        for process in (*self.runtimes, self.tool_runner, self.store):
            if process is not None:
                await process.close()


def _budget(bounds: dict[str, Any]) -> usage_pb2.Budget:
    return usage_pb2.Budget(**bounds)
