"""Database servers as child processes: started, stopped, killed and started again.

All methods block, and are safe to call from any thread: `await asyncio.to_thread(server.restart)`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_GUARDIAN = Path(__file__).with_name("guardian.py")
_LOG_TAIL_LINES = 40
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0
_MEMORY = Path("/dev/shm")  # noqa: S108  folders in it get names of their own
_MEMORY_ROOM = 8 * 1024**3  # for the servers of several workers, with room to spare
# Beneath the ports that systems give to outgoing connections (from 32768 or 49152 on): nobody is
# given a server's port while it is down, and no client that keeps trying connects to itself.
_PORTS = range(15_000, 32_000)


class ProgramMissingError(Exception):
    """Neither the machine nor the Python environment has the server; says what to do."""


class ServerFailedError(AssertionError):
    """The server did not do what was expected; the message ends with its log."""


@dataclass(frozen=True)
class Account:
    """The user and group a server runs as; None for our own."""

    user: int | None = None
    group: int | None = None


def quiet_port() -> int:
    """A TCP port of loopback that is free now and that the system gives to nobody by itself."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port found")


def memory_folder() -> Path | None:
    """A folder in memory, if there is one with room. What lies there outlives killed processes, as
    it would on a disk; only a machine that stops loses it."""
    with suppress(OSError):
        if shutil.disk_usage(_MEMORY).free >= _MEMORY_ROOM:
            return _MEMORY
    return None


class ServerProcess(ABC):
    """One server. After its first start it keeps its port and its folder until `close`.

    It dies with this process, however this one ends. As a context manager it is started at the
    beginning and closed at the end.
    """

    name: str
    stop_signal: signal.Signals
    """Asks for an orderly end."""
    abandon_signal: signal.Signals
    """Ends the server and all its processes at once."""

    def __init__(self, account: Account | None = None, *, in_memory: bool = False) -> None:
        self.account = account or Account()
        parent = memory_folder() if in_memory else None
        self.folder = Path(tempfile.mkdtemp(prefix=f"agentmesh-{self.name}-", dir=parent))
        self.log_file = self.folder / "log.txt"
        self.port = quiet_port()
        self._guardian: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Starts the server on `port` of loopback with its data in `folder`."""

    @abstractmethod
    def _answers(self) -> bool:
        """True if the server serves requests."""

    @property
    def alive(self) -> bool:
        """True while the server runs."""
        return self._guardian is not None and self._guardian.poll() is None

    @property
    def pid(self) -> int:
        """Of the running server."""
        if not self.alive:
            raise ServerFailedError(f"{self.name} does not run\n{self.log_tail()}")
        return self._pid

    def start(self) -> None:
        """Starts the server; returns when it serves. Raises ServerFailedError with its log."""
        if self.alive:
            raise ServerFailedError(f"{self.name} runs already")
        self._spawn()
        end = time.monotonic() + _PATIENCE_SECONDS
        while not self._answers():
            if not self.alive:
                raise ServerFailedError(f"{self.name} ended at once\n{self.log_tail()}")
            if time.monotonic() > end:
                self.sigkill()
                raise ServerFailedError(f"{self.name} does not answer\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Lets the server end in order. Nothing happens if it does not run."""
        self._end(self.stop_signal)

    def sigkill(self) -> None:
        """Kills the server and all its processes at one moment; returns when none is left."""
        root = psutil.Process(self.pid)
        root.suspend()  # it starts no process from here on
        processes = [root, *root.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._reap()
        for process in processes:
            _wait_until_dead(process)

    def restart(self) -> None:
        """Starts the server again, after a SIGKILL if it still runs."""
        if self.alive:
            self.sigkill()
        self.start()

    def pause(self) -> None:
        """Stops all processes of the server where they are: connections stay, nobody answers."""
        root = psutil.Process(self.pid)
        root.suspend()
        for process in root.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Lets a paused server go on."""
        root = psutil.Process(self.pid)
        for process in [*root.children(recursive=True), root]:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """Ends the server at once and removes its data."""
        if self.alive:
            self.resume()
            self._end(self.abandon_signal)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The end of what the server wrote, over all its starts."""
        log = self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""
        return "\n".join([f"--- {self.name}: end of its log", *log.splitlines()[-lines:]])

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _spawn(self) -> None:
        spec = {
            "command": list(self._command()),
            "folder": str(self.folder),
            "signal": self.abandon_signal,
            "user": self.account.user,
            "group": self.account.group,
        }
        with self.log_file.open("ab") as log:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARDIAN), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # an interrupt from the keyboard is for the tests
            )
        assert self._guardian.stdout is not None
        line = self._guardian.stdout.readline()
        if not line:
            self._reap()
            raise ServerFailedError(f"{self.name} cannot be started\n{self.log_tail()}")
        self._pid = int(line)

    def _end(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)
            self._reap()

    def _reap(self) -> None:
        guardian = self._guardian
        assert guardian is not None
        try:
            guardian.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerFailedError(f"{self.name} does not end\n{self.log_tail()}") from None
        for pipe in (guardian.stdin, guardian.stdout):
            if pipe is not None:
                pipe.close()


def _wait_until_dead(process: psutil.Process) -> None:
    # A dead process that nobody reaps stays as a zombie, which holds nothing anymore.
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_POLL_SECONDS)
