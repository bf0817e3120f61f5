"""What callers hold of a workspace: a name, and the operations on what it names."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from meshkit.tasks import ended

from .backend import Execution, Upload, Workspace
from .files import drafts, reading, writing
from .model import MIB, ExecutionSpec, FileEntry, FileRules, SandboxUnavailableError, WorkspaceKey
from .mounted import Mounted, Stay
from .workspaces import Workspaces

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# Kept versions must not crowd out the files themselves.
_VERSIONS_SHARE: Final = 4


class WorkspaceHandle(Workspace):
    """Opens the workspace for each operation, and never holds it open between two."""

    def __init__(
        self,
        key: WorkspaceKey,
        workspaces: Workspaces,
        start: Callable[[WorkspaceKey, ExecutionSpec, Stay | None], Awaitable[Execution]],
    ) -> None:
        self._key = key
        self._workspaces = workspaces
        self._start = start
        self._stay: Stay | None = None

    @property
    def key(self) -> WorkspaceKey:
        return self._key

    @property
    def workspaces(self) -> Workspaces:
        """Those that it is one of."""
        return self._workspaces

    async def execute(self, spec: ExecutionSpec) -> Execution:
        return await self._start(self._key, spec, self._stay)

    def outlast(self) -> Stay:
        self._stay = Stay()
        return self._stay

    async def save(self) -> None:
        await self._workspaces.save(self._key)

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        async with self._workspaces.use(self._key):
            yield

    async def look(
        self,
        operation: Callable[Concatenate[int, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        async with self._workspaces.use(self._key) as at:
            return await _to_its_end(at.files.call(operation, *args, **kwargs))

    async def change(
        self,
        operation: Callable[Concatenate[int, FileRules, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        async with self._workspaces.use(self._key) as at, at.lock:
            return await _to_its_end(at.files.call(operation, self._rules(at), *args, **kwargs))

    def _rules(self, at: Mounted) -> FileRules:
        return FileRules(at.uid, self._workspaces.bytes_each // _VERSIONS_SHARE)

    @contextlib.asynccontextmanager
    async def upload(self, path: str) -> AsyncIterator[Upload]:
        async with self._workspaces.use(self._key) as at:
            rules = self._rules(at)
            draft = drafts.new_name()
            try:
                await _to_its_end(at.files.call(drafts.open_draft, rules, draft, path))
                yield _LocalUpload(at, rules, draft, path)
            finally:
                await _to_its_end(at.files.call(drafts.drop_draft, draft))

    async def list_files(self, path: str = ".", *, limit: int = 1000) -> list[FileEntry]:
        return await self.look(reading.list_files, path, limit)

    async def read_file(self, path: str, *, offset: int = 0, limit: int = MIB) -> bytes:
        return await self.look(reading.read_file, path, offset, limit)

    async def write_file(self, path: str, data: bytes, *, append: bool = False) -> None:
        await self.change(writing.write_file, path, data, append=append)

    async def move(self, path: str, destination: str) -> None:
        await self.change(writing.move, path, destination)

    async def remove(self, path: str) -> None:
        await self.change(writing.remove, path)


class _LocalUpload(Upload):
    def __init__(self, at: Mounted, rules: FileRules, draft: str, path: str) -> None:
        self._at = at
        self._rules = rules
        self._draft = draft
        self._path = path
        self._hash = hashlib.sha256()
        self._size = 0

    @property
    def size(self) -> int:
        return self._size

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    async def write(self, data: bytes) -> None:
        await _to_its_end(
            self._at.files.call(drafts.write_draft, self._rules, self._draft, self._size, data)
        )
        self._hash.update(data)
        self._size += len(data)

    async def finish(self, *, replace_existing: bool = True, etag: str = "") -> FileEntry:
        async with self._at.lock:
            entry = await _to_its_end(
                self._at.files.call(
                    drafts.put_draft,
                    self._rules,
                    self._draft,
                    self._path,
                    replace_existing=replace_existing,
                    etag=etag,
                )
            )
        if self._at.dropped:
            raise SandboxUnavailableError("the workspace went while it was written to; try again")
        return entry


async def _to_its_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """A thread cannot be cancelled: whoever leaves keeps lock and workspace until it is done."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task, expected=(Exception,))
        raise
