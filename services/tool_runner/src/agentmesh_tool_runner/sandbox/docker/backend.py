"""The Docker backend: workspaces and programs in hardened containers of a Docker engine.

A workspace is a tmpfs volume of the engine and a container, its keeper, that holds it mounted and
does the file operations. Programs run in further containers on that volume, the cells: one program
at a time each, so that control group, pid namespace and bounds are the program's own; a cell is
used again by the same workspace once nothing of the last program is left in it, and never by
another.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import secrets
from collections import defaultdict, deque
from collections.abc import Coroutine, Mapping
from typing import Final

from agentmesh_tool_runner.sandbox import inside, seccomp
from agentmesh_tool_runner.sandbox.hosting import HostingBackend
from agentmesh_tool_runner.sandbox.model import (
    MIB,
    EndReason,
    ExecutionSpec,
    InterpreterUnavailableError,
    Limits,
    SandboxUnavailableError,
)
from agentmesh_tool_runner.sandbox.mounted import Mounted, Place

from .cell import Cell, ContainerExecution, ContainerMeter, State
from .container import Container, command
from .engine import Engine, Facts, this_process
from .flags import GVISOR, ContainerPlan, Shape, is_gvisor, workspace_volume
from .options import DockerOptions
from .profile import profile
from .reach import ContainerReach

_log: Final = logging.getLogger(__name__)
_IDLE_CELLS: Final = 2
# The kernel of gVisor has no core dumps, message queues and real-time priorities to bound.
_GVISOR_LIMITS: Final = frozenset(
    {resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC}
)
_MAPPED_UID: Final = 1000
_TERMINAL: Final = {"TERM": "xterm-256color"}

_NO_INTERPRETER: Final = "containers have no interpreter that keeps its variables"


class DockerBackend(HostingBackend[ContainerExecution]):
    """Runs programs in containers. One per service process; single event loop."""

    own_image = True

    def __init__(self, options: DockerOptions) -> None:
        super().__init__(options)
        self._options = options
        self._engine = Engine(options.engine)
        self._facts = Facts("", frozenset(), maps_users=False)
        self._owner = this_process()
        self._prefix = f"agentmesh-{secrets.token_hex(4)}"
        self._python = "/usr/bin/python3"
        self._exact = True
        self._profile, self._filter = "", b""
        self._keepers: dict[str, Container] = {}
        self._cells: defaultdict[str, list[Cell]] = defaultdict(list)
        self._uids: set[int] = set()
        self._spares: deque[Place] = deque()
        self._usual: Shape | None = None
        self._filling = False
        self._closing = False

    @property
    def warm_sandboxes(self) -> int:
        return len(self._spares)

    @property
    def name(self) -> str:
        return "docker"

    @property
    def python(self) -> str:
        """Path of the image's interpreter."""
        return self._python

    @property
    def runtime(self) -> str | None:
        """The engine's runtime in use; None for its default."""
        return self._options.runtime or (GVISOR if GVISOR in self._facts.runtimes else None)

    @property
    def means(self) -> Mapping[str, str]:
        group = "control group of the container"
        counted = group if self._exact else f"{group}, told by the program's last words"
        processes = "RLIMIT_NPROC of gVisor's kernel" if is_gvisor(self.runtime) else counted
        own = "a uid mapped by the engine" if self._facts.maps_users else "a uid of its own"
        return {
            "isolation": f"container of {self._options.image} by {self.runtime or 'runc'}, "
            f"read-only root; no capabilities; {own}",
            "network": "a network namespace without interfaces",
            "system_calls": "seccomp allow list, as the engine's profile and by each program",
            "memory_limit": counted,
            "process_limit": processes,
            "cpu_limit": f"{group}, and a watchdog",
            "disk_limit": "tmpfs of fixed size",
            "output_limit": "counted by the service",
            "wall_limit": "killed with its pid namespace, else with its container",
        }

    async def start(self) -> None:
        self._facts = await self._engine.connect()
        try:
            self._profile = profile(self._facts.machine)
            self._filter = seccomp.build_filter(machine=self._facts.machine)
        except seccomp.UnsupportedMachineError as error:
            raise SandboxUnavailableError(str(error)) from error
        if self._options.runtime not in (None, *self._facts.runtimes):
            raise SandboxUnavailableError(
                f"the engine has no runtime {self._options.runtime}; it has "
                + ", ".join(sorted(self._facts.runtimes))
            )
        await self._engine.sweep()
        await self._engine.require_image(self._options.image)
        self._begin()

    async def close(self) -> None:
        self._closing = True
        await super().close()

    async def mount(self) -> Place:
        """One that was made ahead, else a new one."""
        place = self._spares.popleft() if self._spares else None
        self._refill()
        return place or await self._make_place()

    def _refill(self) -> None:
        """Makes places ahead of need, each with a cell of the shape that was wanted last."""
        wanted = self._options.warm_sandboxes if self._usual else 0
        if not self._closing and not self._filling and len(self._spares) < wanted:
            self._filling = True
            self._in_background(self._make_spare())

    async def _make_spare(self) -> None:
        place: Place | None = None
        try:
            place = await self._make_place()
            if self._usual is not None:
                await self._new_cell(place, self._usual)
        except SandboxUnavailableError as error:
            _log.warning("no sandbox could be made ahead of need: %s", error)
            if place is not None:
                await self.unmount(place)
            return
        finally:
            self._filling = False
        if place.name in self._keepers:
            self._spares.append(place)
            self._refill()

    async def _make_place(self) -> Place:
        name, uid = f"{self._prefix}-workspace-{next(self._numbers)}", self._take_uid()
        maximum = self._options.maximum
        volume = workspace_volume(size=maximum.workspace_bytes, files=maximum.workspace_files)
        try:
            await self._engine.create_volume(name, volume, self._owner)
            keeper = await self._container("keeper", name, uid, self._keeper_shape())
        except BaseException:
            await self._engine.remove_volume(name)
            self._uids.discard(uid)
            raise
        self._python, self._exact = keeper.hello["python"], keeper.hello["exact"]
        self._keepers[name] = keeper
        place = Place(name, ContainerReach(keeper, maximum.workspace_bytes), uid)
        keeper.on_end = lambda: self._keeper_lost(place)
        return place

    def _keeper_lost(self, place: Place) -> None:
        """With it go the files since the last save; what runs on them must not go on."""
        if place in self._spares:
            self._spares.remove(place)
        self._workspaces.forget(place)
        for execution in [each for _, each in self._running.values()]:
            if execution.workspace == place.name:
                execution.cancel(EndReason.SANDBOX_LOST, "the container of the workspace died")
        self._in_background(self.unmount(place))

    def _keeper_shape(self) -> Shape:
        """Room for an archive of the whole workspace and what comes in at once, beside the files
        that it lays itself.
        """
        each = self._options.maximum.workspace_bytes
        staging = each + 64 * MIB
        return Shape(4 * each + staging, 8, 1.0, staging, 64)

    async def unmount(self, place: Place) -> None:
        keeper = self._keepers.pop(place.name, None)
        cells = self._cells.pop(place.name, [])
        if keeper is not None:
            keeper.on_end = None
        closing = [cell.close() for cell in cells] + ([keeper.close()] if keeper else [])
        self._in_background(self._clear(place, closing))

    async def _clear(self, place: Place, closing: list[Coroutine[None, None, None]]) -> None:
        await asyncio.gather(*closing, return_exceptions=True)
        await self._engine.remove_volume(place.name)
        if place.uid is not None:
            self._uids.discard(place.uid)

    def _take_uid(self) -> int:
        first = _MAPPED_UID if self._facts.maps_users else self._options.first_uid
        uid = next(uid for uid in itertools.count(first) if uid not in self._uids)
        self._uids.add(uid)
        return uid

    async def _container(self, role: str, volume: str, uid: int, shape: Shape) -> Container:
        plan = ContainerPlan(
            name=f"{self._prefix}-{role}-{next(self._numbers)}",
            role=role,
            image=self._options.image,
            command=command(role),
            owner=self._owner,
            volume=volume,
            uid=uid,
            shape=shape,
            seccomp=self._profile,
            # A keeper runs nobody's code, and needs openat2, which gVisor has not.
            runtime=self.runtime if role == "cell" else None,
        )
        return await Container.start(self._engine, plan)

    async def _launch(self, mounted: Mounted, spec: ExecutionSpec) -> ContainerExecution:
        if spec.stateful:
            raise InterpreterUnavailableError(_NO_INTERPRETER)
        self._usual = Shape.of(spec.limits)
        cell = await self._cell(mounted, self._usual)
        return self._start(mounted, cell, spec)

    def _released(self, mounted: Mounted) -> None:
        """Keeps few cells for the next programs of a workspace, the newest, and none spent."""
        self._refill()
        free = [cell for cell in self._cells.get(mounted.name, []) if not cell.taken]
        spent = [cell for cell in free if cell.state is State.SPENT]
        fit = [cell for cell in free if cell.state is not State.SPENT]
        for cell in spent + fit[: max(0, len(fit) - _IDLE_CELLS)]:
            self._discard(mounted.name, cell)

    async def _let_go(self) -> None:
        while self._spares:
            await self.unmount(self._spares.popleft())
        await self._until_settled()
        self._engine.close()

    async def _cell(self, mounted: Mounted, shape: Shape) -> Cell:
        """One of that shape that is free, else a new one; taken until it is given back."""
        for cell in list(self._cells[mounted.name]):
            if cell.shape == shape and cell.take():
                idle = False
                try:
                    idle = await cell.idle()
                finally:
                    # Also of one whose caller left meanwhile: it is not worth to find out more.
                    if not idle:
                        self._discard(mounted.name, cell)
                if idle:
                    return cell
        cell = await self._new_cell(mounted.place, shape)
        cell.take()
        return cell

    async def _new_cell(self, place: Place, shape: Shape) -> Cell:
        if place.uid is None:
            raise SandboxUnavailableError("the workspace has no uid")
        container = await self._container("cell", place.name, place.uid, shape)
        files = place.files
        told_full = files.told_full if isinstance(files, ContainerReach) else lambda _: None
        if not container.alive:
            raise SandboxUnavailableError("the container died as it had started; try again")
        cell = Cell(container, shape, told_full=told_full)
        if place.name not in self._keepers:
            self._in_background(cell.close())
            raise SandboxUnavailableError("the workspace went meanwhile; try again")
        self._cells[place.name].append(cell)
        return cell

    def _discard(self, name: str, cell: Cell) -> None:
        if cell in self._cells.get(name, []):
            self._cells[name].remove(cell)
        self._in_background(cell.close())

    def _start(self, mounted: Mounted, cell: Cell, spec: ExecutionSpec) -> ContainerExecution:
        meter = ContainerMeter(exact=cell.container.hello["exact"])
        execution = ContainerExecution(
            self._new_name(),
            spec,
            meter,
            kill=cell.kill,
            disk_is_full=lambda: mounted.files.full,
        )
        execution.workspace = mounted.name
        environment = inside.environment(None) | (_TERMINAL if spec.terminal else {})
        cell.start(
            execution,
            meter,
            spec,
            environment=environment | dict(spec.environment),
            limits=self._process_limits(spec.limits),
            program_filter=self._filter,
            uid=mounted.uid if is_gvisor(self.runtime) else None,
        )
        return execution

    def _process_limits(self, limits: Limits) -> list[tuple[int, int]]:
        """Of each process; those of its uid together where no control group counts them."""
        found = inside.process_limits(limits, address_space=None)
        if not is_gvisor(self.runtime):
            return found
        found.append((resource.RLIMIT_NPROC, limits.processes))
        return [each for each in found if each[0] in _GVISOR_LIMITS]
