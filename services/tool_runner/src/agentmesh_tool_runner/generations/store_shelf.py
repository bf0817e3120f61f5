"""The shelf over the store's BlobService and WorkspaceService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1 import blob_service_pb2 as blob_pb
from agentmesh.conversation_store.v1 import blob_service_pb2_grpc as blob_grpc
from agentmesh.conversation_store.v1 import workspace_service_pb2 as pb
from agentmesh.conversation_store.v1 import workspace_service_pb2_grpc as pb_grpc
from meshkit.context import find_capability
from meshkit.errors import from_rpc_error

from agentmesh_tool_runner.sandbox.model import WorkspaceKey

from .manifest import BrokenManifestError, Change, MovedError, State
from .shelf import Head, Shelf, ShelfUnavailableError

_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.2
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class StoreShelf(Shelf):
    """Acts for the run whose capability the served call carries, else for its caller."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._blobs: Any = blob_grpc.BlobServiceStub(channel)
        self._workspaces: Any = pb_grpc.WorkspaceServiceStub(channel)

    async def head(self, key: WorkspaceKey) -> Head:
        request = pb.GetWorkspaceRequest(conversation_id=key.conversation)
        try:
            answer = await self._workspaces.GetWorkspace(request)
        except grpc.aio.AioRpcError as error:
            _raise_if_passing(error)
            raise
        return Head(state_of(answer.workspace), [state_of(each) for each in answer.earlier])

    async def read(self, digest: str, offset: int = 0) -> AsyncIterator[bytes]:
        call: Any
        if find_capability() is not None:
            call = self._blobs.ReadBlob(blob_pb.ReadBlobRequest(digest=digest, offset=offset))
        else:
            request = blob_pb.DownloadBlobRequest(digest=digest, offset=offset)
            call = self._blobs.DownloadBlob(request)
        try:
            async for answer in call:
                yield answer.chunk
        except grpc.aio.AioRpcError as error:
            _raise_if_passing(error)
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DATA_LOSS):
                raise BrokenManifestError(str(error.details())) from error
            raise
        finally:
            call.cancel()

    async def write(self, chunks: Callable[[], AsyncIterator[bytes]], size: int) -> str:
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._write(chunks(), size)
            except grpc.aio.AioRpcError as error:
                # The same bytes again are the same blob.
                if error.code() not in _PASSING or attempt == _TRIES:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
        raise AssertionError("unreachable")

    async def _write(self, chunks: AsyncIterator[bytes], size: int) -> str:
        worker = find_capability() is not None
        message: Any = blob_pb.WriteBlobRequest if worker else blob_pb.UploadBlobRequest

        async def requests() -> AsyncIterator[Any]:
            yield message(size_bytes=size)
            async for chunk in chunks:
                yield message(chunk=chunk)

        upload = self._blobs.WriteBlob if worker else self._blobs.UploadBlob
        answer = await upload(requests())
        digest: str = answer.digest
        return digest

    def is_passing(self, error: Exception) -> bool:
        passing = isinstance(error, grpc.aio.AioRpcError) and error.code() in _PASSING
        return passing or isinstance(error, (ShelfUnavailableError, MovedError))

    async def save(self, key: WorkspaceKey, change: Change, earlier: Sequence[Change]) -> State:
        request = pb.SaveWorkspaceRequest(
            conversation_id=key.conversation,
            change=change_message(change),
            earlier=[change_message(each) for each in earlier],
        )
        try:
            answer = await self._workspaces.SaveWorkspace(request)
        except grpc.aio.AioRpcError as error:
            raise_if_moved(error)
            raise
        return state_of(answer.workspace)


def _raise_if_passing(error: grpc.aio.AioRpcError) -> None:
    if error.code() in _PASSING:
        raise ShelfUnavailableError(str(error.details())) from error


def state_of(message: pb.WorkspaceState) -> State:
    """A state, as the store tells it."""
    return State(message.generation, message.manifest_digest)


def change_message(change: Change) -> pb.WorkspaceChange:
    """A change, as the store is told."""
    manifest = pb.WorkspaceManifest(
        manifest_digest=change.manifest.digest,
        blobs=[
            pb.WorkspaceBlob(digest=digest, size_bytes=size)
            for digest, size in change.manifest.blobs
        ],
    )
    return pb.WorkspaceChange(base_generation=change.base, manifest=manifest)


def raise_if_moved(error: grpc.aio.AioRpcError) -> None:
    """Raises MovedError if that is why a change was refused."""
    found = from_rpc_error(error)
    if found.reason == errors_pb2.ERROR_REASON_WORKSPACE_MOVED:
        generation = int(found.metadata.get("generation", "0"))
        raise MovedError(State(generation, found.metadata.get("manifest_digest", ""))) from error
