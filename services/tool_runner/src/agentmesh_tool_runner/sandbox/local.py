"""What the backends of this machine share: launcher, workspaces on tmpfs, bounds by control groups.

A backend on top of it says how one sandbox is built.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from abc import abstractmethod
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from meshkit.tasks import ended, stop

from . import cgroups, inside, seccomp, terminal
from .backend import (
    Execution,
    ExecutionSpec,
    Limits,
    SandboxBackend,
    SandboxUnavailableError,
    Workspace,
    WorkspaceKey,
)
from .descriptors import Descriptors
from .execution import LocalExecution, Meter
from .family import FamilyBound, plan_family_bound
from .launcher_client import Ended, LauncherClient, LauncherLostError, StartRequest
from .meters import FamilyMeter, GroupMeter
from .options import LocalOptions
from .reach import LocalReach
from .workspace_handle import WorkspaceHandle
from .workspaces import Mounted, Place, WorkspaceRules, Workspaces

_IDLE_CHECK_SECONDS: Final = 30.0
_SPARES: Final = 2
# Memory that belongs to no process, and so to no RLIMIT_AS.
_UNBOUNDED_MEMORY_CALLS: Final = frozenset({"memfd_create"})


class LocalBackend(SandboxBackend):
    """Runs programs on this machine. One per service process; single event loop."""

    sandlock: Path | None = None
    """Folder of packages with sandlock, where the launcher needs it."""

    def __init__(self, options: LocalOptions) -> None:
        self._options = options
        self._started = False
        self._launcher: LauncherClient | None = None
        self._groups: cgroups.Parent | None = None
        self._family: FamilyBound | None = None
        self._filter = b""
        self._numbers = itertools.count(1)
        self._running: dict[str, tuple[WorkspaceKey, LocalExecution]] = {}
        self._slots = asyncio.Semaphore(options.max_executions)
        self._launching = asyncio.Lock()
        self._sparing = asyncio.Lock()
        self._spares: deque[tuple[str, cgroups.Group]] = deque()
        self._idle_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._uid = self._first_uid()
        rules = WorkspaceRules(
            bytes_each=options.maximum.workspace_bytes,
            max_open=options.max_open_workspaces,
            idle_seconds=options.workspace_idle_seconds,
        )
        self._uids: set[int] = set()
        self._workspaces = Workspaces(options.data_folder / "workspaces", self, rules)

    def _first_uid(self) -> int | None:
        """Root's sandboxes get uids of their own; in a container only mapped ones exist."""
        if os.geteuid() != 0:
            return None
        mapped = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
        highest = max(
            int(start) + int(count) - 1
            for start, count in zip(mapped[::3], mapped[2::3], strict=True)
        )
        return min(self._options.first_uid, highest - self._options.max_open_workspaces - 1)

    @abstractmethod
    def _find_tools(self) -> None:
        """Looks for what builds sandboxes. Raises SandboxUnavailableError; may block."""

    @abstractmethod
    def _compose(
        self, spec: ExecutionSpec, *, workspace: str, processes: int | None
    ) -> inside.Launch:
        """One sandbox around a program.

        `workspace` is where the launcher mounted it; `processes` the bound to set where no control
        group has it. `self._filter` is the seccomp filter to load.
        """

    @property
    @abstractmethod
    def _isolation(self) -> str:
        """By what means a sandbox is isolated, for an operator."""

    @property
    def uses_control_groups(self) -> bool:
        return self._groups is not None

    @property
    def launcher_pid(self) -> int | None:
        return self._launcher.pid if self._launcher else None

    @property
    def means(self) -> Mapping[str, str]:
        group = "control group" if self._groups else None
        return {
            "isolation": f"{self._isolation}; no capabilities; "
            + ("a uid of its own" if self._uid is not None else "the service's own uid"),
            "network": "a network namespace without interfaces",
            "system_calls": "seccomp allow list",
            "memory_limit": group or f"{self._family}, and a watchdog",
            "process_limit": group or "RLIMIT_NPROC in a user namespace of its own",
            "cpu_limit": group or "RLIMIT_CPU and a watchdog",
            "disk_limit": "tmpfs of fixed size",
            "output_limit": "counted by the service",
            "wall_limit": "killed with its pid namespace" + (" and control group" if group else ""),
        }

    @property
    def python(self) -> str:
        """Path of the Python interpreter inside a sandbox."""
        return inside.python_path(self._options.python_folder)

    async def start(self) -> None:
        await asyncio.to_thread(self._inspect)
        await self._live_launcher()
        await self._keep_spares()
        self._started = True
        self._idle_task = asyncio.create_task(self._close_idle_workspaces())

    def _inspect(self) -> None:
        self._find_tools()
        self._groups = self._make_groups() if self._options.use_cgroups else None
        if self._groups is None:
            self._family = plan_family_bound(self._options.max_executions)
            self._slots = asyncio.Semaphore(self._family.sandboxes)
        without = frozenset[str]() if self._groups else _UNBOUNDED_MEMORY_CALLS
        try:
            self._filter = seccomp.build_filter(without=without)
        except seccomp.UnsupportedMachineError as error:
            raise SandboxUnavailableError(str(error)) from error

    def _make_groups(self) -> cgroups.Parent | None:
        hierarchies = cgroups.discover(self._options.cgroup)
        cgroups.sweep(hierarchies)
        parent = cgroups.Parent(hierarchies)
        if not parent.bounds_memory_and_processes:
            return None
        try:
            parent.make()
            probe = parent.group("probe", _group_limits(Limits()))
        except OSError:
            parent.remove()
            return None
        probe.remove()
        return parent

    async def workspace(self, key: WorkspaceKey) -> Workspace:
        if not self._started:
            raise SandboxUnavailableError("the sandbox was not started")
        return WorkspaceHandle(key, self._workspaces, self._execute)

    async def delete_workspace(self, key: WorkspaceKey) -> None:
        await self._end_executions(key)
        await self._workspaces.delete(key)

    async def _end_executions(self, key: WorkspaceKey | None = None) -> None:
        ending = [each for owner, each in self._running.values() if key is None or owner == key]
        for execution in ending:
            execution.cancel()
        for execution in ending:
            await execution.outcome()

    async def close(self) -> None:
        await self._end_executions()
        await stop(self._idle_task)
        await ended(*self._tasks)
        await self._workspaces.close_all()
        await self._drop_spares()
        if self._launcher:
            await self._launcher.close()
        if self._groups:
            await asyncio.to_thread(self._groups.remove)

    async def _close_idle_workspaces(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_CHECK_SECONDS)
            with contextlib.suppress(OSError, LauncherLostError):
                await self._workspaces.close_idle()

    async def _live_launcher(self) -> LauncherClient:
        """The launcher; where it was lost a new one, with all that was lost forgotten."""
        async with self._launching:
            if self._launcher is not None and self._launcher.alive:
                return self._launcher
            if self._launcher is not None:
                await self._launcher.close()
                self._workspaces.forget_all()
                self._uids.clear()
                await self._drop_spares()
            folder = self._options.python_folder
            launcher = LauncherClient(avoid=[folder] if folder else [], sandlock=self.sandlock)
            await launcher.start()
            self._launcher = launcher
            return launcher

    async def mount(self) -> Place:
        launcher = await self._live_launcher()
        maximum = self._options.maximum
        name, uid = f"workspace-{next(self._numbers)}", self._take_uid()
        try:
            root = await launcher.mount(
                name, size=maximum.workspace_bytes, files=maximum.workspace_files, uid=uid
            )
        except BaseException:
            self._give_back_uid(uid)
            raise
        return Place(name, LocalReach(root), uid)

    async def unmount(self, place: Place) -> None:
        if self._launcher is not None and self._launcher.alive:
            with contextlib.suppress(OSError, LauncherLostError):
                await self._launcher.unmount(place.name)
        self._give_back_uid(place.uid)

    def _take_uid(self) -> int | None:
        if self._uid is None:
            return None
        uid = next(uid for uid in itertools.count(self._uid) if uid not in self._uids)
        self._uids.add(uid)
        return uid

    def _give_back_uid(self, uid: int | None) -> None:
        if uid is not None:
            self._uids.discard(uid)

    async def _execute(self, key: WorkspaceKey, spec: ExecutionSpec) -> Execution:
        spec = replace(spec, limits=self._within_maximum(spec.limits))
        await self._slots.acquire()
        resources = contextlib.AsyncExitStack()
        resources.callback(self._slots.release)
        try:
            await self._live_launcher()
            mounted = await resources.enter_async_context(self._workspaces.use(key))
            execution = await self._launch(mounted, spec)
        except LauncherLostError as error:
            await resources.aclose()
            raise SandboxUnavailableError("the sandbox launcher died; try again") from error
        except BaseException:
            await resources.aclose()
            raise
        self._running[execution.id] = (key, execution)
        self._in_background(self._release_after(execution, resources))
        return execution

    async def _release_after(
        self, execution: LocalExecution, resources: contextlib.AsyncExitStack
    ) -> None:
        await execution.outcome()
        self._running.pop(execution.id, None)
        await resources.aclose()

    def _within_maximum(self, wanted: Limits) -> Limits:
        maximum = self._options.maximum
        bounded = {
            name: min(getattr(wanted, name), getattr(maximum, name))
            for name in Limits.__dataclass_fields__
        }
        return Limits(**bounded)

    async def _launch(self, mounted: Mounted, spec: ExecutionSpec) -> LocalExecution:
        launcher = await self._live_launcher()
        name, group, meter = await self._make_meter(spec.limits)
        execution = LocalExecution(
            name,
            spec,
            meter,
            kill=lambda: self._kill(launcher, name, group),
            disk_is_full=lambda: mounted.files.full,
        )
        family = self._family.for_limits(spec.limits) if self._family else None
        launch = self._compose(
            terminal.within(spec, self.python),
            workspace=launcher.mount_path(mounted.name),
            processes=family.processes if family else None,
        )
        limits = inside.process_limits(
            spec.limits, address_space=family.address_space if family else None
        )
        try:
            await self._start(launcher, execution, spec, launch, limits, mounted.uid, group)
        except BaseException:
            launcher.kill(name)
            await meter.release()
            raise
        return execution

    async def _make_meter(self, limits: Limits) -> tuple[str, cgroups.Group | None, Meter]:
        if self._groups is None:
            return self._new_name(), None, FamilyMeter(limits.memory_bytes)
        if self._spares:
            name, group = self._spares.popleft()
            group.limit(_group_limits(limits))
        else:
            name = self._new_name()
            group = await asyncio.to_thread(self._groups.group, name, _group_limits(limits))
        self._in_background(self._keep_spares())
        return name, group, GroupMeter(group)

    def _new_name(self) -> str:
        return f"execution-{next(self._numbers)}"

    async def _keep_spares(self) -> None:
        """Makes groups, and processes that have joined them, for the next executions."""
        async with self._sparing:
            while self._groups is not None and len(self._spares) < _SPARES:
                name = self._new_name()
                try:
                    launcher = await self._live_launcher()
                    limits = _group_limits(Limits())
                    group = await asyncio.to_thread(self._groups.group, name, limits)
                    await launcher.keep_spare(name, group.member_files)
                except (OSError, LauncherLostError):
                    return
                self._spares.append((name, group))

    async def _drop_spares(self) -> None:
        while self._spares and self._launcher is not None:
            name, group = self._spares.popleft()
            with contextlib.suppress(OSError, LauncherLostError):
                await self._launcher.drop_spare(name)
            await GroupMeter(group).release()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(
        self,
        launcher: LauncherClient,
        execution: LocalExecution,
        spec: ExecutionSpec,
        launch: inside.Launch,
        limits: Sequence[tuple[int, int]],
        uid: int | None,
        group: cgroups.Group | None,
    ) -> None:
        with Descriptors() as descriptors:
            stdin, feed = descriptors.stdin(spec)
            link = None
            if spec.terminal is not None:
                stdin, link = descriptors.link()
            stdout, stdout_end = descriptors.pipe()
            stderr, stderr_end = descriptors.pipe()
            contents = [descriptors.memory(data) for data in launch.contents]
            request = StartRequest(
                name=execution.id,
                argv=launch.argv,
                uid=uid,
                descriptors=[stdin, stdout_end, stderr_end, *contents],
                limits=limits,
                late_limits=launch.late_limits,
                temporary=launch.temporary,
                enclosure=launch.enclosure,
                member_files=group.member_files if group else [],
                kill_files=[],
            )
            descriptors.keep(stdout, stderr, *(() if feed is None else (feed,)))
            if link is not None:
                execution.attach_terminal(link)
            execution.attach_pipes(stdout, stderr, feed)
            try:
                await launcher.start_sandbox(
                    request, ended=execution.ended, inner_started=execution.inner_started
                )
            except BaseException:
                execution.ended(Ended(None, 0.0, 0))
                raise

    def _kill(self, launcher: LauncherClient, name: str, group: cgroups.Group | None) -> None:
        if group is not None:
            group.kill()
        launcher.kill(name)


def _group_limits(limits: Limits) -> cgroups.GroupLimits:
    return cgroups.GroupLimits(limits.memory_bytes, limits.processes, limits.cpus)
