"""A user of a workspace's files, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from meshkit.errors import MeshError, from_rpc_error

from .conftest import CONVERSATION, Mesh


class Files:
    """Calls that carry the conversation and the user; refusals come as MeshError."""

    def __init__(self, mesh: Mesh, tenant: str = "acme", conversation: str = CONVERSATION) -> None:
        self._mesh = mesh
        self._metadata = mesh.user(tenant)
        self._conversation = conversation

    async def call(self, method: str, **fields: Any) -> Any:
        """A unary call about the conversation."""
        return await self.call_bare(method, conversation_id=self._conversation, **fields)

    async def call_bare(self, method: str, **fields: Any) -> Any:
        """A unary call."""
        request = getattr(pb, f"{method}Request")(**fields)
        try:
            return await getattr(self._mesh.stub, method)(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def write(self, path: str, *chunks: bytes, **first: Any) -> pb.FileInfo:
        """An upload."""
        return (await self.stream(self.requests(path, chunks, **first))).file

    def requests(
        self, path: str, chunks: Collection[bytes], **first: Any
    ) -> list[pb.WriteFileRequest]:
        """The first names the file."""
        named = {"conversation_id": self._conversation, "path": path, **first}
        messages = [pb.WriteFileRequest(chunk=chunk) for chunk in chunks or [b""]]
        messages[0].MergeFrom(pb.WriteFileRequest(**named))
        return messages

    async def stream(self, requests: Any) -> pb.WriteFileResponse:
        """An upload of any messages."""
        try:
            written: pb.WriteFileResponse = await self._mesh.stub.WriteFile(
                requests, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return written

    def upload(self, requests: AsyncIterator[pb.WriteFileRequest]) -> Any:
        """An upload under way."""
        return self._mesh.stub.WriteFile(requests, metadata=self._metadata)

    def download(self, path: str, **fields: Any) -> Any:
        """A download under way."""
        request = pb.ReadFileRequest(conversation_id=self._conversation, path=path, **fields)
        return self._mesh.stub.ReadFile(request, metadata=self._metadata)

    async def read(self, path: str, **fields: Any) -> bytes:
        """A download."""
        try:
            return b"".join([piece.chunk async for piece in self.download(path, **fields)])
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def names(self, **fields: Any) -> list[str]:
        """Paths of all pages."""
        found: list[str] = []
        page = await self.call("ListFiles", **fields)
        found += [file.path for file in page.files]
        while page.next_page_token:
            page = await self.call("ListFiles", **fields, page_token=page.next_page_token)
            found += [file.path for file in page.files]
        return found


async def refusal(awaitable: Any) -> MeshError:
    """What an awaited call raises; fails if it does not."""
    try:
        await awaitable
    except MeshError as error:
        return error
    raise AssertionError("it was not refused")
