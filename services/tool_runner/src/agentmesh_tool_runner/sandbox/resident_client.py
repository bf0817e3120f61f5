"""The service's side of a resident: starts one, runs programs in it, tells their ends."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from . import resident_child
from .cgroups import Group, GroupLimits, GroupUsage
from .descriptors import Descriptors
from .inside import Launch, process_limits
from .launcher_client import Ended, LauncherClient, StartRequest
from .model import ExecutionSpec

_MESSAGE_BYTES: Final = 4096
_READY_SECONDS: Final = 20.0
_WORN_BYTES: Final = 8 << 20
_LAST_WORDS: Final = 4096

Told = Callable[[Ended], None]


class ResidentLostError(Exception):
    """The resident is gone, and what it was to run was not started."""


class Resident:
    """One resident in its sandbox and control group. It runs one program at a time."""

    def __init__(
        self, name: str, group: Group, limits: GroupLimits, launcher: LauncherClient
    ) -> None:
        self.name = name
        self.group = group
        self.lost = False
        self.inner = -1
        """Its pid on the host."""
        self._limits = limits
        self._launcher = launcher
        self._base_bytes = 0
        self._worn = False
        self._ended: Told | None = None
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._inner_known = asyncio.Event()
        self._gone = asyncio.Event()
        self._clear = asyncio.Event()
        self._clear.set()
        self._channel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel.fileno(), self._receive)

    async def start(self, launch: Launch, uid: int | None) -> None:
        """Waits until it can run programs.

        Raises ResidentLostError with its last words, LauncherLostError, OSError.
        """
        with Descriptors() as descriptors, self._theirs:
            words = descriptors.memory(b"")
            contents = [descriptors.memory(data) for data in launch.contents]
            request = StartRequest(
                name=self.name,
                argv=launch.argv,
                uid=uid,
                descriptors=[words, words, words, *contents, self._theirs.fileno()],
                temporary=launch.temporary,
                member_files=self.group.member_files,
            )
            await self._launcher.start_sandbox(
                request, ended=self._sandbox_ended, inner_started=self._inner_started
            )
            self._theirs.close()
            try:
                async with asyncio.timeout(_READY_SECONDS):
                    await self._ready
                    # Told by another process, and so perhaps later; signals need it.
                    await self._inner_known.wait()
            except (TimeoutError, ResidentLostError):
                said = os.pread(words, _LAST_WORDS, 0).decode(errors="replace").strip()
                raise ResidentLostError(said or "it was not ready in time") from None
        self._base_bytes = self.group.memory_in_use()

    def run(self, descriptors: Sequence[int], ended: Told) -> None:
        """Starts a program.

        `descriptors` are stdin, stdout, stderr, the plan, and a control socket if it has one.
        `ended` is told once, when every process of it is dead. Raises ResidentLostError.
        """
        if self.lost:
            raise ResidentLostError("it is gone")
        try:
            socket.send_fds(self._channel, [b"run"], descriptors)
        except OSError as error:
            self.lost = True
            raise ResidentLostError(str(error)) from error
        self._ended = ended
        self._clear.clear()

    async def until_clear(self) -> None:
        """Waits until nothing of the last program takes memory, or the resident is gone."""
        if not self.lost:
            await self._clear.wait()

    def begin(self, limits: GroupLimits) -> GroupUsage:
        """Bounds what runs next; what its group has used so far. Raises ResidentLostError."""
        if self.lost:
            raise ResidentLostError("it is gone")
        try:
            if limits != self._limits:
                self.group.limit(limits)
                self._limits = limits
            self._worn = not self.group.forget_peak()
        except OSError as error:
            raise ResidentLostError(f"its group cannot be bounded: {error}") from error
        return self.group.usage()

    @property
    def reusable(self) -> bool:
        """True if another program would find and be charged nothing of those before it."""
        if self.lost or self._ended is not None:
            return False
        used = self.group.memory_in_use()
        if self._worn:
            used = max(used, self.group.usage().peak_memory_bytes or 0)
        return used - self._base_bytes < _WORN_BYTES

    def kill(self) -> None:
        """Kills the sandbox with all in it, at once."""
        self.lost = True
        self._clear.set()
        self.group.kill()
        self._launcher.kill(self.name)

    async def remove(self) -> None:
        """Kills it and waits until nothing of it is left."""
        # Also one that is lost: that its channel has ended does not say that its sandbox has.
        self.kill()
        if not self._ready.done():
            self._ready.cancel()
        if self._launcher.alive:
            await self._gone.wait()
        await asyncio.to_thread(self._remove_group)
        self._close()

    def _remove_group(self) -> None:
        self.group.kill()
        self.group.remove()

    def _receive(self) -> None:
        try:
            data = self._channel.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # Its end is told by the launcher, once all with it are dead.
            self.lost = True
            self._clear.set()
            self._loop.remove_reader(self._channel.fileno())
            return
        message: dict[str, Any] = json.loads(data)
        if "ready" in message:
            if not self._ready.done():
                self._ready.set_result(None)
        elif "clear" in message:
            self._clear.set()
        else:
            self.lost = self.lost or message["last"]
            self._tell(Ended(message["code"], 0.0, 0))

    def _inner_started(self, pid: int) -> None:
        self.inner = pid
        self._inner_known.set()

    def _sandbox_ended(self, ended: Ended) -> None:
        self.lost = True
        self._gone.set()
        self._clear.set()
        self._inner_known.set()
        if not self._ready.done():
            self._ready.set_exception(ResidentLostError("it ended"))
        self._tell(Ended(None, 0.0, 0))

    def _tell(self, ended: Ended) -> None:
        told, self._ended = self._ended, None
        if told is not None:
            told(ended)

    def _close(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()


def plan(spec: ExecutionSpec, environment: Mapping[str, str], python: str, how: str = "") -> bytes:
    """What the resident is told of a program; `environment` is what every program gets.

    A Python script runs in the resident's own interpreter, unless it wants that to start otherwise.
    """
    script = len(spec.argv) > 1 and spec.argv[0] == python and spec.argv[1].endswith(".py")
    plain = not any(name.startswith(("PYTHON", "LD_")) for name in spec.environment)
    limits = spec.limits
    told = {
        "argv": list(spec.argv),
        "environment": dict(environment) | dict(spec.environment),
        "limits": [
            (kind, value)
            for kind, value in process_limits(limits, address_space=None)
            # An interpreter's is that of each of its executions, which its group's is watched for.
            if (how, kind) != ("interpreter", resource.RLIMIT_CPU)
        ],
        "how": how or ("script" if script and plain else "exec"),
        "files": [(name, len(data)) for name, data in spec.files.items()],
    }
    return resident_child.pack(told, list(spec.files.values()))
