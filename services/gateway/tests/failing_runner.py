"""A runner that fails on command, after it has done what it was asked, or before.

For what a real one cannot be made to do at the right instant.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_gateway.registration import adder
from meshkit.errors import MeshError
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory


class FailingRunner:
    """The files of one workspace, and code that says how often it ran."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, bytes]] = {}
        self.versions: list[tuple[str, str, bytes]] = []
        """Ids, paths and contents, the oldest first."""
        self.changes = 0
        self.runs = 0
        self.before: MeshError | None = None
        """Raised once, before anything is done."""
        self.after: MeshError | None = None
        """Raised once, after all is done."""
        self.done = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    def put(self, path: str, data: bytes) -> None:
        """As somebody else would."""
        self.changes += 1
        self.files[path] = (self.changes, data)

    def keep(self, path: str) -> str:
        """What is there as a version, by its id; it stays there."""
        version_id = f"v{len(self.versions)}"
        self.versions.append((version_id, path, self.files[path][1]))
        return version_id

    def remove(self, path: str) -> None:
        """As somebody else would."""
        self.keep(path)
        del self.files[path]

    async def write_file(
        self, requests: AsyncIterator[pb.WriteFileRequest], context: Any
    ) -> pb.WriteFileResponse:
        pieces = [request async for request in requests]
        first, data = pieces[0], b"".join(piece.chunk for piece in pieces)
        self._fail_before()
        if first.must_not_exist and first.path in self.files:
            raise MeshError.already_exists("file", first.path)
        if first.etag and first.etag != self._etag(first.path):
            raise MeshError.etag_mismatch("file", first.path, self._etag(first.path))
        self.put(first.path, data)
        await self._finish()
        return pb.WriteFileResponse(file=self._info(first.path))

    async def remove_file(
        self, request: pb.RemoveFileRequest, context: Any
    ) -> pb.RemoveFileResponse:
        self._fail_before()
        if self.files.pop(request.path, None) is None:
            raise MeshError.not_found("file", request.path)
        await self._finish()
        return pb.RemoveFileResponse()

    async def restore_file_version(
        self, request: pb.RestoreFileVersionRequest, context: Any
    ) -> pb.RestoreFileVersionResponse:
        self._fail_before()
        kept = {version_id: (path, data) for version_id, path, data in self.versions}
        if request.version_id not in kept:
            raise MeshError.not_found("version", request.version_id)
        path, data = kept[request.version_id]
        if request.HasField("replaces_sha256") and self.files.get(path, (0, None))[1] != data:
            there = self._info(path).sha256 if path in self.files else b""
            if there != request.replaces_sha256:
                raise MeshError.etag_mismatch("file", path, self._etag(path))
        elif request.HasField("replaces_sha256"):
            return pb.RestoreFileVersionResponse(file=self._info(path))
        if path in self.files:
            self.keep(path)
        self.put(path, data)
        await self._finish()
        return pb.RestoreFileVersionResponse(file=self._info(path))

    async def list_file_versions(
        self, request: pb.ListFileVersionsRequest, context: Any
    ) -> pb.ListFileVersionsResponse:
        versions = [pb.FileVersion(id=each, path=path) for each, path, _ in self.versions[::-1]]
        return pb.ListFileVersionsResponse(versions=versions)

    async def stat_file(self, request: pb.StatFileRequest, context: Any) -> pb.StatFileResponse:
        if request.path not in self.files:
            raise MeshError.not_found("file", request.path)
        return pb.StatFileResponse(file=self._info(request.path))

    async def execute(
        self, request: pb.ExecuteRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteResponse]:
        self._fail_before()
        self.runs += 1
        started = pb.ExecutionStarted(execution_id=f"exec_{self.runs}")
        yield pb.ExecuteResponse(item=pb.ExecutionItem(started=started))
        await self._finish()

    def _fail_before(self) -> None:
        failure, self.before = self.before, None
        if failure is not None:
            raise failure

    async def _finish(self) -> None:
        self.done.set()
        await self.go_on.wait()
        failure, self.after = self.after, None
        if failure is not None:
            raise failure

    def _etag(self, path: str) -> str:
        return str(self.files[path][0]) if path in self.files else ""

    def _info(self, path: str) -> pb.FileInfo:
        data = self.files[path][1]
        return pb.FileInfo(
            path=path,
            size_bytes=len(data),
            kind=pb.FILE_KIND_FILE,
            etag=self._etag(path),
            sha256=hashlib.sha256(data).digest(),
        )


def broken_off() -> MeshError:
    """What does not say how far the runner came."""
    return MeshError(
        grpc.StatusCode.UNAVAILABLE, errors_pb2.ERROR_REASON_DRAINING, "went away in the middle"
    )


async def start_failing_runner(hosts: HostFactory, runner: FailingRunner) -> ServiceHost:
    """Serves `runner` on a free port."""
    service = pb.DESCRIPTOR.services_by_name["ToolRunnerService"]
    return await hosts.start("tool_runner", [(adder(service), runner, service.full_name)])
