"""Tool calls of a run, and the tools there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from google.protobuf import duration_pb2
from meshkit.context import current_capability
from meshkit.telemetry import current_traceparent

from agentmesh_tool_runner import translate
from agentmesh_tool_runner.calls import Authority, RunningCall, ToolCall, ToolCalls
from agentmesh_tool_runner.sandbox.model import Limits
from agentmesh_tool_runner.store import result_part
from agentmesh_tool_runner.tools.provider import Toolbox

from .errors import rich_errors


class ToolCallMethods:
    """CallTool and ListTools."""

    def __init__(
        self,
        calls: ToolCalls,
        tools: Toolbox,
        address: Callable[[], str],
        *,
        default_limits: Limits,
    ) -> None:
        """`address` is where this runner can be reached itself."""
        self._calls = calls
        self._address = address
        self._tools = tools
        self._default_limits = default_limits

    async def CallTool(  # noqa: N802 - as the contract names it
        self, request: pb.CallToolRequest, context: Any
    ) -> AsyncIterator[pb.CallToolResponse]:
        """One recorded step."""
        capability = current_capability()
        authority = Authority(
            capability.tenant,
            capability.conversation_id,
            capability.run_id,
            capability.fence,
            capability.token,
        )
        with rich_errors():
            running = self._calls.begin(authority, _tool_call(request))
            end = asyncio.ensure_future(self._calls.end(running))
            try:
                async for item in _call_items(running, end, self._address()):
                    yield item
                ended = await end
            finally:
                end.cancel()
        part = result_part(request.tool_call_id, request.tool, ended.reply)
        yield pb.CallToolResponse(finished=pb.CallFinished(result=part, sequence=ended.sequence))

    async def ListTools(  # noqa: N802 - as the contract names it
        self, request: pb.ListToolsRequest, context: Any
    ) -> pb.ListToolsResponse:
        """By name."""
        timeout = self._default_limits.wall_seconds
        specs = self._tools.specs()
        return pb.ListToolsResponse(tools=[translate.tool_definition(s, timeout) for s in specs])


def _tool_call(request: pb.CallToolRequest) -> ToolCall:
    return ToolCall(
        turn=request.turn,
        tool_call_id=request.tool_call_id,
        tool=request.tool,
        arguments_json=request.arguments_json,
        agent=request.agent,
        message_id=request.message_id,
        timeout_seconds=_seconds(request.timeout) if request.HasField("timeout") else None,
        retries=request.retries if request.HasField("retries") else None,
        concurrency=request.concurrency,
        cache_seconds=_seconds(request.cache_ttl),
        traceparent=current_traceparent(),
    )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.ToNanoseconds() / 1e9


async def _call_items(
    running: RunningCall, end: asyncio.Future[Any], address: str
) -> AsyncIterator[pb.CallToolResponse]:
    """Everything before `finished`: what a call has written so far, then what it writes."""
    changed = asyncio.Event()
    running.listeners.add(changed.set)
    end.add_done_callback(lambda _: changed.set())
    try:
        while not (running.started.is_set() or end.done()):
            await changed.wait()
            changed.clear()
        replayed = running.replayed
        yield pb.CallToolResponse(
            started=pb.CallStarted(
                replayed=replayed,
                execution_id=running.call.tool_call_id,
                runner_address=address,
            )
        )
        at = 0
        while True:
            changed.clear()
            while at < len(running.output):
                yield pb.CallToolResponse(output=translate.output_chunk(running.output[at]))
                at += 1
            if end.done():
                return
            try:
                async with asyncio.timeout(translate.KEEP_ALIVE_SECONDS):
                    await changed.wait()
            except TimeoutError:
                yield pb.CallToolResponse(keep_alive=translate.keep_alive())
    finally:
        running.listeners.discard(changed.set)
