"""A mesh on this machine: all of its services, from the first start to the last stop."""

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from agentmesh_cli.errors import CliError
from agentmesh_cli.supervisor.backoff import BackoffPolicy
from agentmesh_cli.supervisor.lock import DataDirLock
from agentmesh_cli.supervisor.logs import last_lines, rotate
from agentmesh_cli.supervisor.mesh_file import MeshFile, remove_mesh_file, write_mesh_file
from agentmesh_cli.supervisor.plan import MeshPlan
from agentmesh_cli.supervisor.service import ServiceState, ServiceStatus, SupervisedService

# What a service gets beyond its drain before it is killed.
_KILL_MARGIN_SECONDS = 2.0


class Mesh:
    """Starts the services of `plan` and keeps them running.

    `async with` starts and stops it. Raises CliError if another mesh holds the data directory.
    `on_change` is called with every change of a service's status.
    """

    def __init__(
        self,
        plan: MeshPlan,
        on_change: Callable[[ServiceStatus], None] = lambda status: None,
        policy: BackoffPolicy | None = None,
    ) -> None:
        self._plan = plan
        self._notify = on_change
        self._lock = DataDirLock(plan.data_dir)
        self._services = [SupervisedService(s, self._changed, policy) for s in plan.services]
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = False

    @property
    def statuses(self) -> list[ServiceStatus]:
        """The services as they stand, in start order."""
        return [service.status for service in self._services]

    @property
    def gateway_address(self) -> str:
        """host:port of the gateway; empty before it has served."""
        return self._address_of("gateway")

    def start(self) -> None:
        """Takes the data directory and starts every service; returns at once."""
        self._plan.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        for service in self._services:
            service.spec.log_file.parent.mkdir(exist_ok=True)
            service.spec.ready_file.parent.mkdir(exist_ok=True)
            rotate(service.spec.log_file)
        self._write_mesh_file()
        self._tasks = [
            asyncio.create_task(service.run(), name=f"supervise {service.spec.name}")
            for service in self._services
        ]

    async def wait_ready(self, timeout_seconds: float | None = None) -> None:
        """Returns once every service has served.

        Raises CliError that quotes the log of a service that refuses its settings, or that has
        not served within `timeout_seconds`.
        """
        waits = [asyncio.ensure_future(service.wait_serving()) for service in self._services]
        pending: set[asyncio.Future[bool]] = set(waits)
        deadline = None
        if timeout_seconds is not None:
            deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            while pending:
                left = None
                if deadline is not None:
                    left = max(0.0, deadline - asyncio.get_running_loop().time())
                done, pending = await asyncio.wait(
                    pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                self._raise_for_failed(timed_out=not done, timeout_seconds=timeout_seconds)
        finally:
            for wait in waits:
                wait.cancel()
        self._ready = True
        self._write_mesh_file()

    async def stop(self) -> None:
        """Stops the services one by one, callers before callees, and lets go of the directory."""
        grace = self._plan.drain_seconds + _KILL_MARGIN_SECONDS
        if self._tasks:
            for service in reversed(self._services):
                await service.stop(grace)
            await asyncio.gather(*self._tasks)
            self._tasks = []
            remove_mesh_file(self._plan.data_dir)
        self._lock.release()

    def kill(self) -> None:
        """Kills every service at once; `stop` returns soon after."""
        for service in self._services:
            service.kill()

    async def wait_failed(self) -> ServiceStatus:
        """Returns the first service that is given up; waits until one is."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return next(s for s in self.statuses if s.state is ServiceState.FAILED)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()

    def _changed(self, status: ServiceStatus) -> None:
        self._write_mesh_file()
        self._notify(status)

    def _write_mesh_file(self) -> None:
        addresses = {s.name: s.grpc_address for s in self.statuses if s.grpc_address}
        addresses |= {f"{s.name}_rest": s.http_address for s in self.statuses if s.http_address}
        pids = {s.name: s.pid for s in self.statuses if s.pid is not None}
        write_mesh_file(self._plan.data_dir, MeshFile(os.getpid(), self._ready, addresses, pids))

    def _address_of(self, name: str) -> str:
        return next((s.grpc_address for s in self.statuses if s.name == name), "")

    def _raise_for_failed(self, *, timed_out: bool, timeout_seconds: float | None) -> None:
        for service in self._services:
            status = service.status
            if status.state is ServiceState.FAILED:
                raise CliError(f"{status.name} refuses to start: {status.detail}")
        if timed_out:
            raise CliError(self._describe_timeout(timeout_seconds or 0.0))

    def _describe_timeout(self, timeout_seconds: float) -> str:
        waiting = [s for s in self._services if s.status.state is not ServiceState.SERVING]
        lines = [
            f"{', '.join(s.spec.name for s in waiting)} did not serve within {timeout_seconds:g} s"
        ]
        for service in waiting:
            lines += [f"  {service.spec.name}: {service.status.detail or service.status.state}"]
            lines += [f"    {line}" for line in last_lines(service.spec.log_file, 5)]
            lines += [f"    (log: {service.spec.log_file})"]
        return "\n".join(lines)
