"""Code that users run, its output and its input."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.context import current_principal
from meshkit.errors import MeshError

from agentmesh_tool_runner import translate
from agentmesh_tool_runner.executions import ExecutionLog, UnknownExecutionError
from agentmesh_tool_runner.runs import CodeRuns
from agentmesh_tool_runner.sandbox.backend import Execution
from agentmesh_tool_runner.sandbox.model import Limits, TerminalSize

from .errors import rich_errors
from .run_requests import code_run

_SIGKILL: Final = 9


class ExecutionMethods:
    """Execute, Attach, WriteInput and SignalExecution."""

    def __init__(self, runs: CodeRuns, *, default_limits: Limits, maximum_limits: Limits) -> None:
        self._runs = runs
        self._default_limits = default_limits
        self._maximum_limits = maximum_limits

    async def Execute(  # noqa: N802 - as the contract names it
        self, request: pb.ExecuteRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteResponse]:
        """Runs code for a user."""
        run = code_run(request, self._default_limits, self._maximum_limits)
        with rich_errors():
            log = await self._runs.start(run)
            try:
                async for item in self._items(log, 0, holds_back=True):
                    yield pb.ExecuteResponse(item=item)
            finally:
                if not request.detached and log.execution is not None:
                    log.execution.cancel()

    async def _items(
        self, log: ExecutionLog, first: int, *, holds_back: bool
    ) -> AsyncIterator[pb.ExecutionItem]:
        patience = translate.KEEP_ALIVE_SECONDS
        numbered = log.read(first, patience=patience, holds_back=holds_back)
        async with contextlib.aclosing(numbered):
            async for each in numbered:
                if each is None:
                    yield pb.ExecutionItem(keep_alive=translate.keep_alive())
                else:
                    number, item = each
                    yield translate.item_message(number, item, self._runs.backend_name)

    async def Attach(  # noqa: N802 - as the contract names it
        self, request: pb.AttachRequest, context: Any
    ) -> AsyncIterator[pb.AttachResponse]:
        """Output again, from a chunk on."""
        with rich_errors():
            log = self._find(request.execution_id)
            async for item in self._items(log, request.from_chunk, holds_back=False):
                yield pb.AttachResponse(item=item)

    async def WriteInput(  # noqa: N802 - as the contract names it
        self, request: pb.WriteInputRequest, context: Any
    ) -> pb.WriteInputResponse:
        """Standard input."""
        with rich_errors():
            execution = self._running(request.execution_id)
            if request.HasField("resize"):
                size = TerminalSize(request.resize.rows, request.resize.columns)
                try:
                    execution.resize(size)
                except ValueError as error:
                    raise MeshError.invalid("resize", str(error)) from None
            if request.data or request.eof:
                await execution.write_stdin(request.data, close=request.eof)
        return pb.WriteInputResponse()

    async def SignalExecution(  # noqa: N802 - as the contract names it
        self, request: pb.SignalExecutionRequest, context: Any
    ) -> pb.SignalExecutionResponse:
        """A signal, or the end of the whole tree."""
        with rich_errors():
            execution = self._running(request.execution_id)
            if request.signal == _SIGKILL:
                execution.cancel()
            else:
                execution.send_signal(request.signal)
        return pb.SignalExecutionResponse()

    def _running(self, execution_id: str) -> Execution:
        execution = self._find(execution_id).execution
        if execution is None:
            raise UnknownExecutionError(execution_id)
        return execution

    def _find(self, execution_id: str) -> ExecutionLog:
        return self._runs.registry.find(current_principal().tenant, execution_id)
