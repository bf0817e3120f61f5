"""One service: a child process that is started again when it dies."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from agentmesh_cli.supervisor.backoff import Backoff, BackoffPolicy
from agentmesh_cli.supervisor.death_signal import die_with_parent
from agentmesh_cli.supervisor.logs import last_lines

# The status with which a service ends when its settings make no sense: starting it again would
# end alike.
EXIT_MISCONFIGURED = 2

_READY_POLL_SECONDS = 0.02


class ServiceState(StrEnum):
    """Where a service stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    SERVING = "serving"
    BACKING_OFF = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True)
class ServiceSpec:
    """What to run. The process writes `ready_file` once it serves: JSON with `grpc_address` and,
    if it speaks HTTP, `http_address`."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready_file: Path
    log_file: Path


@dataclass(frozen=True)
class ServiceStatus:
    """A snapshot. `since` is on the monotonic clock; `detail` says why it is not serving."""

    name: str
    state: ServiceState = ServiceState.STOPPED
    pid: int | None = None
    restarts: int = 0
    grpc_address: str = ""
    http_address: str = ""
    since: float = 0.0
    detail: str = ""


class SupervisedService:
    """Runs one service until it is told to stop. `on_change` is called with every new status."""

    def __init__(
        self,
        spec: ServiceSpec,
        on_change: Callable[[ServiceStatus], None],
        policy: BackoffPolicy | None = None,
    ) -> None:
        self.spec = spec
        self.status = ServiceStatus(spec.name)
        self._on_change = on_change
        self._backoff = Backoff(policy or BackoffPolicy())
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._served = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Starts the service, and again whenever it dies; returns after `stop`, or when its
        settings are refused before it ever served."""
        try:
            while not self._stopping.is_set():
                served, exit_status = await self._live_once()
                if self._stopping.is_set():
                    break
                if exit_status == EXIT_MISCONFIGURED and not self._served.is_set():
                    self._change(state=ServiceState.FAILED, pid=None, detail=self._last_words())
                    return
                await self._back_off(served, exit_status)
            self._change(state=ServiceState.STOPPED, pid=None, detail="")
        finally:
            self._ended.set()

    async def wait_serving(self) -> bool:
        """Waits until it has served for the first time; False if it ended before."""
        serving = asyncio.ensure_future(self._served.wait())
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            ended.cancel()
        return self._served.is_set()

    async def stop(self, grace_seconds: float) -> None:
        """Asks the process to end, kills it after `grace_seconds`, and returns when it is gone."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            self._change(state=ServiceState.STOPPING)
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """Kills the process and whatever it started in its process group."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _live_once(self) -> tuple[float, int]:
        """One life of the process: how long it served, in seconds, and its exit status."""
        self.spec.ready_file.unlink(missing_ok=True)
        process = await self._spawn()
        self._process = process
        self._change(state=ServiceState.STARTING, pid=process.pid, detail="")
        if self._stopping.is_set():  # `stop` came while the process was being made
            process.terminate()
        exited = asyncio.ensure_future(process.wait())
        served = 0.0
        if await self._became_ready(exited):
            began = time.monotonic()
            exit_status = await exited
            served = time.monotonic() - began
        else:
            exit_status = await exited
        # The leader is gone; what it left behind would hold its port and its files.
        self.kill()
        return served, exit_status

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.spec.log_file.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self.spec.command,
                env=dict(self.spec.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                # Ctrl-C belongs to the supervisor, which stops the services in order.
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    async def _became_ready(self, exited: "asyncio.Future[int]") -> bool:
        while not exited.done():
            ready = self._read_ready_file()
            if ready is not None:
                self._served.set()
                self._change(
                    state=ServiceState.SERVING,
                    grpc_address=ready.get("grpc_address") or "",
                    http_address=ready.get("http_address") or "",
                )
                return True
            await asyncio.wait({exited}, timeout=_READY_POLL_SECONDS)
        return False

    def _read_ready_file(self) -> dict[str, str] | None:
        try:
            found = json.loads(self.spec.ready_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    async def _back_off(self, served: float, exit_status: int) -> None:
        delay = self._backoff.next_delay(served)
        reason = _describe_exit(exit_status)
        if not served and exit_status > 0:  # it gave up by itself, and its log may say why
            reason = ": ".join([reason, *last_lines(self.spec.log_file, 1)])
        self._change(
            state=ServiceState.BACKING_OFF,
            pid=None,
            restarts=self.status.restarts + 1,
            detail=f"{reason}; starts again in {delay:.1f} s",
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopping.wait()

    def _last_words(self) -> str:
        return "\n".join(last_lines(self.spec.log_file, 5)) or "its settings were refused"

    def _change(self, **changes: object) -> None:
        if changes.get("state", self.status.state) != self.status.state:
            changes["since"] = time.monotonic()
        self.status = replace(self.status, **changes)  # type: ignore[arg-type]  # checked by callers
        self._on_change(self.status)


def _describe_exit(exit_status: int) -> str:
    if exit_status >= 0:
        return f"ended with status {exit_status}"
    try:
        return f"killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"killed by signal {-exit_status}"
