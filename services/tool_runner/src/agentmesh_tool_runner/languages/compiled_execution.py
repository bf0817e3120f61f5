"""An execution of two parts, a compiler and the program that it made, which callers see as one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

from agentmesh_tool_runner.sandbox.backend import Execution
from agentmesh_tool_runner.sandbox.model import (
    EndReason,
    Outcome,
    Output,
    ResourceUsage,
    SandboxUnavailableError,
    Stream,
    TerminalSize,
)

from .compile_cache import Compiled


class NotCompiledError(Exception):
    """The compiler did not make a program; `outcome` is how that ended."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason.value)
        self.outcome = outcome


@dataclass
class Phase:
    """The compilation, as it tells of itself."""

    begun: Callable[[Execution | None], None]
    say: Callable[[bytes], None]
    terminal: TerminalSize | None = None
    usage: ResourceUsage = field(default_factory=ResourceUsage)
    _started_at: float = field(default_factory=time.monotonic)

    def ended(self, outcome: Outcome) -> None:
        """Takes what it used."""
        self.usage = outcome.usage
        self.begun(None)

    @property
    def wall_seconds(self) -> float:
        """Since it was wanted."""
        return time.monotonic() - self._started_at

    @property
    def cpu_seconds(self) -> float:
        """What the compiler used."""
        return self.usage.cpu_seconds


class CompiledExecution(Execution):
    """Compiles, then runs. Input waits for the program; signals and the end reach what runs."""

    fresh_interpreter: bool | None = None

    def __init__(
        self,
        name: str,
        compile_it: Callable[[Phase], Awaitable[Compiled]],
        run: Callable[[Compiled, Phase], Awaitable[Execution]],
        *,
        terminal: TerminalSize | None = None,
    ) -> None:
        self._name = name
        self._wants_terminal = terminal is not None
        self._phase = Phase(self._begun, self._say)
        self._current: Execution | None = None
        self._said: deque[bytes] = deque()
        self._said_bytes = 0
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._program: asyncio.Future[Execution | None] = loop.create_future()
        self._outcome: asyncio.Future[Outcome] = loop.create_future()
        self._stopped: tuple[EndReason, str] | None = None
        self._task = loop.create_task(self._carry_out(compile_it, run))
        self._task.add_done_callback(self._settle)

    @property
    def id(self) -> str:
        return self._name

    @property
    def finished(self) -> bool:
        return self._outcome.done()

    async def _carry_out(
        self,
        compile_it: Callable[[Phase], Awaitable[Compiled]],
        run: Callable[[Compiled, Phase], Awaitable[Execution]],
    ) -> None:
        try:
            compiled = await compile_it(self._phase)
            program = await run(compiled, self._phase)
        except NotCompiledError as error:
            outcome = error.outcome
        except SandboxUnavailableError as error:
            outcome = Outcome(EndReason.SANDBOX_LOST, detail=str(error))
        except Exception as error:
            outcome = Outcome(EndReason.SANDBOX_LOST, detail=f"{type(error).__name__}: {error}")
        else:
            self._begun(program)
            self._program.set_result(program)
            self._changed.set()
            outcome = self._with_compilation(await program.outcome())
        self._end(outcome)

    def _settle(self, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step has no other way to say so."""
        reason, detail = self._stopped or (EndReason.CANCELLED, "")
        self._end(Outcome(reason, detail=detail))

    def _end(self, outcome: Outcome) -> None:
        if not self._program.done():
            self._program.set_result(None)
        if not self._outcome.done():
            self._outcome.set_result(outcome)
        self._changed.set()

    def _with_compilation(self, outcome: Outcome) -> Outcome:
        first, second = self._phase.usage, outcome.usage
        usage = replace(
            second,
            wall_seconds=first.wall_seconds + second.wall_seconds,
            cpu_seconds=first.cpu_seconds + second.cpu_seconds,
            peak_memory_bytes=max(first.peak_memory_bytes, second.peak_memory_bytes),
            stderr_bytes=self._said_bytes + second.stderr_bytes,
        )
        return replace(outcome, usage=usage)

    def _begun(self, execution: Execution | None) -> None:
        self._current = execution
        if self._stopped is not None and execution is not None:
            execution.cancel(*self._stopped)

    def _say(self, data: bytes) -> None:
        if data:
            self._said_bytes += len(data)
            self._said.append(data)
            self._changed.set()

    async def output(self) -> AsyncIterator[Output]:
        while True:
            self._changed.clear()
            while self._said:
                yield Output(Stream.STDERR, self._said.popleft())
            if self._program.done():
                break
            await self._changed.wait()
        program = self._program.result()
        if program is not None:
            async for piece in program.output():
                yield piece

    async def outcome(self) -> Outcome:
        return await asyncio.shield(self._outcome)

    async def write_stdin(self, data: bytes, *, close: bool = False) -> None:
        program = await asyncio.shield(self._program)
        if program is None:
            raise BrokenPipeError("the program was not started")
        await program.write_stdin(data, close=close)

    def send_signal(self, number: int) -> None:
        if self._current is not None:
            self._current.send_signal(number)

    def resize(self, size: TerminalSize) -> None:
        if not self._wants_terminal:
            raise ValueError("the execution has no terminal")
        self._phase.terminal = size
        program = self._program.result() if self._program.done() else None
        if program is not None:
            program.resize(size)

    def cancel(self, reason: EndReason = EndReason.CANCELLED, detail: str = "") -> None:
        if self._stopped is not None or self._outcome.done():
            return
        self._stopped = (reason, detail)
        if self._current is None:
            self._task.cancel()
        else:
            self._current.cancel(reason, detail)
