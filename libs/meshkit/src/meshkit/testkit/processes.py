"""Services as real processes, to be killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_LOG_TAIL_LINES = 40
_POLL_SECONDS = 0.02


class ProcessFailedError(AssertionError):
    """The process did not do what was expected; the message ends with its log."""


class MeshProcess:
    """One service process. After its first start it keeps its ports and its data folder.

    `folder` holds data, ready file and log. `environment` is added to this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        ready_seconds: float = 30.0,
    ) -> None:
        self.command = list(command)
        self.folder = folder
        self.log_file = folder / "log.txt"
        self.grpc_address = ""
        self.http_address = ""
        self._ready_file = folder / "ready.json"
        self._ready_seconds = ready_seconds
        self._environment = {
            "AGENTMESH_GRPC_PORT": "0",
            "AGENTMESH_DATA_DIR": str(folder / "data"),
            "AGENTMESH_READY_FILE": str(self._ready_file),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Starts the process; returns when it is ready. Raises ProcessFailedError with its log."""
        if self.alive:
            raise ProcessFailedError(f"{self.command[0]} runs already")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        self._process = self._spawn()
        self._take_addresses(await self._wait_until_ready())

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  the test names the command
                self.command,
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _wait_until_ready(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._ready_seconds
        while loop.time() < end:
            if self._ready_file.exists():  # it appears by rename: complete or not at all
                content: dict[str, Any] = json.loads(self._ready_file.read_text("utf-8"))
                return content
            status = self._running().poll()
            if status is not None:
                raise ProcessFailedError(f"ended with status {status}\n{self.log_tail()}")
            await asyncio.sleep(_POLL_SECONDS)
        await self.sigkill()
        raise ProcessFailedError(f"not ready after {self._ready_seconds} s\n{self.log_tail()}")

    def _take_addresses(self, ready: Mapping[str, Any]) -> None:
        self.grpc_address = str(ready["grpc_address"])
        self.http_address = str(ready.get("http_address", ""))
        self._environment["AGENTMESH_GRPC_PORT"] = self.grpc_address.rpartition(":")[2]
        if self.http_address:
            self._environment["APP_PORT"] = self.http_address.rstrip("/").rpartition(":")[2]

    @property
    def environment(self) -> dict[str, str]:
        """What another command needs to work on the same data."""
        return os.environ | self._environment

    async def wait(self, within: float = 30.0) -> int:
        """The exit status, negative for a signal. Raises ProcessFailedError if it does not end."""
        process = self._running()
        try:
            return await asyncio.to_thread(process.wait, within)
        except subprocess.TimeoutExpired:
            raise ProcessFailedError(f"still runs after {within} s\n{self.log_tail()}") from None

    async def sigkill(self) -> None:
        """Kills the process, not its children, and reaps it."""
        self.send_signal(signal.SIGKILL)
        await self.wait()

    async def sigterm(self, within: float = 30.0) -> int:
        """Asks the process to drain and stop; its exit status."""
        self.send_signal(signal.SIGTERM)
        return await self.wait(within)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends any signal, SIGSTOP and SIGCONT included."""
        self._running().send_signal(number)

    async def restart(self) -> None:
        """Starts the process again, after a SIGKILL if it still runs."""
        if self.alive:
            await self.sigkill()
        await self.start()

    async def close(self) -> None:
        """Ends the process and whatever it left in its process group."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.wait()

    def log(self) -> str:
        """All that the process wrote, over all its starts."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The end of the log, with the command before it."""
        tail = "\n".join(self.log().splitlines()[-lines:])
        return f"--- {' '.join(self.command)}: end of {self.log_file}\n{tail}"

    async def __aenter__(self) -> MeshProcess:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProcessFailedError(f"{self.command[0]} was not started")
        return self._process
