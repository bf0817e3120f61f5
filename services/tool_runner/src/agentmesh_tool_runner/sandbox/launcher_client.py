"""The service's side of the launcher: starts it, speaks its protocol, tells its end."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import launcher
from .launcher_protocol import receive, send
from .model import SandboxUnavailableError

_PROGRAM: Final = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
    f"from {launcher.__name__} import main; main()"
)
# Hidden behind the launcher's private tmpfs, for it and for the sandboxes alone.
_MOUNT_BASES: Final = ("/mnt", "/media", "/srv", "/opt")


class LauncherLostError(Exception):
    """The launcher ended; with it ended every sandbox it had started."""


@dataclass(frozen=True)
class StartRequest:
    """What the launcher needs to start one sandbox. Limits are pairs (RLIMIT_*, value)."""

    name: str
    argv: Sequence[str]
    uid: int | None
    descriptors: Sequence[int]
    """stdin, stdout, stderr, then those that bwrap's arguments name from 3 on."""
    limits: Sequence[tuple[int, int]] = ()
    late_limits: Sequence[tuple[int, int]] = ()
    """Set inside the sandbox's own user namespace, before the program starts."""
    temporary: Sequence[tuple[str, int, int]] = ()
    """Paths at which it gets a tmpfs of so many bytes and files, which it alone sees."""
    enclosure: Mapping[str, Any] | None = None
    """What the launcher's child builds itself around argv; None: argv is bwrap, which does."""
    member_files: Sequence[str] = ()


@dataclass(frozen=True)
class Ended:
    """End of a sandbox. `code` is the program's exit code, 128 + n if signal n ended it.

    None if the program was never started, or the sandbox was killed around it.
    """

    code: int | None
    cpu_seconds: float
    peak_bytes: int


@dataclass
class _Watched:
    ended: Callable[[Ended], None]
    inner_started: Callable[[int], None]


@dataclass
class LauncherClient:
    """One launcher process. Not restarted here: a lost one means a new client."""

    avoid: Sequence[Path]
    """Paths that must stay visible to sandboxes; the mount base hides none of them."""
    sandlock: Path | None = None
    """The folder of packages that holds sandlock, where sandboxes are built with it."""
    _calls: dict[int, asyncio.Future[tuple[Any, list[int]]]] = field(default_factory=dict)
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _socket: socket.socket | None = None
    _process: asyncio.subprocess.Process | None = None

    @property
    def alive(self) -> bool:
        return self._socket is not None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LauncherLostError("the launcher was not started")
        return self._process.pid

    async def start(self) -> None:
        """Raises SandboxUnavailableError where the kernel refuses the namespaces."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                "-c",
                _PROGRAM,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                # No secret of the service may be in reach of whoever reads the launcher's memory.
                env={},
            )
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._receive)
        try:
            folder = None if self.sandlock is None else str(self.sandlock)
            await self._call("prepare", base=self._mount_base(), sandlock=folder)
        except (OSError, LauncherLostError) as error:
            await self.close()
            if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
                raise SandboxUnavailableError(str(error)) from error
            raise SandboxUnavailableError(
                f"this kernel or container refuses namespaces to sandboxes ({error}); allow "
                "unprivileged user namespaces, or run the service where it may create them"
            ) from error

    def _mount_base(self) -> str:
        for base in _MOUNT_BASES:
            path = Path(base)
            if path.is_dir() and not any(needed.is_relative_to(path) for needed in self.avoid):
                return base
        raise SandboxUnavailableError(
            f"none of {', '.join(_MOUNT_BASES)} is a folder to mount over"
        )

    def mount_path(self, name: str) -> str:
        """Where a mounted workspace is, as the sandboxes' parent sees it."""
        return f"{self._mount_base()}/{name}"

    async def mount(self, name: str, *, size: int, files: int, uid: int | None) -> int:
        """Mounts a tmpfs of that size and number of files; returns a descriptor of its root."""
        _, descriptors = await self._call("mount", name=name, size=size, files=files, uid=uid)
        return descriptors[0]

    async def unmount(self, name: str) -> None:
        await self._call("unmount", name=name)

    async def start_sandbox(
        self,
        request: StartRequest,
        *,
        ended: Callable[[Ended], None],
        inner_started: Callable[[int], None],
    ) -> None:
        """Starts it and tells its first inner process (a host pid) and its end; `ended` exactly
        once.
        """
        self._watched[request.name] = _Watched(ended, inner_started)
        try:
            await self._call(
                "start",
                descriptors=request.descriptors,
                name=request.name,
                argv=list(request.argv),
                uid=request.uid,
                limits=list(request.limits),
                late_limits=list(request.late_limits),
                temporary=list(request.temporary),
                enclosure=request.enclosure,
                member_files=list(request.member_files),
            )
        except BaseException:
            self._watched.pop(request.name, None)
            raise

    async def keep_spare(self, name: str, member_files: Sequence[str]) -> None:
        """Forks ahead of need what `start_sandbox` of that name will become, inside its groups."""
        await self._call("spare", name=name, member_files=list(member_files))

    async def drop_spare(self, name: str) -> None:
        """Ends a spare that will not be used; it is in no group any more when this returns."""
        await self._call("kill", name=name)

    def kill(self, name: str) -> None:
        """Kills everything of a sandbox. Does nothing when it has ended."""
        if self._socket is not None and name in self._watched:
            self._send({"do": "kill", "name": name, "call": next(self._numbers)}, ())

    async def close(self) -> None:
        self._lose()
        if self._process is not None:
            await self._process.wait()

    async def _call(
        self, do: str, *, descriptors: Sequence[int] = (), **arguments: Any
    ) -> tuple[Any, list[int]]:
        number = next(self._numbers)
        answer: asyncio.Future[tuple[Any, list[int]]] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        try:
            self._send({"do": do, "call": number, **arguments}, descriptors)
            return await answer
        finally:
            self._calls.pop(number, None)

    def _send(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        if self._socket is None:
            raise LauncherLostError("the launcher is gone")
        try:
            send(self._socket, message, descriptors)
        except (ConnectionError, BlockingIOError) as error:
            self._lose()
            raise LauncherLostError("the launcher is gone") from error

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                message, descriptors = receive(self._socket)
            except BlockingIOError:
                return
            if message is None:
                self._lose()
                return
            self._dispatch(message, descriptors)

    def _dispatch(self, message: Mapping[str, Any], descriptors: list[int]) -> None:
        if "inner" in message:
            if watched := self._watched.get(message["inner"]):
                watched.inner_started(message["pid"])
        elif "ended" in message:
            if watched := self._watched.pop(message["ended"], None):
                watched.ended(Ended(message["code"], message["cpu"], message["peak"]))
        else:
            answer = self._calls.get(message["call"])
            if answer is None or answer.done():
                for descriptor in descriptors:
                    os.close(descriptor)
            elif "error" in message:
                answer.set_exception(OSError(message["error"], message["detail"]))
            else:
                answer.set_result((message["result"], descriptors))

    def _lose(self) -> None:
        """Closes the socket, so that the launcher kills what runs; tells all who wait."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(LauncherLostError("the launcher is gone"))
        watched, self._watched = self._watched, {}
        for each in watched.values():
            each.ended(Ended(None, 0.0, 0))
