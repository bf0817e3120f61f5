"""Files of a conversation's workspace: looking at them, and changing what is where."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.context import current_principal

from agentmesh_tool_runner.sandbox.backend import Workspace
from agentmesh_tool_runner.sandbox.files import organising, reading, versions, writing
from agentmesh_tool_runner.sandbox.model import WorkspaceKey
from agentmesh_tool_runner.sandboxes import Sandboxes

from .errors import rich_errors
from .file_messages import (
    ORGANISE_BY,
    check_paths,
    file_info,
    page_token,
    path_of_token,
    version_message,
)

_PAGE: Final = 1000
_HITS: Final = 200


class FileMethods:
    """All methods about files but ReadFile and WriteFile."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def _workspace(self, conversation_id: str) -> Workspace:
        key = WorkspaceKey(current_principal().tenant, conversation_id)
        return await self._sandboxes.backend.workspace(key)

    @contextlib.asynccontextmanager
    async def _changing(
        self, conversation_id: str, *, saves: bool = True
    ) -> AsyncIterator[Workspace]:
        """Saves what the block did, and keeps the workspace open until then."""
        workspace = await self._workspace(conversation_id)
        async with workspace.hold():
            yield workspace
            if saves:
                await workspace.save()

    async def ListFiles(  # noqa: N802 - as the contract names it
        self, request: pb.ListFilesRequest, context: Any
    ) -> pb.ListFilesResponse:
        """A page of them."""
        check_paths(path=request.path)
        size = request.page_size or _PAGE
        with rich_errors():
            workspace = await self._workspace(request.conversation_id)
            entries = await workspace.look(
                reading.list_files,
                request.path or ".",
                size + 1,
                after=path_of_token(request.page_token),
                recursive=not request.shallow,
                all_kinds=request.all_kinds,
                glob=request.glob,
            )
        token = page_token(entries[size - 1]) if len(entries) > size else ""
        files = [file_info(entry) for entry in entries[:size]]
        return pb.ListFilesResponse(files=files, next_page_token=token)

    async def StatFile(  # noqa: N802 - as the contract names it
        self, request: pb.StatFileRequest, context: Any
    ) -> pb.StatFileResponse:
        """One of them."""
        check_paths(path=request.path)
        with rich_errors():
            workspace = await self._workspace(request.conversation_id)
            entry = await workspace.look(
                reading.stat_file, request.path, with_hash=request.with_sha256
            )
        return pb.StatFileResponse(file=file_info(entry))

    async def SearchFiles(  # noqa: N802 - as the contract names it
        self, request: pb.SearchFilesRequest, context: Any
    ) -> pb.SearchFilesResponse:
        """By content."""
        check_paths(path=request.path)
        with rich_errors():
            workspace = await self._workspace(request.conversation_id)
            found = await workspace.look(
                reading.search_files,
                request.text,
                request.path or ".",
                glob=request.glob,
                ignore_case=request.ignore_case,
                limit=request.limit or _HITS,
            )
        lines = [pb.FileLine(path=hit.path, line=hit.line, text=hit.text) for hit in found.hits]
        return pb.SearchFilesResponse(lines=lines, incomplete=not found.complete)

    async def MakeFolder(  # noqa: N802 - as the contract names it
        self, request: pb.MakeFolderRequest, context: Any
    ) -> pb.MakeFolderResponse:
        """With those above it."""
        check_paths(path=request.path)
        with rich_errors():
            async with self._changing(request.conversation_id) as workspace:
                entry = await workspace.change(writing.make_folder, request.path)
        return pb.MakeFolderResponse(folder=file_info(entry))

    async def MoveFile(  # noqa: N802 - as the contract names it
        self, request: pb.MoveFileRequest, context: Any
    ) -> pb.MoveFileResponse:
        """A rename."""
        check_paths(path=request.path, destination=request.destination)
        with rich_errors():
            async with self._changing(request.conversation_id) as workspace:
                entry = await workspace.change(
                    writing.move,
                    request.path,
                    request.destination,
                    replace_existing=request.replace,
                )
        return pb.MoveFileResponse(file=file_info(entry))

    async def CopyFile(  # noqa: N802 - as the contract names it
        self, request: pb.CopyFileRequest, context: Any
    ) -> pb.CopyFileResponse:
        """Of a file or a whole folder."""
        check_paths(path=request.path, destination=request.destination)
        with rich_errors():
            async with self._changing(request.conversation_id) as workspace:
                entry = await workspace.change(
                    writing.copy,
                    request.path,
                    request.destination,
                    replace_existing=request.replace,
                )
        return pb.CopyFileResponse(file=file_info(entry))

    async def RemoveFile(  # noqa: N802 - as the contract names it
        self, request: pb.RemoveFileRequest, context: Any
    ) -> pb.RemoveFileResponse:
        """Of a file or a whole folder."""
        check_paths(path=request.path)
        with rich_errors():
            async with self._changing(request.conversation_id) as workspace:
                version = await workspace.change(
                    writing.remove, request.path, keeps_version=not request.for_good
                )
        return pb.RemoveFileResponse(version_id=version)

    async def OrganizeFiles(  # noqa: N802 - as the contract names it
        self, request: pb.OrganizeFilesRequest, context: Any
    ) -> pb.OrganizeFilesResponse:
        """Into folders."""
        check_paths(path=request.path)
        with rich_errors():
            async with self._changing(
                request.conversation_id, saves=not request.dry_run
            ) as workspace:
                moves = await workspace.change(
                    organising.organise,
                    request.path or ".",
                    ORGANISE_BY[request.by],
                    dry_run=request.dry_run,
                )
        messages = [pb.FileMove(path=each.path, destination=each.destination) for each in moves]
        return pb.OrganizeFilesResponse(moves=messages)

    async def ListFileVersions(  # noqa: N802 - as the contract names it
        self, request: pb.ListFileVersionsRequest, context: Any
    ) -> pb.ListFileVersionsResponse:
        """The latest first."""
        check_paths(path=request.path)
        with rich_errors():
            workspace = await self._workspace(request.conversation_id)
            found = await workspace.look(versions.list_versions, request.path)
        return pb.ListFileVersionsResponse(versions=[version_message(each) for each in found])

    async def RestoreFileVersion(  # noqa: N802 - as the contract names it
        self, request: pb.RestoreFileVersionRequest, context: Any
    ) -> pb.RestoreFileVersionResponse:
        """A copy, back at its path."""
        with rich_errors():
            async with self._changing(request.conversation_id) as workspace:
                replaces = request.replaces_sha256 if request.HasField("replaces_sha256") else None
                entry = await workspace.change(
                    writing.restore_version, request.version_id, replaces=replaces
                )
        return pb.RestoreFileVersionResponse(file=file_info(entry))
