"""Blobs and states of workspaces in memory: the part of a store that keeps files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1 import (
    blob_service_pb2,
    blob_service_pb2_grpc,
    workspace_service_pb2,
    workspace_service_pb2_grpc,
)
from meshkit.context import Principal, current_principal
from meshkit.errors import MeshError

_CHUNK = 1 << 20


@dataclass
class Files:
    """The files of one conversation."""

    now: workspace_service_pb2.WorkspaceState
    kept: str = ""


@dataclass
class MemoryFiles(
    blob_service_pb2_grpc.BlobServiceServicer, workspace_service_pb2_grpc.WorkspaceServiceServicer
):
    """Every conversation exists; `uploads` are the sizes of what came, in order. Blobs lie on disk,
    for what a test measures of this process is to be the runner's."""

    folder: Path = Path()
    blobs: dict[str, Path] = field(default_factory=dict)
    uploads: list[int] = field(default_factory=list)
    downloads: int = 0
    states: dict[str, Files] = field(default_factory=dict)
    asked: int = 0
    """How often somebody has asked which files count."""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while such questions are answered."""
    refuses: bool = False
    refuses_saves: bool = False
    told_saver: Callable[[Principal], None] = lambda _: None

    def __post_init__(self) -> None:
        self.answers.set()

    def of(self, conversation_id: str) -> Files:
        """Where the files of a conversation stand."""
        return self.states.setdefault(
            conversation_id, Files(workspace_service_pb2.WorkspaceState())
        )

    def move(
        self, conversation_id: str, change: workspace_service_pb2.WorkspaceChange
    ) -> workspace_service_pb2.WorkspaceState:
        """As a record does."""
        files = self.of(conversation_id)
        if change.base_generation != files.now.generation:
            reason = errors_pb2.ERROR_REASON_WORKSPACE_MOVED
            raise MeshError.precondition(
                reason,
                "it moved",
                generation=str(files.now.generation),
                manifest_digest=files.now.manifest_digest,
            )
        missing = {blob.digest for blob in change.manifest.blobs} - self.blobs.keys()
        assert not missing
        files.now = workspace_service_pb2.WorkspaceState(
            generation=files.now.generation + 1, manifest_digest=change.manifest.manifest_digest
        )
        return files.now

    async def GetWorkspace(  # noqa: N802 - as the contract names it
        self, request: workspace_service_pb2.GetWorkspaceRequest, context: Any
    ) -> workspace_service_pb2.GetWorkspaceResponse:
        self.asked += 1
        await self.answers.wait()
        if self.refuses:
            raise MeshError.unavailable("the store")
        files = self.of(self._name(request.conversation_id))
        earlier = workspace_service_pb2.WorkspaceState(manifest_digest=files.kept)
        return workspace_service_pb2.GetWorkspaceResponse(
            workspace=files.now, earlier=[earlier, workspace_service_pb2.WorkspaceState()]
        )

    async def SaveWorkspace(  # noqa: N802 - as the contract names it
        self, request: workspace_service_pb2.SaveWorkspaceRequest, context: Any
    ) -> workspace_service_pb2.SaveWorkspaceResponse:
        if self.refuses_saves:
            raise MeshError.unavailable("the store")
        self.told_saver(current_principal())
        assert len(request.earlier) == 2
        name = self._name(request.conversation_id)
        state = self.move(name, request.change)
        self.of(name).kept = request.earlier[0].manifest.manifest_digest
        return workspace_service_pb2.SaveWorkspaceResponse(workspace=state)

    def _name(self, conversation_id: str) -> str:
        tenant = current_principal().tenant
        return conversation_id if tenant == "acme" else f"{tenant}/{conversation_id}"

    async def _receive(self, requests: Any) -> tuple[str, int]:
        hasher = hashlib.sha256()
        size, announced = 0, -1
        path = self.folder / f"upload-{len(self.uploads)}"
        self.uploads.append(0)
        with path.open("wb") as file:
            async for request in requests:
                announced = request.size_bytes if announced < 0 else announced
                file.write(request.chunk)
                hasher.update(request.chunk)
                size += len(request.chunk)
        assert announced == size
        self.uploads[int(path.name.removeprefix("upload-"))] = size
        self.blobs[hasher.hexdigest()] = path
        return hasher.hexdigest(), size

    async def UploadBlob(  # noqa: N802 - as the contract names it
        self, request_iterator: Any, context: Any
    ) -> blob_service_pb2.UploadBlobResponse:
        digest, size = await self._receive(request_iterator)
        return blob_service_pb2.UploadBlobResponse(digest=digest, size_bytes=size)

    async def WriteBlob(  # noqa: N802 - as the contract names it
        self, request_iterator: Any, context: Any
    ) -> blob_service_pb2.WriteBlobResponse:
        digest, size = await self._receive(request_iterator)
        return blob_service_pb2.WriteBlobResponse(digest=digest, size_bytes=size)

    def _pieces(self, digest: str, offset: int) -> Iterator[bytes]:
        self.downloads += 1
        if digest not in self.blobs:
            raise MeshError.not_found("blob", digest)
        with self.blobs[digest].open("rb") as file:
            file.seek(offset)
            while piece := file.read(_CHUNK):
                yield piece

    async def DownloadBlob(  # noqa: N802 - as the contract names it
        self, request: blob_service_pb2.DownloadBlobRequest, context: Any
    ) -> AsyncIterator[blob_service_pb2.DownloadBlobResponse]:
        for piece in self._pieces(request.digest, request.offset):
            yield blob_service_pb2.DownloadBlobResponse(chunk=piece)

    async def ReadBlob(  # noqa: N802 - as the contract names it
        self, request: blob_service_pb2.ReadBlobRequest, context: Any
    ) -> AsyncIterator[blob_service_pb2.ReadBlobResponse]:
        for piece in self._pieces(request.digest, request.offset):
            yield blob_service_pb2.ReadBlobResponse(chunk=piece)
