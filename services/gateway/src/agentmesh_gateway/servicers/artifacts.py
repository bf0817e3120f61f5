"""ArtifactService: the files of a conversation's workspace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import artifact_service_pb2 as pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as runner_pb2

from agentmesh_gateway.relay import forward
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.upstream import Upstream


class ArtifactServicer:
    """All of the contract is served."""

    def __init__(self, upstream: Upstream) -> None:
        self._conversations = upstream.conversations
        self._runner = upstream.tools
        self._read = upstream.read_file_bytes

    async def list_artifacts(
        self, request: pb2.ListArtifactsRequest, context: Context
    ) -> pb2.ListArtifactsResponse:
        """The files, by path."""
        await self._require_conversation(request.conversation_id)
        found = await self._runner.ListFiles(
            runner_pb2.ListFilesRequest(conversation_id=request.conversation_id)
        )
        return pb2.ListArtifactsResponse(artifacts=found.files)

    async def download_artifact(
        self, request: pb2.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """One file, in the chunks in which the runner reads it."""
        await self._require_conversation(request.conversation_id)
        wanted = runner_pb2.ReadFileRequest(
            conversation_id=request.conversation_id, path=request.path
        )
        call = self._read(wanted, timeout=context.time_remaining())
        async with aclosing(forward(call)) as responses:
            async for response in responses:
                yield response

    async def _require_conversation(self, conversation_id: str) -> None:
        # The store knows whose conversation it is; the runner only knows workspaces.
        await self._conversations.GetConversation(
            store_pb2.GetConversationRequest(conversation_id=conversation_id)
        )
