"""Code that users run: in a conversation's workspace, or in a fresh one that is thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from meshkit.tasks import ended

from .executions import (
    BufferBounds,
    ExecutionIdInUseError,
    ExecutionLog,
    ExecutionRegistry,
    UnknownExecutionError,
    follow,
)
from .languages import Program, Programs
from .packages import Packages, PackageWish
from .sandbox.backend import Ahead, Execution, SandboxBackend, Workspace
from .sandbox.model import EndReason, Outcome, WorkspaceFullError, WorkspaceKey
from .sandbox.mounted import Stay

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodeRun:
    """What to run. `conversation_id` is empty for a fresh workspace.

    The program's files are written to the workspace before it starts.
    """

    tenant: str
    execution_id: str
    program: Program
    conversation_id: str
    traceparent: str = ""
    """Added to the program's environment; no part of what makes two runs the same."""
    packages: PackageWish = field(default_factory=PackageWish)

    @property
    def fingerprint(self) -> bytes:
        """The same for runs of the same program in the same way."""
        what = repr((self.program, self.conversation_id, self.packages))
        return hashlib.sha256(what.encode()).digest()


@dataclass(frozen=True)
class _Begun:
    """A program that was started, and what keeps its workspace open until its files are saved."""

    workspace: Workspace
    execution: Execution
    stay: Stay

    async def kept(self, outcome: Outcome) -> Outcome:
        """The outcome once its files are saved, which then keeps nothing open."""
        try:
            return await _kept(self.workspace, outcome)
        finally:
            self.stay.close()


class CodeRuns:
    """Starts runs and follows them to their end."""

    def __init__(
        self,
        backend: Callable[[], SandboxBackend],
        programs: Programs,
        packages: Packages,
        bounds: BufferBounds | None = None,
    ) -> None:
        self._backend = backend
        self._programs = programs
        self._packages = packages
        self._tasks: set[asyncio.Task[None]] = set()
        self.registry = ExecutionRegistry(bounds)

    @property
    def backend_name(self) -> str:
        """Name of the proved backend. Raises SandboxUnavailableError."""
        return self._backend().name

    async def start(self, run: CodeRun) -> ExecutionLog:
        """The log of the run; that of the same id if it was started before.

        Raises SandboxUnavailableError, UnsafePathError, WorkspaceFullError, what `Programs.start`
        and `Packages.fetch` raise, and ExecutionIdInUseError of another run under the same id.
        """
        fingerprint = run.fingerprint
        with contextlib.suppress(UnknownExecutionError):
            log = self.registry.find(run.tenant, run.execution_id)
            if log.fingerprint != fingerprint:
                raise ExecutionIdInUseError(run.execution_id)
            return log
        backend = self._backend()
        log = self.registry.open(run.tenant, run.execution_id, fingerprint)
        fresh = not run.conversation_id
        name = f"execution {run.execution_id}" if fresh else run.conversation_id
        key = WorkspaceKey(run.tenant, name, temporary=fresh)
        try:
            program = _traced(run)
            if run.packages.requirements:
                program = replace(program, wheels=await self._packages.fetch(run.packages))
            begun = await self._begin(backend, key, program)
        except BaseException as error:
            self.registry.discard(run.tenant, run.execution_id)
            log.fail(error)
            if fresh:
                await asyncio.shield(backend.delete_workspace(key))
            raise
        log.execution = begun.execution
        task = asyncio.create_task(self._follow(log, begun, backend, fresh))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return log

    async def _begin(self, backend: SandboxBackend, key: WorkspaceKey, program: Program) -> _Begun:
        """Starts the program, at once if it can be undone in case the files are not the newest."""
        if not program.stateful:
            async with backend.ahead(key) as ahead:
                if ahead is not None:
                    begun = await self._begin_ahead(ahead, program)
                    if begun is not None:
                        return begun
        return await self._start(await backend.workspace(key), program)

    async def _begin_ahead(self, ahead: Ahead, program: Program) -> _Begun | None:
        """None, and nothing runs any more, if the files were not the newest."""
        begun: _Begun | None = None
        failure: Exception | None = None
        counts = False
        try:
            try:
                # The question is on its way first.
                await asyncio.sleep(0)
                begun = await self._start(ahead.workspace, program)
            except Exception as error:
                failure = error
            counts = await ahead.counts
        finally:
            if begun is not None and not counts:
                begun.execution.cancel()
                begun.stay.close()
                await asyncio.shield(begun.execution.outcome())
        if counts and failure is not None:
            raise failure
        return begun if counts else None

    async def _start(self, workspace: Workspace, program: Program) -> _Begun:
        for path, content in program.files.items():
            await workspace.write_file(path, content)
        stay = workspace.outlast()
        try:
            return _Begun(workspace, await self._programs.start(workspace, program), stay)
        except BaseException:
            stay.close()
            raise

    async def _follow(
        self, log: ExecutionLog, begun: _Begun, backend: SandboxBackend, fresh: bool
    ) -> None:
        try:
            if fresh:
                begun.stay.close()
            await follow(log, begun.execution, None if fresh else begun.kept)
        except Exception as error:
            # Or whoever reads would wait for ever.
            logger.exception("execution %s is lost", log.execution_id)
            begun.execution.cancel()
            log.fail(error)
        finally:
            begun.stay.close()
            if fresh:
                await backend.delete_workspace(begun.workspace.key)

    async def close(self) -> None:
        """Waits for the ends of all runs; the backend has killed them, or will."""
        await ended(*self._tasks)


async def _kept(workspace: Workspace, outcome: Outcome) -> Outcome:
    """Who is told that a program ended finds its files everywhere, or is told that they are not."""
    try:
        await workspace.save()
    except WorkspaceFullError as error:
        detail = f"the workspace was not changed: {error}"
        return replace(outcome, reason=EndReason.DISK_FULL, detail=detail)
    except Exception as error:
        # The end is told whatever the store says, or whoever waits for it would wait for ever.
        logger.warning("the files of %s could not be kept: %s", workspace.key, error)
        return replace(outcome, detail=f"its files could not be kept: {error}")
    return outcome


def _traced(run: CodeRun) -> Program:
    if not run.traceparent:
        return run.program
    environment = {"TRACEPARENT": run.traceparent, **run.program.environment}
    return replace(run.program, environment=environment)
