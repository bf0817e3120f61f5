"""Code that users run, its output and its input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.context import current_principal
from meshkit.errors import MeshError
from meshkit.ids import new_id
from meshkit.telemetry import current_traceparent

from agentmesh_tool_runner import translate
from agentmesh_tool_runner.executions import ExecutionLog, UnknownExecutionError
from agentmesh_tool_runner.runs import CodeRun, CodeRuns
from agentmesh_tool_runner.sandbox.backend import Limits

from .composed import FULL_NAME
from .errors import rich_errors

_SIGKILL: Final = 9


class ExecutionMethods:
    """Execute, Attach, WriteInput and SignalExecution."""

    def __init__(self, runs: CodeRuns, *, default_limits: Limits) -> None:
        self._runs = runs
        self._default_limits = default_limits

    async def Execute(  # noqa: N802 - as the contract names it
        self, request: pb.ExecuteRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteResponse]:
        """Runs code for a user."""
        run = self._code_run(request)
        with rich_errors():
            log = await self._runs.start(run)
            try:
                async for item in self._items(log, 0):
                    yield pb.ExecuteResponse(item=item)
            finally:
                if not request.detached and log.execution is not None:
                    log.execution.cancel()

    def _code_run(self, request: pb.ExecuteRequest) -> CodeRun:
        language = translate.LANGUAGES.get(request.language)
        if language is None:
            name = pb.ExecutionLanguage.Name(request.language)
            raise MeshError.unimplemented(f"{FULL_NAME}/Execute in {name}")
        if request.HasField("terminal"):
            raise MeshError.unimplemented(f"{FULL_NAME}/Execute with a terminal")
        return CodeRun(
            tenant=current_principal().tenant,
            execution_id=request.execution_id or new_id("exec"),
            language=language,
            code=request.code,
            args=list(request.args),
            files={file.path: file.content for file in request.files},
            stdin=request.stdin,
            keep_stdin_open=request.keep_stdin_open,
            environment={"TRACEPARENT": current_traceparent(), **request.environment},
            limits=translate.limits_of(request.limits, self._default_limits),
            conversation_id=request.conversation_id,
        )

    async def _items(self, log: ExecutionLog, first: int) -> AsyncIterator[pb.ExecutionItem]:
        async for numbered in log.read(first, patience=translate.KEEP_ALIVE_SECONDS):
            if numbered is None:
                yield pb.ExecutionItem(keep_alive=translate.keep_alive())
            else:
                number, item = numbered
                yield translate.item_message(number, item, self._runs.backend_name)

    async def Attach(  # noqa: N802 - as the contract names it
        self, request: pb.AttachRequest, context: Any
    ) -> AsyncIterator[pb.AttachResponse]:
        """Output again, from a chunk on."""
        with rich_errors():
            log = self._find(request.execution_id)
            async for item in self._items(log, request.from_chunk):
                yield pb.AttachResponse(item=item)

    async def WriteInput(  # noqa: N802 - as the contract names it
        self, request: pb.WriteInputRequest, context: Any
    ) -> pb.WriteInputResponse:
        """Standard input."""
        if request.HasField("resize"):
            raise MeshError.unimplemented(f"{FULL_NAME}/WriteInput with resize")
        with rich_errors():
            execution = self._find(request.execution_id).execution
            if execution is None:
                raise UnknownExecutionError(request.execution_id)
            await execution.write_stdin(request.data, close=request.eof)
        return pb.WriteInputResponse()

    async def SignalExecution(  # noqa: N802 - as the contract names it
        self, request: pb.SignalExecutionRequest, context: Any
    ) -> pb.SignalExecutionResponse:
        """A signal, or the end of the whole tree."""
        with rich_errors():
            execution = self._find(request.execution_id).execution
            if execution is None:
                raise UnknownExecutionError(request.execution_id)
            if request.signal == _SIGKILL:
                execution.cancel()
            else:
                execution.send_signal(request.signal)
        return pb.SignalExecutionResponse()

    def _find(self, execution_id: str) -> ExecutionLog:
        return self._runs.registry.find(current_principal().tenant, execution_id)
