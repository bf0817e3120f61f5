"""Files of a workspace on their way in and out, chunk by chunk, never whole in memory."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.context import current_principal
from meshkit.errors import MeshError

from agentmesh_tool_runner.sandbox.backend import Upload
from agentmesh_tool_runner.sandbox.files import reading
from agentmesh_tool_runner.sandbox.model import WorkspaceKey
from agentmesh_tool_runner.sandboxes import Sandboxes

from .errors import rich_errors
from .file_messages import check_paths, file_info

_CHUNK_BYTES: Final = 256 * 1024


class TransferMethods:
    """ReadFile and WriteFile."""

    def __init__(self, sandboxes: Sandboxes, *, maximum_bytes: int, stall_seconds: float) -> None:
        self._sandboxes = sandboxes
        self._maximum_bytes = maximum_bytes
        self._stall_seconds = stall_seconds

    async def ReadFile(  # noqa: N802 - as the contract names it
        self, request: pb.ReadFileRequest, context: Any
    ) -> AsyncIterator[pb.ReadFileResponse]:
        """Chunks of one and the same file."""
        check_paths(path=request.path)
        key = WorkspaceKey(current_principal().tenant, request.conversation_id)
        with rich_errors():
            workspace = await self._sandboxes.backend.workspace(key)
            async with workspace.hold():
                entry = await workspace.look(reading.stat_file, request.path)
                offset, first = request.offset, True
                end = offset + request.limit if request.limit else None
                while True:
                    wanted = _CHUNK_BYTES if end is None else min(_CHUNK_BYTES, end - offset)
                    chunk = await workspace.look(
                        reading.read_file, request.path, offset, wanted, entry.etag
                    )
                    if chunk or first:
                        info = file_info(entry) if first else None
                        yield pb.ReadFileResponse(chunk=chunk, file=info)
                    offset, first = offset + len(chunk), False
                    if len(chunk) < _CHUNK_BYTES:
                        return

    async def WriteFile(  # noqa: N802 - as the contract names it
        self, request_iterator: AsyncIterator[pb.WriteFileRequest], context: Any
    ) -> pb.WriteFileResponse:
        """The whole file, there at once when its last chunk is."""
        requests = aiter(request_iterator)
        first = await self._next(requests)
        if first is None or not first.conversation_id:
            raise MeshError.invalid("conversation_id", "the first message names the conversation")
        if not first.path:
            raise MeshError.invalid("path", "the first message names the file")
        check_paths(path=first.path)
        if first.size_bytes > self._maximum_bytes:
            raise MeshError.message_too_large(self._maximum_bytes, first.size_bytes)
        key = WorkspaceKey(current_principal().tenant, first.conversation_id)
        with rich_errors():
            workspace = await self._sandboxes.backend.workspace(key)
            async with workspace.upload(first.path) as upload:
                await self._receive(first, requests, upload)
                entry = await upload.finish(
                    replace_existing=not first.must_not_exist, etag=first.etag
                )
                await workspace.save()
                digest = upload.sha256
        return pb.WriteFileResponse(file=file_info(dataclasses.replace(entry, sha256=digest)))

    async def _receive(
        self,
        first: pb.WriteFileRequest,
        requests: AsyncIterator[pb.WriteFileRequest],
        upload: Upload,
    ) -> None:
        """All chunks. Raises MeshError unless they are what the client said."""
        sha256 = b""
        request: pb.WriteFileRequest | None = first
        while request is not None:
            _check_same(first, request)
            sha256 = request.sha256 or sha256
            await upload.write(request.chunk)
            if upload.size > self._maximum_bytes:
                raise MeshError.message_too_large(self._maximum_bytes)
            request = await self._next(requests)
        if first.HasField("size_bytes") and upload.size != first.size_bytes:
            raise MeshError.invalid("size_bytes", f"{upload.size} bytes came")
        if sha256 and sha256 != upload.sha256:
            raise MeshError.invalid("sha256", f"the bytes that came have {upload.sha256.hex()}")

    async def _next(
        self, requests: AsyncIterator[pb.WriteFileRequest]
    ) -> pb.WriteFileRequest | None:
        """None at the end. A client that stalls must not hold a workspace open for ever."""
        try:
            async with asyncio.timeout(self._stall_seconds):
                return await anext(requests, None)
        except TimeoutError:
            reason = errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED
            message = f"no chunk came for {self._stall_seconds:g} s"
            raise MeshError(grpc.StatusCode.DEADLINE_EXCEEDED, reason, message) from None


def _check_same(first: pb.WriteFileRequest, request: pb.WriteFileRequest) -> None:
    """One stream is one file."""
    for field in ("conversation_id", "path"):
        if getattr(request, field) not in ("", getattr(first, field)):
            raise MeshError.invalid(field, "it is another one than in the first message")
