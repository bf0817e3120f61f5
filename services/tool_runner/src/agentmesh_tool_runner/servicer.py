"""ToolRunnerService: protobuf in, plain calls, protobuf out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh.tool_runner.v1 import tool_runner_service_pb2_grpc as pb_grpc
from google.protobuf import struct_pb2
from meshkit.context import current_capability, current_principal
from meshkit.errors import MeshError, from_rpc_error
from meshkit.ids import new_id
from meshkit.telemetry import current_traceparent

from . import translate
from .calls import Authority, RunningCall, ToolCall, ToolCalls
from .executions import ExecutionLog, OutputRemovedError, UnknownExecutionError
from .runs import CodeRun, CodeRuns
from .sandbox.backend import (
    FileEntry,
    Limits,
    SandboxUnavailableError,
    Workspace,
    WorkspaceFullError,
    WorkspaceKey,
)
from .sandbox.beneath import UnsafePathError
from .sandboxes import Sandboxes
from .store import result_part
from .tools.tool import Tool

FULL_NAME: Final = "agentmesh.tool_runner.v1.ToolRunnerService"
_KEEP_ALIVE_SECONDS: Final = 10.0
_CHUNK_BYTES: Final = 256 * 1024
_MAX_LISTED: Final = 10_000
_SIGKILL: Final = 9


@contextlib.contextmanager
def rich_errors() -> Iterator[None]:
    """What the domain raises, as the contract says it."""
    try:
        yield
    except SandboxUnavailableError as error:
        reason = errors_pb2.ERROR_REASON_SANDBOX_UNAVAILABLE
        message = f"no code can run: {error}"
        raise MeshError.precondition(reason, message, remedy=str(error)) from None
    except UnknownExecutionError as error:
        raise MeshError.not_found("execution", str(error)) from None
    except OutputRemovedError as error:
        raise MeshError.out_of_range(errors_pb2.ERROR_REASON_OUTPUT_REMOVED, str(error)) from None
    except UnsafePathError as error:
        raise MeshError.invalid("path", str(error)) from None
    except FileNotFoundError as error:
        raise MeshError.not_found("file", str(error.filename)) from None
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise MeshError.invalid("path", f"{error.filename}: {error.strerror}") from None
    except BrokenPipeError as error:
        raise MeshError.precondition(errors_pb2.ERROR_REASON_ALREADY_ENDED, str(error)) from None
    except WorkspaceFullError as error:
        raise MeshError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, str(error)
        ) from None
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


class ToolRunnerServicer(pb_grpc.ToolRunnerServiceServicer):
    """The public face of tool_runner."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        calls: ToolCalls,
        runs: CodeRuns,
        tools: list[Tool[Any]],
        *,
        default_limits: Limits,
        maximum_limits: Limits,
    ) -> None:
        self._sandboxes = sandboxes
        self._calls = calls
        self._runs = runs
        self._tools = tools
        self._default_limits = default_limits
        self._maximum_limits = maximum_limits

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
                async for item in _call_items(running, end):
                    yield item
                ended = await end
            finally:
                end.cancel()
        part = result_part(request.tool_call_id, request.tool, ended.reply)
        yield pb.CallToolResponse(finished=pb.CallFinished(result=part, sequence=ended.sequence))

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
        async for numbered in log.read(first, patience=_KEEP_ALIVE_SECONDS):
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

    async def ListTools(  # noqa: N802 - as the contract names it
        self, request: pb.ListToolsRequest, context: Any
    ) -> pb.ListToolsResponse:
        """By name."""
        timeout = self._default_limits.wall_seconds
        tools = [translate.tool_definition(tool, timeout) for tool in self._tools]
        return pb.ListToolsResponse(tools=sorted(tools, key=lambda tool: tool.name))

    async def GetCapabilities(  # noqa: N802 - as the contract names it
        self, request: pb.GetCapabilitiesRequest, context: Any
    ) -> pb.GetCapabilitiesResponse:
        """What the self-test proved."""
        report = self._sandboxes.report
        seen = struct_pb2.Struct()
        seen.update(dict(report.evidence))
        capabilities = [
            pb.Capability(
                name=each.name,
                enforced=each.enforced,
                detail=each.detail,
                evidence=seen if each.name == "isolation" else None,
            )
            for each in report.capabilities
        ]
        ready = self._sandboxes.ready
        return pb.GetCapabilitiesResponse(
            ready=ready,
            backend=self._runs.backend_name if ready else "",
            languages=list(translate.LANGUAGES) if ready else [],
            capabilities=capabilities,
            remedy=report.remedy,
            default_limits=translate.limits_message(self._default_limits),
            maximum_limits=translate.limits_message(self._maximum_limits),
        )

    async def ListFiles(  # noqa: N802 - as the contract names it
        self, request: pb.ListFilesRequest, context: Any
    ) -> pb.ListFilesResponse:
        """Files, without folders."""
        with rich_errors():
            workspace = await self._workspace(request.conversation_id)
            entries = await workspace.list_files(request.path or ".", limit=_MAX_LISTED)
        files = [translate.file_info(entry) for entry in entries if entry.kind == "file"]
        return pb.ListFilesResponse(files=files)

    async def ReadFile(  # noqa: N802 - as the contract names it
        self, request: pb.ReadFileRequest, context: Any
    ) -> AsyncIterator[pb.ReadFileResponse]:
        """Chunks of a file."""
        with rich_errors():
            workspace = await self._workspace(request.conversation_id)
            offset = 0
            while True:
                data = await workspace.read_file(request.path, offset=offset, limit=_CHUNK_BYTES)
                if data or not offset:
                    yield pb.ReadFileResponse(chunk=data)
                offset += len(data)
                if len(data) < _CHUNK_BYTES:
                    return

    async def WriteFile(  # noqa: N802 - as the contract names it
        self, request_iterator: AsyncIterator[pb.WriteFileRequest], context: Any
    ) -> pb.WriteFileResponse:
        """The whole file, replaced at once when its last chunk is there."""
        first: pb.WriteFileRequest | None = None
        data = bytearray()
        async for request in request_iterator:
            first = first or request
            data += request.chunk
            if len(data) > self._maximum_limits.workspace_bytes:
                raise MeshError.message_too_large(self._maximum_limits.workspace_bytes)
        if first is None or not first.conversation_id:
            raise MeshError.invalid("conversation_id", "the first chunk names the conversation")
        with rich_errors():
            workspace = await self._workspace(first.conversation_id)
            await workspace.write_file(first.path, bytes(data))
            await workspace.save()
            entry = await _entry(workspace, first.path)
        return pb.WriteFileResponse(file=translate.file_info(entry))

    async def _workspace(self, conversation_id: str) -> Workspace:
        key = WorkspaceKey(current_principal().tenant, conversation_id)
        return await self._sandboxes.backend.workspace(key)


