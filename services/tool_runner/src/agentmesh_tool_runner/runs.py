"""Code that users run: in a conversation's workspace, or in a fresh one that is thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meshkit.tasks import ended

from .executions import ExecutionLog, ExecutionRegistry, UnknownExecutionError, follow
from .languages import Language, command_line
from .sandbox.backend import (
    ExecutionSpec,
    Limits,
    SandboxBackend,
    Workspace,
    WorkspaceFullError,
    WorkspaceKey,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodeRun:
    """What to run. `conversation_id` is empty for a fresh workspace."""

    tenant: str
    execution_id: str
    language: Language
    code: str
    args: Sequence[str]
    files: Mapping[str, bytes]
    stdin: bytes
    keep_stdin_open: bool
    environment: Mapping[str, str]
    limits: Limits
    conversation_id: str


class CodeRuns:
    """Starts runs and follows them to their end."""

    def __init__(self, backend: Callable[[], SandboxBackend]) -> None:
        self._backend = backend
        self._tasks: set[asyncio.Task[None]] = set()
        self.registry = ExecutionRegistry()

    @property
    def backend_name(self) -> str:
        """Name of the proved backend. Raises SandboxUnavailableError."""
        return self._backend().name

    async def start(self, run: CodeRun) -> ExecutionLog:
        """The log of the run; that of the same id if it was started before.

        Raises SandboxUnavailableError, UnsafePathError, WorkspaceFullError.
        """
        with contextlib.suppress(UnknownExecutionError):
            return self.registry.find(run.tenant, run.execution_id)
        backend = self._backend()
        log = self.registry.open(run.tenant, run.execution_id)
        fresh = not run.conversation_id
        # A conversation id never begins so, and no tenant can name another's.
        name = f"execution {run.execution_id}" if fresh else run.conversation_id
        key = WorkspaceKey(run.tenant, name)
        try:
            workspace = await backend.workspace(key)
            for path, content in run.files.items():
                await workspace.write_file(path, content)
            execution = await workspace.execute(_spec(run, backend.python))
        except BaseException:
            self.registry.discard(run.tenant, run.execution_id)
            raise
        log.execution = execution
        task = asyncio.create_task(self._follow(log, workspace, backend, fresh))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return log

    async def _follow(
        self, log: ExecutionLog, workspace: Workspace, backend: SandboxBackend, fresh: bool
    ) -> None:
        if log.execution is None:
            return
        await follow(log, log.execution)
        try:
            if fresh:
                await backend.delete_workspace(workspace.key)
            else:
                await workspace.save()
        except (WorkspaceFullError, OSError) as error:
            logger.warning("the files of %s could not be kept: %s", workspace.key, error)

    async def close(self) -> None:
        """Waits for the ends of all runs; the backend has killed them, or will."""
        await ended(*self._tasks)


def _spec(run: CodeRun, python: str) -> ExecutionSpec:
    argv, files = command_line(run.language, python=python, code=run.code, args=run.args)
    environment = {name: value for name, value in run.environment.items() if value}
    return ExecutionSpec(
        argv,
        stdin=run.stdin,
        keep_stdin_open=run.keep_stdin_open,
        files=files,
        environment=environment,
        limits=run.limits,
    )
