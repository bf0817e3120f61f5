"""What every sandbox backend offers: workspaces, and executions inside them.

A backend isolates untrusted code from the host and bounds what it may use. Bubblewrap is one; a
Docker engine or a Kubernetes pod fit behind the same interface. Nothing here knows protobuf or
gRPC.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from .workspaces import Workspaces

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

MIB = 1024 * 1024


class EndReason(Enum):
    """Why an execution ended. Exactly one holds for each."""

    EXITED = "exited"
    """The program ended by itself; `exit_code` says how."""
    SIGNALED = "signaled"
    """A signal that no limit explains ended the program; `signal` is its number."""
    WALL_TIMEOUT = "wall_timeout"
    CPU_TIMEOUT = "cpu_timeout"
    OUT_OF_MEMORY = "out_of_memory"
    PROCESS_LIMIT = "process_limit"
    """The program failed after it was refused another process or thread."""
    DISK_FULL = "disk_full"
    """The program failed with its workspace full; or the workspace could not be kept and was
    rolled back.
    """
    OUTPUT_LIMIT = "output_limit"
    COMPILE_ERROR = "compile_error"
    """The compiler refused the program. No backend says so: whoever runs compilers does."""
    CANCELLED = "cancelled"
    SANDBOX_LOST = "sandbox_lost"
    """The sandbox itself died or could not be started; says nothing about the program."""


class Stream(Enum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True)
class Limits:
    """Bounds of one execution. Seconds and bytes; every one is enforced, none is advice."""

    wall_seconds: float = 60.0
    cpu_seconds: float = 60.0
    """Sum over all processes and threads."""
    cpus: float = 1.0
    """CPU time per second of wall time."""
    memory_bytes: int = 512 * MIB
    """All processes together, temporary files and workspace pages they touch included."""
    processes: int = 64
    """Processes and threads at any one time."""
    workspace_bytes: int = 128 * MIB
    """Size of the workspace; fixed when the workspace is opened."""
    workspace_files: int = 10_000
    temporary_bytes: int = 64 * MIB
    """Size of /tmp, and of /dev/shm, each."""
    output_bytes: int = 1 * MIB
    """stdout and stderr together; what exceeds it is dropped and ends the execution."""
    open_files: int = 256

    def within(self, maximum: Limits) -> Limits:
        """The same, but none above that of `maximum`."""
        bounded = {
            name: min(getattr(self, name), getattr(maximum, name))
            for name in Limits.__dataclass_fields__
        }
        return Limits(**bounded)


@dataclass(frozen=True)
class TerminalSize:
    """Size of a terminal in characters."""

    rows: int
    columns: int


@dataclass(frozen=True)
class ExecutionSpec:
    """One program to run.

    `stdin` is what it can read; with `keep_stdin_open` more may follow. `files` are laid read-only
    and executable at INPUT_DIRECTORY under their names (no slash). With a `terminal` the program
    has one in place of pipes, as its controlling terminal: what it writes all is output of STDOUT,
    and the end of input is an end-of-file character. `environment` is added to the sandbox's own
    minimal one; nothing of the service's environment is inherited.
    """

    argv: Sequence[str]
    stdin: bytes = b""
    keep_stdin_open: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    terminal: TerminalSize | None = None
    stateful: bool = False
    """True runs the only one of `files`, Python source, in the workspace's interpreter, whose
    variables last from one execution to the next; `argv` is not looked at. What it is worth as its
    last expression is printed.
    """


INPUT_DIRECTORY = "/run/input"
WORKSPACE_DIRECTORY = "/workspace"


@dataclass(frozen=True)
class Output:
    """A piece of output in the order of its stream; stdout and stderr are not ordered to each
    other.
    """

    stream: Stream
    data: bytes


@dataclass(frozen=True)
class ResourceUsage:
    """What an execution used. `peak_memory_bytes` is 0 where the backend cannot tell."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """How an execution ended.

    `detail` is one line for a reader, empty where the reason says it all.
    """

    reason: EndReason
    exit_code: int | None = None
    signal: int | None = None
    usage: ResourceUsage = field(default_factory=ResourceUsage)
    output_truncated: bool = False
    detail: str = ""

    @property
    def succeeded(self) -> bool:
        return self.reason is EndReason.EXITED and self.exit_code == 0


@dataclass(frozen=True)
class FileEntry:
    """One entry of a workspace. `kind` is file, directory, link or other; `path` is relative.

    `etag` is another one after each change; `sha256` is there where it was asked for.
    """

    path: str
    kind: str
    size: int
    modified_at: float
    etag: str = ""
    sha256: bytes = b""


@dataclass(frozen=True)
class FileVersion:
    """What a file or folder was before it was overwritten or removed. `kept_at` is Unix time."""

    id: str
    path: str
    kind: str
    size: int
    kept_at: float


@dataclass(frozen=True)
class FileRules:
    """For what changes files: `uid` owns new ones (None: whoever makes them)."""

    uid: int | None
    version_bytes: int
    """Bytes that kept versions may take together."""


@dataclass(frozen=True)
class WorkspaceKey:
    """Names a workspace: one per conversation, and none is shared between tenants.

    A `temporary` one belongs to no conversation, and nothing of it is kept.
    """

    tenant: str
    conversation: str
    temporary: bool = False


@dataclass(frozen=True)
class Session:
    """An open workspace. Times are Unix time; `users` are the operations and programs in it now."""

    key: WorkspaceKey
    opened_at: float
    used_at: float
    users: int
    idle_seconds: float
    """Unused for so long, it is saved and closed."""
    lifetime_seconds: float
    """Open for so long, it is saved and closed as soon as nothing uses it."""
    executions: int = 0
    """Programs that run in it."""


@dataclass(frozen=True)
class Capability:
    """One property of the isolation: by what means it holds here, or why it does not."""

    name: str
    enforced: bool
    detail: str


class SandboxUnavailableError(Exception):
    """No code may run here; the message says in one line what to install or to allow."""


class WorkspaceInUseError(Exception):
    """The workspace cannot be closed now: something runs in it."""


class InterpreterUnavailableError(Exception):
    """No interpreter that keeps its variables can be had here; the message says why."""


class WorkspaceFullError(Exception):
    """The workspace has no room for what was to be written, or could not be saved within its
    bound.
    """


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
