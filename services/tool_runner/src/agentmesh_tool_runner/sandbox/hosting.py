"""What backends do with open workspaces and running executions, wherever their sandboxes are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from abc import abstractmethod
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final, Generic, TypeVar

from meshkit.tasks import ended, stop

from .backend import Ahead, Execution, SandboxBackend, Workspace
from .execution import LocalExecution
from .model import ExecutionSpec, SandboxUnavailableError, Session, WorkspaceKey
from .mounted import Mounted, Place, Stay
from .options import LocalOptions
from .workspace_handle import WorkspaceHandle
from .workspaces import WorkspaceRules, Workspaces

_Running = TypeVar("_Running", bound=LocalExecution)
_PATIENCE_SECONDS: Final = 5.0


@dataclass
class Slot:
    """One that is held for an execution to come."""

    free: bool = True

    def take(self) -> bool:
        """True once: whoever takes it releases it."""
        was_free, self.free = self.free, False
        return was_free


@contextlib.asynccontextmanager
async def _reserved(slots: asyncio.Semaphore) -> AsyncIterator[Slot]:
    """A slot; what nobody has taken when the block ends is given back."""
    await slots.acquire()
    slot = Slot()
    try:
        yield slot
    finally:
        if slot.take():
            slots.release()


class HostingBackend(SandboxBackend, Generic[_Running]):
    """A backend without its sandboxes: one on top of it gives places and launches programs."""

    _losses: ClassVar[tuple[type[Exception], ...]] = (OSError, SandboxUnavailableError)
    """What may go wrong with sandboxes that nobody waits for."""

    def __init__(self, options: LocalOptions) -> None:
        self._maximum = options.maximum
        self._started = False
        self._numbers = itertools.count(1)
        self._running: dict[str, tuple[WorkspaceKey, _Running]] = {}
        self._slots = asyncio.Semaphore(options.max_executions)
        self._idle_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        rules = WorkspaceRules(
            bytes_each=options.maximum.workspace_bytes,
            max_open=options.max_open_workspaces,
            idle_seconds=options.workspace_idle_seconds,
            lifetime_seconds=options.workspace_lifetime_seconds,
        )
        self._workspaces = Workspaces(options.data_folder / "workspaces", self, rules)

    @abstractmethod
    async def mount(self) -> Place:
        """As `workspaces.Mounter` has it."""

    @abstractmethod
    async def unmount(self, place: Place) -> None:
        """As `workspaces.Mounter` has it."""

    @abstractmethod
    async def _launch(self, mounted: Mounted, spec: ExecutionSpec) -> _Running:
        """Starts a program in a sandbox of that workspace, its limits within the maximum."""

    def _released(self, mounted: Mounted) -> None:
        """Told that an execution of that workspace has ended and nothing of it is needed."""

    @abstractmethod
    async def _let_go(self) -> None:
        """Releases what the backend holds besides workspaces and executions."""

    @property
    def workspaces(self) -> Workspaces:
        return self._workspaces

    def _begin(self) -> None:
        """From now on there are workspaces."""
        self._started = True
        self._idle_task = asyncio.create_task(self._close_idle_workspaces())

    async def workspace(self, key: WorkspaceKey) -> Workspace:
        if not self._started:
            raise SandboxUnavailableError("the sandbox was not started")
        await self._workspaces.refresh(key)
        return WorkspaceHandle(key, self._workspaces, self._execute)

    @contextlib.asynccontextmanager
    async def ahead(self, key: WorkspaceKey) -> AsyncIterator[Ahead | None]:
        if not self._started or self._slots.locked():
            yield None
            return
        # First the slot, as for everybody: whoever has one may wait for the workspace, which
        # whoever acts ahead keeps, and so must not wait for a slot.
        async with (
            _reserved(self._slots) as slot,
            self._workspaces.ahead(key, self._is_expendable) as counts,
        ):
            start = partial(self._execute, slot=slot)
            workspace = WorkspaceHandle(key, self._workspaces, start)
            yield None if counts is None else Ahead(workspace, counts)

    def _is_expendable(self, mounted: Mounted) -> bool:
        """True if nothing but files would be lost with an open workspace."""
        return True

    def sessions(self, tenant: str) -> list[Session]:
        running = [owner for owner, _ in self._running.values()]
        return [
            replace(session, executions=running.count(session.key))
            for session in self._workspaces.sessions(tenant)
        ]

    async def close_session(self, key: WorkspaceKey, *, kill: bool = False) -> bool:
        if kill:
            await self._end_executions(key)
            await self._workspaces.unused(key, patience=_PATIENCE_SECONDS)
        return await self._workspaces.close_session(key)

    async def delete_workspace(self, key: WorkspaceKey) -> None:
        await self._end_executions(key)
        await self._workspaces.delete(key)

    async def close(self) -> None:
        await self._end_executions()
        await stop(self._idle_task)
        await self._until_settled()
        await self._workspaces.close_all(_PATIENCE_SECONDS)
        await self._until_settled()
        await self._let_go()

    async def _until_settled(self) -> None:
        while self._tasks:
            await ended(*self._tasks)
            await asyncio.sleep(0)

    async def _end_executions(self, key: WorkspaceKey | None = None) -> None:
        ending = [each for owner, each in self._running.values() if key is None or owner == key]
        for execution in ending:
            execution.cancel()
        for execution in ending:
            await execution.outcome()

    async def _close_idle_workspaces(self) -> None:
        while True:
            await asyncio.sleep(self._workspaces.check_seconds)
            with contextlib.suppress(*self._losses):
                await self._workspaces.close_idle()

    async def _execute(
        self,
        key: WorkspaceKey,
        spec: ExecutionSpec,
        stay: Stay | None = None,
        slot: Slot | None = None,
    ) -> Execution:
        limits = spec.limits.within(self._maximum)
        if limits is not spec.limits:
            spec = replace(spec, limits=limits)
        if slot is None or not slot.take():
            await self._slots.acquire()
        resources = contextlib.AsyncExitStack()
        resources.callback(self._slots.release)
        try:
            mounted = await resources.enter_async_context(self._workspaces.use(key))
            resources.callback(self._released, mounted)
            execution = await self._launch(mounted, spec)
        except BaseException:
            await resources.aclose()
            raise
        self._running[execution.id] = (key, execution)
        self._in_background(self._release_after(execution, resources, stay))
        return execution

    async def _release_after(
        self, execution: _Running, resources: contextlib.AsyncExitStack, stay: Stay | None
    ) -> None:
        await execution.outcome()
        key, _ = self._running.pop(execution.id)
        if stay is not None:
            self._workspaces.stay(key, stay)
        await resources.aclose()

    def _new_name(self) -> str:
        return f"execution-{next(self._numbers)}"

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
