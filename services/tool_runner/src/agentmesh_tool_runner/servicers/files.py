"""Files of a conversation's workspace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.context import current_principal
from meshkit.errors import MeshError

from agentmesh_tool_runner import translate
from agentmesh_tool_runner.sandbox.backend import FileEntry, Workspace, WorkspaceKey
from agentmesh_tool_runner.sandboxes import Sandboxes

from .errors import rich_errors

_CHUNK_BYTES: Final = 256 * 1024
_MAX_LISTED: Final = 10_000


class FileMethods:
    """ListFiles, ReadFile and WriteFile."""

    def __init__(self, sandboxes: Sandboxes, *, maximum_bytes: int) -> None:
        self._sandboxes = sandboxes
        self._maximum_bytes = maximum_bytes

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
            if len(data) > self._maximum_bytes:
                raise MeshError.message_too_large(self._maximum_bytes)
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
