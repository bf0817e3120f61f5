"""Starts programs: at once, or as soon as they are compiled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from agentmesh_tool_runner.sandbox.backend import Execution, SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.model import (
    INPUT_DIRECTORY,
    MIB,
    EndReason,
    ExecutionSpec,
    Limits,
    Outcome,
    Stream,
    WorkspaceKey,
)

from . import commands
from .compile_cache import CompileCache, Compiled, CompileKey
from .compiled_execution import CompiledExecution, NotCompiledError, Phase
from .program import Program
from .toolchains import Found, Toolchains
from .wheels import with_wheels

MAX_ARTIFACT_BYTES: Final = 64 * MIB
# Go from 1.20 on brings its library as source, and compiles what a program uses of it.
BUILD_BYTES: Final = 256 * MIB
_MAX_SAID_BYTES: Final = 256 * 1024
_MAX_SOURCE_BYTES: Final = 16 * MIB


@dataclass(frozen=True)
class _Plan:
    """A program that needs a compiler, and what there is for it."""

    program: Program
    workspace: Workspace
    tools: Mapping[str, Found]


class Programs:
    """Starts programs of every language that is installed."""

    def __init__(
        self,
        backend: Callable[[], SandboxBackend],
        toolchains: Toolchains,
        cache: CompileCache,
        *,
        compile_limits: Limits,
    ) -> None:
        """Compilers get `compile_limits`, and of wall and CPU time what the program has."""
        self._backend = backend
        self._toolchains = toolchains
        self._cache = cache
        self._limits = compile_limits

    async def start(self, workspace: Workspace, program: Program) -> Execution:
        """Starts it in the workspace.

        Raises LanguageNotInstalledError, SandboxUnavailableError, InterpreterUnavailableError; and
        of a `path` UnsafePathError, FileNotFoundError, IsADirectoryError.
        """
        if program.path is not None and not commands.is_source_path(program.path):
            raise UnsafePathError(f"{program.path!r} is no path within the workspace")
        tools = await self._toolchains.tools_of(program.language)
        code = program.code
        if code is None:
            # The program is read where it lies, with what lies beside it; here for its name alone.
            # An interpreter that runs already has to be given it.
            most = _MAX_SOURCE_BYTES if program.stateful else MIB
            code = (await _read(workspace, program.path or "", most)).decode(errors="replace")
        if program.stateful:
            source = commands.Command([], {"main.py": code.encode()})
            return await workspace.execute(_spec(program, source))
        command = commands.interpreted(program, tools, self._backend().python)
        if command is not None:
            spec = with_wheels(_spec(program, command), program.wheels, self._backend().python)
            return await workspace.execute(spec)
        plan = _Plan(program, workspace, tools)
        return CompiledExecution(
            f"program {id(plan):x}",
            lambda phase: self._compile(plan, code, phase),
            lambda compiled, used: self._run(plan, code, compiled, used),
            terminal=program.terminal,
        )

    async def _compile(self, plan: _Plan, code: str, phase: Phase) -> Compiled:
        """Raises NotCompiledError."""
        program = plan.program
        compilation = commands.compilation(program, plan.tools, self._backend().python)
        if program.code is None:
            return await self._compile_in(plan.workspace, program, compilation, phase)
        key = CompileKey(
            plan.workspace.key.tenant, compilation.compiler, program.code, program.files
        )
        kept = await asyncio.to_thread(self._cache.find, key)
        if kept is not None:
            phase.say(kept.said)
            return kept
        made = await self._compile_apart(plan, compilation, phase)
        await asyncio.to_thread(self._cache.keep, key, made)
        return made

    async def _compile_apart(
        self, plan: _Plan, compilation: commands.Compilation, phase: Phase
    ) -> Compiled:
        """In a workspace of its own that holds what the key names, and nothing else."""
        backend = self._backend()
        name = f"compile {id(phase):x} {time.monotonic_ns():x}"
        key = WorkspaceKey(plan.workspace.key.tenant, name, temporary=True)
        workspace = await backend.workspace(key)
        try:
            for path, content in plan.program.files.items():
                await workspace.write_file(path, content)
            return await self._compile_in(workspace, plan.program, compilation, phase)
        finally:
            await asyncio.shield(backend.delete_workspace(key))

    async def _compile_in(
        self,
        workspace: Workspace,
        program: Program,
        compilation: commands.Compilation,
        phase: Phase,
    ) -> Compiled:
        files = commands.COMPILING_FILES | {"compile.sh": compilation.script.encode()}
        if program.code is not None:
            files = files | {compilation.source_name: program.code.encode()}
        limits = replace(
            self._limits,
            wall_seconds=program.limits.wall_seconds,
            cpu_seconds=program.limits.cpu_seconds,
            output_bytes=MAX_ARTIFACT_BYTES,
            temporary_bytes=BUILD_BYTES,
        )
        argv = ["/bin/sh", f"{INPUT_DIRECTORY}/compile.sh"]
        execution = await workspace.execute(ExecutionSpec(argv, files=files, limits=limits))
        phase.begun(execution)
        artifact, said = bytearray(), bytearray()
        async for piece in execution.output():
            if piece.stream is Stream.STDOUT:
                artifact += piece.data
            elif len(said) < _MAX_SAID_BYTES:
                said += piece.data
                phase.say(piece.data)
        outcome = await execution.outcome()
        phase.ended(outcome)
        if not outcome.succeeded:
            raise NotCompiledError(_judged(outcome))
        return Compiled(bytes(artifact), bytes(said))

    async def _run(self, plan: _Plan, code: str, compiled: Compiled, used: Phase) -> Execution:
        program = plan.program
        limits = replace(
            program.limits,
            wall_seconds=max(0.001, program.limits.wall_seconds - used.wall_seconds),
            cpu_seconds=max(0.001, program.limits.cpu_seconds - used.cpu_seconds),
        )
        command = commands.compiled(program, plan.tools, compiled.artifact, code, limits)
        spec = _spec(program, command)
        return await plan.workspace.execute(
            replace(spec, limits=limits, terminal=used.terminal or spec.terminal)
        )


async def _read(workspace: Workspace, path: str, most: int) -> bytes:
    """The beginning of a file that needs no more than that, else all of it.

    Raises UnsafePathError of one that is larger than an interpreter takes.
    """
    data = bytearray()
    while piece := await workspace.read_file(path, offset=len(data), limit=MIB):
        data += piece
        if most == MIB:
            break
        if len(data) > most:
            raise UnsafePathError(f"{path!r} is longer than {most // MIB} MiB")
    return bytes(data)


def _judged(outcome: Outcome) -> Outcome:
    """A compiler that fails by itself refuses the program; a limit is a limit here too."""
    # What it wrote to standard output was never anybody's to read.
    outcome = replace(outcome, usage=replace(outcome.usage, stdout_bytes=0))
    if outcome.reason in (EndReason.EXITED, EndReason.SIGNALED):
        return replace(outcome, reason=EndReason.COMPILE_ERROR, output_truncated=False)
    detail = f"while it was compiled{': ' if outcome.detail else ''}{outcome.detail}"
    return replace(outcome, detail=detail, output_truncated=False)


def _spec(program: Program, command: commands.Command) -> ExecutionSpec:
    return ExecutionSpec(
        command.argv,
        stdin=program.stdin,
        keep_stdin_open=program.keep_stdin_open,
        files=command.files,
        environment=program.environment,
        limits=program.limits,
        terminal=program.terminal,
        stateful=program.stateful,
    )
