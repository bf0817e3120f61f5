"""ArtifactService: the files of a conversation's workspace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeAlias

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import artifact_service_pb2 as pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as runner_pb2
from meshkit.errors import MeshError

from agentmesh_gateway.idempotency.once import Attempt, OncePerRequest
from agentmesh_gateway.relay import forward
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.servicers.file_changes import FileChanges
from agentmesh_gateway.upstream import Upstream

Access: TypeAlias = conversation_pb2.ConversationAccess.ValueType
READ = conversation_pb2.CONVERSATION_ACCESS_READ
WRITE = conversation_pb2.CONVERSATION_ACCESS_WRITE


class ArtifactServicer:
    """All of the contract is served."""

    def __init__(self, upstream: Upstream, once: OncePerRequest) -> None:
        self._conversations = upstream.conversations
        self._runner = upstream.tools
        self._read = upstream.read_file_bytes
        self._once = once
        self._changes = FileChanges(upstream.tools)

    async def list_artifacts(
        self, request: pb2.ListArtifactsRequest, context: Context
    ) -> pb2.ListArtifactsResponse:
        """The files, by path."""
        await self._require(request.conversation_id, READ)
        found = await self._runner.ListFiles(
            runner_pb2.ListFilesRequest(
                conversation_id=request.conversation_id,
                path=request.path,
                page_size=request.page_size,
                page_token=request.page_token,
                shallow=request.shallow,
                all_kinds=request.all_kinds,
                glob=request.glob,
            )
        )
        return pb2.ListArtifactsResponse(
            artifacts=found.files, next_page_token=found.next_page_token
        )

    async def download_artifact(
        self, request: pb2.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """One file, in the chunks in which the runner reads it."""
        await self._require(request.conversation_id, READ)
        wanted = runner_pb2.ReadFileRequest(
            conversation_id=request.conversation_id,
            path=request.path,
            offset=request.offset,
            limit=request.limit,
        )
        call = self._read(wanted, timeout=context.time_remaining())
        async with aclosing(forward(call)) as responses:
            async for response in responses:
                yield response

    async def get_artifact(
        self, request: pb2.GetArtifactRequest, context: Context
    ) -> pb2.GetArtifactResponse:
        """One of them, without its bytes."""
        await self._require(request.conversation_id, READ)
        found = await self._runner.StatFile(
            runner_pb2.StatFileRequest(
                conversation_id=request.conversation_id,
                path=request.path,
                with_sha256=request.with_sha256,
            )
        )
        return pb2.GetArtifactResponse(artifact=found.file)

    async def upload_artifact(
        self, requests: AsyncIterator[pb2.UploadArtifactRequest], context: Context
    ) -> pb2.UploadArtifactResponse:
        """Hands the chunks on, at the pace of the slower end, once it is known whose they are."""
        first = await anext(aiter(requests), None)
        if first is None or not first.conversation_id:
            raise MeshError.invalid("conversation_id", "the first message names the conversation")

        async def write(attempt: Attempt) -> pb2.UploadArtifactResponse:
            await self._require(first.conversation_id, WRITE)
            return await self._changes.write(first, requests, attempt)

        return await self._once.repeatable(first, pb2.UploadArtifactResponse, write)

    async def delete_artifact(
        self, request: pb2.DeleteArtifactRequest, context: Context
    ) -> pb2.DeleteArtifactResponse:
        """A file, or a folder with all in it."""

        async def remove(attempt: Attempt) -> pb2.DeleteArtifactResponse:
            await self._require(request.conversation_id, WRITE)
            return await self._changes.remove(request, attempt)

        return await self._once.repeatable(request, pb2.DeleteArtifactResponse, remove)

    async def list_artifact_versions(
        self, request: pb2.ListArtifactVersionsRequest, context: Context
    ) -> pb2.ListArtifactVersionsResponse:
        """What was overwritten or removed, the latest first."""
        await self._require(request.conversation_id, READ)
        found = await self._runner.ListFileVersions(
            runner_pb2.ListFileVersionsRequest(
                conversation_id=request.conversation_id, path=request.path
            )
        )
        return pb2.ListArtifactVersionsResponse(versions=found.versions)

    async def restore_artifact_version(
        self, request: pb2.RestoreArtifactVersionRequest, context: Context
    ) -> pb2.RestoreArtifactVersionResponse:
        """A copy, back at its path."""

        async def restore(attempt: Attempt) -> pb2.RestoreArtifactVersionResponse:
            await self._require(request.conversation_id, WRITE)
            return await self._changes.restore(request, attempt)

        return await self._once.repeatable(request, pb2.RestoreArtifactVersionResponse, restore)

    async def _require(self, conversation_id: str, needed: Access) -> None:
        # The store knows who may do what in it; the runner only knows workspaces.
        await self._conversations.CheckAccess(
            store_pb2.CheckAccessRequest(conversation_id=conversation_id, needed=needed)
        )
