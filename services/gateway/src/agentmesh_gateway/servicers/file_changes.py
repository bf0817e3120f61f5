"""Changes of a workspace's files that may be asked for twice.

The runner does not know of requests. So before a change that would do harm if it were made twice,
it is noted that it begins, and whoever repeats a request that nobody knows the end of compares what
is there with what was meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.gateway.v1 import artifact_service_pb2 as pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as runner_pb2

from agentmesh_gateway.idempotency.once import Attempt
from agentmesh_gateway.idempotency.outcomes import describes
from agentmesh_gateway.relay import hand_on

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.tool_runner.v1.tool_runner_service_pb2_grpc import ToolRunnerServiceAsyncStub

_ALREADY_EXISTS = errors_pb2.ERROR_REASON_ALREADY_EXISTS
_ETAG_MISMATCH = errors_pb2.ERROR_REASON_ETAG_MISMATCH
_NOT_FOUND = errors_pb2.ERROR_REASON_NOT_FOUND
_NOT_AS_BEFORE = (_ALREADY_EXISTS, _ETAG_MISMATCH, _NOT_FOUND)


class FileChanges:
    """Writes, removes and restores files at the runner."""

    def __init__(self, runner: ToolRunnerServiceAsyncStub) -> None:
        self._runner = runner

    async def write(
        self,
        first: pb2.UploadArtifactRequest,
        requests: AsyncIterator[pb2.UploadArtifactRequest],
        attempt: Attempt,
    ) -> pb2.UploadArtifactResponse:
        """Hands the chunks on, at the pace of the slower end. A write without a condition leaves
        the same behind however often it is done; one with a condition would refuse itself."""
        body = _Body(first, requests, hashed=attempt.earlier is not None)
        if first.must_not_exist or first.etag:
            await attempt.begin()
        try:
            written = await hand_on(body.pieces(), self._runner.WriteFile)
        except grpc.aio.AioRpcError as refused:
            if attempt.earlier is None or not describes(refused, _ALREADY_EXISTS, _ETAG_MISMATCH):
                raise
            file = await self._stat(first.conversation_id, first.path, with_sha256=True)
            if file is None or not body.is_in(file):
                raise attempt.unknown() from refused
            return pb2.UploadArtifactResponse(artifact=file)
        return pb2.UploadArtifactResponse(artifact=written.file)

    async def remove(
        self, request: pb2.DeleteArtifactRequest, attempt: Attempt
    ) -> pb2.DeleteArtifactResponse:
        """Removes what was there when the request first came, and nothing that came later."""
        if attempt.is_repeatable:
            file = await self._stat(request.conversation_id, request.path)
            if attempt.earlier is not None:
                if file is None:
                    return pb2.DeleteArtifactResponse(removed=True)
                if _note(file) != attempt.earlier:
                    raise attempt.unknown()
            elif file is not None:
                await attempt.begin(_note(file))
            else:
                return pb2.DeleteArtifactResponse()
        wanted = runner_pb2.RemoveFileRequest(
            conversation_id=request.conversation_id, path=request.path, for_good=request.for_good
        )
        try:
            await self._runner.RemoveFile(wanted)
        except grpc.aio.AioRpcError as error:
            if not describes(error, _NOT_FOUND):
                raise
            return pb2.DeleteArtifactResponse(removed=attempt.earlier is not None)
        return pb2.DeleteArtifactResponse(removed=True)

    async def restore(
        self, request: pb2.RestoreArtifactVersionRequest, attempt: Attempt
    ) -> pb2.RestoreArtifactVersionResponse:
        """Copies a version back over what was there when the request first came, and over nothing
        that came later."""
        wanted = runner_pb2.RestoreFileVersionRequest(
            conversation_id=request.conversation_id, version_id=request.version_id
        )
        if attempt.earlier is not None:
            wanted.replaces_sha256 = await self._still_to_replace(request, attempt)
        elif attempt.is_repeatable:
            place = await self._place(request)
            if place is not None:
                await attempt.begin(place.note)
        try:
            restored = await self._runner.RestoreFileVersion(wanted)
        except grpc.aio.AioRpcError as refused:
            if attempt.earlier is None or not describes(refused, *_NOT_AS_BEFORE):
                raise
            raise attempt.unknown() from refused
        return pb2.RestoreArtifactVersionResponse(artifact=restored.file)

    async def _still_to_replace(
        self, request: pb2.RestoreArtifactVersionRequest, attempt: Attempt
    ) -> bytes:
        """What was there before the first attempt. Raises OUTCOME_UNKNOWN if a file that it may
        have put there was perhaps removed since, which looks like before."""
        before, place = _Place.noted(attempt.earlier or b""), await self._place(request)
        if before is None or place is None:
            raise attempt.unknown()
        if not place.sha256 and not before.sha256 and place.newest != before.newest:
            raise attempt.unknown()
        return before.sha256

    async def _place(self, request: pb2.RestoreArtifactVersionRequest) -> _Place | None:
        """Where a version belongs; None if there is no such version."""
        found = await self._runner.ListFileVersions(
            runner_pb2.ListFileVersionsRequest(conversation_id=request.conversation_id)
        )
        paths = {version.id: version.path for version in found.versions}
        if request.version_id not in paths:
            return None
        path = paths[request.version_id]
        newest = next(version.id for version in found.versions if version.path == path)
        file = await self._stat(request.conversation_id, path, with_sha256=True)
        return _Place(newest, b"" if file is None else file.sha256)

    async def _stat(
        self, conversation_id: str, path: str, *, with_sha256: bool = False
    ) -> runner_pb2.FileInfo | None:
        wanted = runner_pb2.StatFileRequest(
            conversation_id=conversation_id, path=path, with_sha256=with_sha256
        )
        try:
            return (await self._runner.StatFile(wanted)).file
        except grpc.aio.AioRpcError as error:
            if not describes(error, _NOT_FOUND):
                raise
            return None


@dataclass(frozen=True)
class _Place:
    """What is at the path of a version, empty for nothing, and the path's newest version: there is
    a newer one as soon as something there was overwritten or removed."""

    newest: str
    sha256: bytes

    @property
    def note(self) -> bytes:
        """For later attempts."""
        return f"{self.newest}:{self.sha256.hex()}".encode()

    @classmethod
    def noted(cls, note: bytes) -> _Place | None:
        """None for a note of an earlier release."""
        newest, colon, digest = note.decode().partition(":")
        return cls(newest, bytes.fromhex(digest)) if colon else None


class _Body:
    """The bytes of an upload on their way."""

    def __init__(
        self,
        first: pb2.UploadArtifactRequest,
        requests: AsyncIterator[pb2.UploadArtifactRequest],
        *,
        hashed: bool,
    ) -> None:
        self._first = first
        self._requests = requests
        self._digest = hashlib.sha256() if hashed else None
        self.is_whole = False
        """Whether the last one has come."""

    def is_in(self, file: runner_pb2.FileInfo) -> bool:
        """Whether all of it has come, and a file has the same bytes."""
        return self.is_whole and self._digest is not None and self._digest.digest() == file.sha256

    async def pieces(self) -> AsyncIterator[runner_pb2.WriteFileRequest]:
        """As the runner takes them."""
        yield self._piece(self._first)
        async for request in self._requests:
            yield self._piece(request)
        self.is_whole = True

    def _piece(self, request: pb2.UploadArtifactRequest) -> runner_pb2.WriteFileRequest:
        if self._digest is not None:
            self._digest.update(request.chunk)
        return runner_pb2.WriteFileRequest(
            conversation_id=request.conversation_id,
            path=request.path,
            chunk=request.chunk,
            size_bytes=request.size_bytes if request.HasField("size_bytes") else None,
            must_not_exist=request.must_not_exist,
            etag=request.etag,
        )


def _note(file: runner_pb2.FileInfo) -> bytes:
    return f"etag:{file.etag}".encode()
