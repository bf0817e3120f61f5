"""What goes into a sandbox and what comes out of it: limits, programs, files, ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

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
        above = {
            name: most
            for name, wanted in vars(self).items()
            if wanted > (most := getattr(maximum, name))
        }
        return replace(self, **above) if above else self


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
