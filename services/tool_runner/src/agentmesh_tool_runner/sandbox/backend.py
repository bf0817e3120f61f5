"""What every sandbox backend offers: workspaces, and executions inside them.

A backend isolates untrusted code from the host and bounds what it may use. Bubblewrap is one; a
Docker engine or a Kubernetes pod fit behind the same interface. Nothing here knows protobuf or
gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from .model import (
    MIB,
    EndReason,
    ExecutionSpec,
    FileEntry,
    FileRules,
    Outcome,
    Output,
    Session,
    TerminalSize,
    WorkspaceKey,
)

if TYPE_CHECKING:
    from .mounted import Stay
    from .workspaces import Workspaces

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Execution(Protocol):
    """A running program."""

    fresh_interpreter: bool | None
    """Of a stateful one: True if it began without variables of earlier executions."""

    @property
    def id(self) -> str: ...

    @property
    def finished(self) -> bool:
        """True once `outcome` answers without waiting."""
        ...

    def output(self) -> AsyncIterator[Output]:
        """Yields output as it comes and ends with the program.

        One reader, whose pace is the program's: what waits for it is bounded, and a program that
        is ahead of that blocks when it writes.
        """
        ...

    async def outcome(self) -> Outcome:
        """Waits for the end. May be awaited by many."""
        ...

    async def write_stdin(self, data: bytes, *, close: bool = False) -> None:
        """Feeds standard input that was kept open. Raises BrokenPipeError when nobody reads it."""
        ...

    def send_signal(self, number: int) -> None:
        """Signals the program's process group, with a terminal the one in the foreground.

        Does nothing once the program has ended.
        """
        ...

    def resize(self, size: TerminalSize) -> None:
        """Changes the size of the terminal, of which the program is told by SIGWINCH.

        Raises ValueError if the program has none.
        """
        ...

    def cancel(self, reason: EndReason = EndReason.CANCELLED, detail: str = "") -> None:
        """Kills every process of the execution, at once and without grace. Idempotent."""
        ...


class Upload(Protocol):
    """A file on its way into a workspace. It has no path, and nobody sees it, before `finish`."""

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    @property
    def sha256(self) -> bytes:
        """Of the bytes written so far."""
        ...

    async def write(self, data: bytes) -> None:
        """Adds bytes. Raises WorkspaceFullError."""
        ...

    async def finish(self, *, replace_existing: bool = True, etag: str = "") -> FileEntry:
        """Puts the file at its path, at once; what it replaces is kept as a version.

        Raises FileExistsError unless it may replace a file; OSError with ESTALE if `etag` is given
        and is not that of the file it replaces.
        """
        ...


class Workspace(Protocol):
    """The files of a conversation.

    They outlive executions, the service and the machine's restart.
    """

    @property
    def key(self) -> WorkspaceKey: ...

    async def execute(self, spec: ExecutionSpec) -> Execution:
        """Starts a program in the workspace directory.

        Raises SandboxUnavailableError; InterpreterUnavailableError if it is stateful.
        """
        ...

    async def save(self) -> None:
        """Makes the present files durable.

        Raises WorkspaceFullError, after rolling back to the last save.
        """
        ...

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Keeps the workspace open while the block runs, for operations that belong together."""
        ...

    def outlast(self) -> Stay:
        """What is executed from now on keeps the workspace open, also beyond its own end, until the
        answer is closed: for whoever still has its files to save."""
        ...

    async def look(
        self,
        operation: Callable[Concatenate[int, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """Runs an operation of `files.reading` or `files.versions`. Raises what it raises."""
        ...

    async def change(
        self,
        operation: Callable[Concatenate[int, FileRules, _Arguments], _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """Runs an operation of `files.writing` or `files.organising`, one at a time."""
        ...

    def upload(self, path: str) -> AbstractAsyncContextManager[Upload]:
        """A file that is written piece by piece; leaving the block unfinished leaves nothing.

        Raises UnsafePathError, IsADirectoryError, NotADirectoryError.
        """
        ...

    async def list_files(self, path: str = ".", *, limit: int = 1000) -> list[FileEntry]:
        """Entries below `path`, depth first. Raises FileNotFoundError, UnsafePathError."""
        ...

    async def read_file(self, path: str, *, offset: int = 0, limit: int = MIB) -> bytes:
        """At most `limit` bytes from `offset`.

        Raises FileNotFoundError, IsADirectoryError, UnsafePathError.
        """
        ...

    async def write_file(self, path: str, data: bytes, *, append: bool = False) -> None:
        """Writes a file and makes its parents. Raises WorkspaceFullError, UnsafePathError."""
        ...

    async def move(self, path: str, destination: str) -> None:
        """Renames a file or folder. Raises FileNotFoundError, FileExistsError, UnsafePathError."""
        ...

    async def remove(self, path: str) -> None:
        """Removes a file, or a directory with all below.

        Raises FileNotFoundError, UnsafePathError.
        """
        ...


@dataclass(frozen=True)
class Ahead:
    """A workspace to act in at once, and whether what is done there counts: if not, all of it goes
    with the workspace. What asks for that may fail as `SandboxBackend.workspace` does."""

    workspace: Workspace
    counts: asyncio.Task[bool]


class SandboxBackend(Protocol):
    """A way to run untrusted code, on this machine or on another.

    A backend whose sandboxes are elsewhere (a Docker engine; pods of a cluster) has to supply:

    - a place for a workspace (`workspaces.Mounter`): bounded in bytes and files by the kernel, seen
      by all sandboxes of that workspace and by no other, and gone when nobody holds it;
    - a `reach.Reach` of its files: the operations of `snapshot` and `files` done where the files
      are, archives carried in and out;
    - a sandbox around each execution whose bounds (memory with swap, processes, CPU) are the
      execution's alone; an execution with other bounds gets another sandbox;
    - somebody inside who starts the program, carries its streams, kills all of it and tells what
      it used, whose own descriptors and memory the program cannot reach, and who ends, with
      everything inside, when the service is gone;
    - labels by which a successor finds what is left of a service that was killed.

    Most of it is `LocalExecution` and `Workspaces`, whatever the place: they judge limits, output
    and ends on this side, from what they are told.
    """

    own_image: bool = False
    """True if sandboxes see an image's files, and nothing of this machine's."""

    @property
    def keeps_variables(self) -> bool:
        """True if executions can be stateful."""
        return False

    @property
    def warm_sandboxes(self) -> int:
        """How many sandboxes are ready for workspaces to come."""
        return 0

    @property
    def name(self) -> str: ...

    @property
    def python(self) -> str:
        """Path of the Python interpreter inside a sandbox."""
        ...

    @property
    def means(self) -> Mapping[str, str]:
        """How each property of `selftest.PROPERTIES` is brought about here, for an operator."""
        ...

    @property
    def workspaces(self) -> Workspaces:
        """Those that are open, and where their files rest."""
        ...

    async def start(self) -> None:
        """Sweeps what a dead predecessor left, then gets ready. Raises SandboxUnavailableError."""
        ...

    async def workspace(self, key: WorkspaceKey) -> Workspace:
        """The workspace of that name, made or restored when it is not open.

        Raises SandboxUnavailableError.
        """
        ...

    def ahead(self, key: WorkspaceKey) -> AbstractAsyncContextManager[Ahead | None]:
        """Lets the block act in a workspace before its files are known to be the newest.

        See `Workspaces.ahead`. None where `workspace` must come first.
        """
        return contextlib.nullcontext()

    def sessions(self, tenant: str) -> Sequence[Session]:
        """The tenant's open workspaces."""
        ...

    async def close_session(self, key: WorkspaceKey, *, kill: bool = False) -> bool:
        """Saves and closes a workspace; False if it is not open.

        `kill` ends the programs in it first. Raises WorkspaceInUseError.
        """
        ...

    async def delete_workspace(self, key: WorkspaceKey) -> None:
        """Ends what runs there and forgets its files. Does nothing when there is none."""
        ...

    async def close(self) -> None:
        """Kills all that runs, saves the workspaces, releases everything."""
        ...
