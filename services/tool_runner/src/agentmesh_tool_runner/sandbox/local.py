"""What the backends of this machine share: launcher, workspaces on tmpfs, bounds by control groups.

A backend on top of it says how one sandbox is built.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from . import cgroups, inside, seccomp, terminal
from .backend import Execution
from .descriptors import Descriptors, Streams
from .execution import LocalExecution, Meter
from .family import FamilyBound, plan_family_bound
from .hosting import HostingBackend, Slot
from .launcher_client import Ended, LauncherClient, LauncherLostError, StartRequest
from .meters import FamilyMeter, GroupMeter
from .model import (
    ExecutionSpec,
    InterpreterUnavailableError,
    Limits,
    SandboxUnavailableError,
    WorkspaceKey,
)
from .mounted import Mounted, Place, Stay
from .options import LocalOptions
from .places import Places, first_uid
from .resident_client import Resident, ResidentLostError
from .spares import Spares, group_limits
from .warm import WarmSandboxes
from .warm_executions import WarmExecutions

_NO_INTERPRETER: Final = (
    "an interpreter that keeps its variables needs bubblewrap sandboxes and control groups"
)
# Memory that belongs to no process, and so to no RLIMIT_AS.
_UNBOUNDED_MEMORY_CALLS: Final = frozenset({"memfd_create"})


class LocalBackend(HostingBackend[LocalExecution]):
    """Runs programs on this machine. One per service process; single event loop."""

    _losses = (OSError, SandboxUnavailableError, LauncherLostError)

    sandlock: Path | None = None
    """Folder of packages with sandlock, where the launcher needs it."""

    def __init__(self, options: LocalOptions) -> None:
        super().__init__(options)
        self._options = options
        self._launcher: LauncherClient | None = None
        self._groups: cgroups.Parent | None = None
        self._family: FamilyBound | None = None
        self._filter = b""
        self._launching = asyncio.Lock()
        self._spares: Spares | None = None
        self._warm: WarmExecutions | None = None
        self._uid = first_uid(
            options.first_uid, uids=options.max_open_workspaces + options.warm_sandboxes
        )
        self._places = Places(self._live_launcher, options.maximum, self._uid)

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

    def _compose_resident(self, workspace: str) -> inside.Launch | None:
        """A sandbox whose first process is a resident; None where this backend has none."""
        return None

    @property
    @abstractmethod
    def _isolation(self) -> str:
        """By what means a sandbox is isolated, for an operator."""

    @property
    def uses_control_groups(self) -> bool:
        return self._groups is not None

    @property
    def keeps_variables(self) -> bool:
        return self._warm is not None

    @property
    def warm_sandboxes(self) -> int:
        return self._warm.pool.ready if self._warm else 0

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
        if self._groups is not None:
            self._spares = Spares(self._groups, self._live_launcher, self._new_name)
            await self._spares.fill()
            if self._compose_resident("") is not None:
                self._warm = self._make_warm()
                await self._warm.pool.refill()
        self._begin()

    def _make_warm(self) -> WarmExecutions:
        options = self._options
        pool = WarmSandboxes(
            self._places.mount,
            lambda place: self._places.unmount(place, self._launcher),
            self._start_resident,
            count=options.warm_sandboxes,
        )
        return WarmExecutions(
            pool,
            self._start_resident,
            python=self.python,
            environment=inside.environment(options.python_folder, options.toolchains),
            limits=options.resident_limits,
            new_name=self._new_name,
        )

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
            probe = parent.group("probe", group_limits(Limits()))
        except OSError:
            parent.remove()
            return None
        probe.remove()
        return parent

    async def _let_go(self) -> None:
        if self._warm:
            await self._warm.close()
            # It may have begun to make ready what it needs next.
            await self._until_settled()
        if self._launcher:
            if self._spares:
                await self._spares.drop(self._launcher)
            await self._launcher.close()
        if self._groups:
            await asyncio.to_thread(self._groups.remove)

    async def _live_launcher(self) -> LauncherClient:
        """The launcher; where it was lost a new one, with all that was lost forgotten."""
        async with self._launching:
            if self._launcher is not None and self._launcher.alive:
                return self._launcher
            if self._launcher is not None:
                await self._launcher.close()
                await self._forget_all(self._launcher)
            folder = self._options.python_folder
            avoid = [*([folder] if folder else []), *self._options.toolchains]
            launcher = LauncherClient(avoid=avoid, sandlock=self.sandlock)
            await launcher.start()
            self._launcher = launcher
            return launcher

    async def _forget_all(self, launcher: LauncherClient) -> None:
        """What a launcher that was lost took along."""
        self._workspaces.forget_all()
        self._places.forget_all()
        if self._warm:
            await self._warm.forget_all()
        if self._spares:
            await self._spares.drop(launcher)

    async def mount(self) -> Place:
        await self._live_launcher()
        return (self._warm.pool.take() if self._warm else None) or await self._places.mount()

    async def unmount(self, place: Place) -> None:
        if self._warm:
            await self._warm.drop(place)
        await self._places.unmount(place, self._launcher)

    def _is_expendable(self, mounted: Mounted) -> bool:
        return self._warm is None or not self._warm.remembers(mounted.place)

    async def _execute(
        self,
        key: WorkspaceKey,
        spec: ExecutionSpec,
        stay: Stay | None = None,
        slot: Slot | None = None,
    ) -> Execution:
        try:
            await self._live_launcher()
            return await super()._execute(key, spec, stay, slot)
        except LauncherLostError as error:
            raise SandboxUnavailableError("the sandbox launcher died; try again") from error

    async def _launch(self, mounted: Mounted, spec: ExecutionSpec) -> LocalExecution:
        if spec.stateful:
            if self._warm is None:
                raise InterpreterUnavailableError(_NO_INTERPRETER)
            return await self._warm.interpret(mounted, spec)
        if self._warm:
            await self._warm.pool.given_back(mounted.place)
            if started := self._warm.launch(mounted, spec):
                return started
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

    async def _start_resident(self, place: Place) -> Resident:
        """Raises ResidentLostError, LauncherLostError, OSError."""
        launcher = await self._live_launcher()
        launch = self._compose_resident(launcher.mount_path(place.name))
        if launch is None or self._spares is None:
            raise ResidentLostError("this backend has none")
        name, group = await self._spares.take(Limits())
        self._in_background(self._spares.fill())
        resident = Resident(name, group, group_limits(Limits()), launcher)
        try:
            await resident.start(launch, place.uid)
        except BaseException:
            await resident.remove()
            raise
        return resident

    async def _make_meter(self, limits: Limits) -> tuple[str, cgroups.Group | None, Meter]:
        if self._spares is None:
            return self._new_name(), None, FamilyMeter(limits.memory_bytes)
        name, group = await self._spares.take(limits)
        self._in_background(self._spares.fill())
        return name, group, GroupMeter(group)

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
            streams = Streams.open(descriptors, spec)
            contents = [descriptors.memory(data) for data in launch.contents]
            request = StartRequest(
                name=execution.id,
                argv=launch.argv,
                uid=uid,
                descriptors=[*streams.theirs, *contents],
                limits=limits,
                late_limits=launch.late_limits,
                temporary=launch.temporary,
                enclosure=launch.enclosure,
                member_files=group.member_files if group else [],
            )
            streams.attach(descriptors, execution)
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
