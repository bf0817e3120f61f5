"""The tool_runner as the caller of tools, and the catalog as the place where they are described."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import grpc
from agentmesh.common.v1 import errors_pb2, options_pb2
from agentmesh.conversation.v1 import message_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as tools_pb2
from google.protobuf.json_format import MessageToDict
from meshkit.errors import from_rpc_error
from meshkit.identity import Principal, principal_scope

from agentmesh_agent_runtime.adapters.calls import capability_metadata, insist
from agentmesh_agent_runtime.adapters.runners import Runners
from agentmesh_agent_runtime.adapters.store_turns import Head
from agentmesh_agent_runtime.turns.failures import ServiceUnreachable, ToolRefused
from agentmesh_agent_runtime.turns.grant import Grant
from agentmesh_agent_runtime.turns.ports import ToolOutput, ToolRequest, ToolSchema

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceAsyncStub

SCHEMA_SECONDS = 10.0
"""How long a tool's description is used before it is read again."""

# Answers that another attempt would get again, so the model is told instead.
_REFUSALS = frozenset(
    {
        errors_pb2.ERROR_REASON_INVALID_FIELD,
        errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
        errors_pb2.ERROR_REASON_SANDBOX_UNAVAILABLE,
        errors_pb2.ERROR_REASON_UNRESOLVED_TOOLS,
    }
)


def message_of(request: ToolRequest, turn: int) -> tools_pb2.CallToolRequest:
    """A call as the contract has it; what the agent does not say is not set."""
    message = tools_pb2.CallToolRequest(
        turn=turn,
        tool_call_id=request.tool_call_id,
        tool=request.tool,
        arguments_json=request.arguments_json,
        agent=request.agent,
        message_id=request.message_id,
        retries=request.retries,
        concurrency=request.concurrency or 0,
    )
    if request.timeout is not None:
        message.timeout.FromNanoseconds(round(request.timeout * 1e9))
    if request.cache_seconds is not None:
        message.cache_ttl.FromNanoseconds(round(request.cache_seconds * 1e9))
    return message


class ToolRunnerCaller:
    """ToolCaller over ToolRunnerService, for one lease."""

    def __init__(self, runners: Runners, grant: Grant, head: Head) -> None:
        self._runners = runners
        self._conversation_id = grant.id.conversation_id
        runners.remember(self._conversation_id, grant.runner_address)
        self._grant = grant
        self._head = head

    async def call(self, request: ToolRequest, alive: Callable[[], None]) -> ToolOutput:
        """See ToolCaller. The tool's step makes it safe to call again after a broken stream."""
        message = message_of(request, self._grant.id.turn)
        finished = await insist(lambda: self._attempt(message, alive))
        self._head.sequence = max(self._head.sequence, finished.sequence)
        result = finished.result
        return ToolOutput(result.output, result.outcome != message_pb2.TOOL_OUTCOME_OK)

    async def _attempt(
        self, message: tools_pb2.CallToolRequest, alive: Callable[[], None]
    ) -> tools_pb2.CallFinished:
        async with self._runners.at(self._conversation_id) as stub:
            return await self._call(stub, message, alive)

    async def _call(
        self,
        stub: ToolRunnerServiceAsyncStub,
        message: tools_pb2.CallToolRequest,
        alive: Callable[[], None],
    ) -> tools_pb2.CallFinished:
        near = self._runners.place_of(self._conversation_id)
        stream = stub.CallTool(message, metadata=capability_metadata(self._grant.capability))
        finished: tools_pb2.CallFinished | None = None
        try:
            # Read to its end, so that the call ends well on both sides.
            async for item in stream:
                alive()
                kind = item.WhichOneof("item")
                if kind == "finished":
                    finished = item.finished
                elif kind == "started":
                    self._runners.remember(self._conversation_id, item.started.runner_address)
        except grpc.aio.AioRpcError as error:
            if finished is not None:
                return finished
            if near and error.code() is grpc.StatusCode.UNAVAILABLE:
                self._runners.lose(self._conversation_id, near)
            found = from_rpc_error(error)
            refused = found.reason in _REFUSALS or (
                found.reason == errors_pb2.ERROR_REASON_NOT_FOUND
                and found.resource is not None
                and found.resource[0] == "tool"
            )
            if refused:
                remedy = found.metadata.get("remedy")
                text = f"{found.message}; {remedy}" if remedy else found.message
                raise ToolRefused(text) from error
            raise
        finally:
            stream.cancel()
        if finished is not None:
            return finished
        raise ServiceUnreachable("the tool_runner ended a call without a result")


class ToolDirectory:
    """Descriptions of tools, from the catalog."""

    def __init__(self, stub: CatalogServiceAsyncStub) -> None:
        self._stub = stub
        self._known: dict[tuple[str, str], tuple[float, ToolSchema]] = {}

    async def fetch(self, tenant: str, names: Iterable[str]) -> Mapping[str, ToolSchema]:
        """The tools of these names that the tenant has. Raises ServiceUnreachable."""
        now = time.monotonic()
        wanted = sorted(set(names))
        stale = [n for n in wanted if now > self._known.get((tenant, n), (0.0, None))[0]]
        if stale:
            for name in stale:
                self._known.pop((tenant, name), None)
            for schema in await self._read(tenant, stale):
                self._known[tenant, schema.name] = (now + SCHEMA_SECONDS, schema)
        return {n: self._known[tenant, n][1] for n in wanted if (tenant, n) in self._known}

    async def _read(self, tenant: str, names: list[str]) -> list[ToolSchema]:
        request = catalog_pb2.ListDocumentsRequest(
            kind=catalog_pb2.DOCUMENT_KIND_TOOL, page_size=1000, names=names
        )
        reader = Principal("agent_runtime", tenant, options_pb2.ROLE_OPERATOR, "agent_runtime")
        with principal_scope(reader):
            response = await insist(lambda: self._stub.ListDocuments(request), seconds=20.0)
        return [
            ToolSchema(
                name=document.tool.name or document.name,
                description=document.tool.description,
                parameters=MessageToDict(document.tool.parameters),
            )
            for document in response.documents
        ]