async def _entry(workspace: Workspace, path: str) -> FileEntry:
    parent = path.rpartition("/")[0] or "."
    for entry in await workspace.list_files(parent, limit=_MAX_LISTED):
        if entry.path == path.removeprefix("./"):
            return entry
    raise FileNotFoundError(2, "it is gone again", path)


def _tool_call(request: pb.CallToolRequest) -> ToolCall:
    timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else None
    return ToolCall(
        turn=request.turn,
        tool_call_id=request.tool_call_id,
        tool=request.tool,
        arguments_json=request.arguments_json,
        agent=request.agent,
        message_id=request.message_id,
        timeout_seconds=timeout,
        traceparent=current_traceparent(),
    )


async def _call_items(
    running: RunningCall, end: asyncio.Future[Any]
) -> AsyncIterator[pb.CallToolResponse]:
    """Everything before `finished`: what a call has written so far, then what it writes."""
    changed = asyncio.Event()
    running.listeners.add(changed.set)
    end.add_done_callback(functools.partial(_wake, changed))
    try:
        await _until(running.started.is_set, changed, end)
        replayed = running.replayed
        yield pb.CallToolResponse(
            started=pb.CallStarted(replayed=replayed, execution_id=running.call.tool_call_id)
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
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    await changed.wait()
            except TimeoutError:
                yield pb.CallToolResponse(keep_alive=translate.keep_alive())
    finally:
        running.listeners.discard(changed.set)


async def _until(condition: Any, changed: asyncio.Event, end: asyncio.Future[Any]) -> None:
    while not condition() and not end.done():
        changed.clear()
        await changed.wait()


def _wake(changed: asyncio.Event, _: object) -> None:
    changed.set()
