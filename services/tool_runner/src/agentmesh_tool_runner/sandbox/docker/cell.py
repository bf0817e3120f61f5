"""A container that runs the programs of one workspace, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from meshkit.tasks import ended

from agentmesh_tool_runner.sandbox.execution import LocalExecution, Measured, until_writable
from agentmesh_tool_runner.sandbox.launcher_client import Ended
from agentmesh_tool_runner.sandbox.model import MIB, ExecutionSpec, TerminalSize

from .container import Container
from .flags import Shape

_KILL_SECONDS: Final = 2.0
_IDLE_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 0.1
_IN_FLIGHT: Final = 256 * 1024
_STDIN_PIECE: Final = 64 * 1024
_LEFT_BEHIND: Final = 16 * MIB


class ContainerMeter:
    """What the agent last said of the running program."""

    def __init__(self, *, exact: bool) -> None:
        self.counts_refusals = exact
        self._measured = Measured()

    def told(self, usage: Mapping[str, float]) -> None:
        self._measured = Measured(
            cpu_seconds=float(usage["cpu"]),
            peak_memory_bytes=int(usage["peak"]) or None,
            memory_kills=int(usage["kills"]),
            refused_processes=int(usage["refusals"]),
        )

    def ran_out_of_memory(self) -> None:
        """The container died of it, agent and all."""
        self._measured = Measured(memory_kills=1)

    def measure(self) -> Measured:
        return self._measured

    def inner_started(self, pid: int) -> None:
        """Nothing to do: the agent measures."""

    def next_check(self, spec: ExecutionSpec, measured: Measured) -> float:
        return _CHECK_SECONDS

    async def release(self) -> None:
        """Nothing to do: the cell is reused or dropped by its backend."""


class State(enum.Enum):
    IDLE = "idle"
    RUNNING = "running"
    CLEANING = "cleaning"
    SPENT = "spent"
    """Not to be used again."""


class ContainerExecution(LocalExecution):
    """An execution whose pipes of this machine are fed from a container, and drained into it."""

    cell: Cell
    workspace = ""

    def send_signal(self, number: int) -> None:
        if not self.finished:
            self.cell.container.say({"do": "signal", "number": number})

    def resize(self, size: TerminalSize) -> None:
        if self._spec.terminal is None:
            raise ValueError("the execution has no terminal")
        if not self.finished:
            wanted = {"rows": size.rows, "columns": size.columns}
            self.cell.container.say({"do": "resize", **wanted})


class Cell:
    """Runs a program, cleans up after it, and can be used again by the same workspace."""

    def __init__(
        self, container: Container, shape: Shape, *, told_full: Callable[[bool], None]
    ) -> None:
        self.container = container
        self.shape = shape
        self.state = State.IDLE
        self.taken = False
        self._told_full = told_full
        self._settled = asyncio.Event()
        self._execution: ContainerExecution | None = None
        self._meter: ContainerMeter | None = None
        self._ends: dict[int, int] = {}
        self._feed: asyncio.Task[None] | None = None
        self._allowance = asyncio.Condition()
        self._in_flight = 0
        self._deaf = False
        self._killed = asyncio.Event()
        self._late: asyncio.TimerHandle | None = None
        self._judging: asyncio.Task[None] | None = None
        container.on_frame = self._take
        container.on_end = self._lost

    def take(self) -> bool:
        """Reserves it for the next program; False if it is taken or of no more use."""
        if self.taken or self.state is State.SPENT:
            return False
        self.taken = True
        return True

    async def idle(self) -> bool:
        """True once it can run the next program; False if it never can."""
        if self.state is State.CLEANING:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._settled.wait()
        return self.state is State.IDLE and self.container.alive

    def start(
        self,
        execution: ContainerExecution,
        meter: ContainerMeter,
        spec: ExecutionSpec,
        *,
        environment: Mapping[str, str],
        limits: Sequence[tuple[int, int]],
        program_filter: bytes,
        uid: int | None,
    ) -> None:
        """Starts the program, as `uid` where the agent is another. Its pipes are made here."""
        self.state = State.RUNNING
        self._settled.clear()
        execution.cell = self
        self._execution, self._meter = execution, meter
        self._in_flight, self._deaf = 0, False
        self._killed.clear()
        stdout, self._ends[1] = _pipe()
        stderr, self._ends[2] = _pipe()
        stdin = None
        if spec.keep_stdin_open:
            source, stdin = _pipe()
            os.set_blocking(stdin, False)
            self._feed = asyncio.create_task(self._feed_program(source))
        execution.attach_pipes(stdout, stderr, stdin)
        header = {
            "do": "start",
            "argv": list(spec.argv),
            "environment": dict(environment),
            "limits": [list(each) for each in limits],
            "filter": program_filter.hex(),
            "uid": uid,
            "files": [[name, len(data)] for name, data in spec.files.items()],
            "keep_stdin": spec.keep_stdin_open,
            "terminal": spec.terminal and [spec.terminal.rows, spec.terminal.columns],
        }
        self.container.say(header, b"".join([*spec.files.values(), spec.stdin]))

    def kill(self) -> None:
        """Kills all of the program; the container with it if the agent does not."""
        self.container.say({"do": "kill"})
        self._killed.set()
        if self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(_KILL_SECONDS, self.container.destroy)

    async def close(self) -> None:
        """Kills and removes the container."""
        self.state = State.SPENT
        await self.container.close()
        await ended(self._judging)

    async def _take(self, header: Mapping[str, Any], payload: bytes) -> None:
        if "out" in header:
            await self._pass_on(int(header["out"]), payload)
        elif "took" in header:
            async with self._allowance:
                self._in_flight -= int(header["took"])
                self._allowance.notify_all()
        elif "deaf" in header:
            async with self._allowance:
                self._deaf = True
                self._allowance.notify_all()
        elif "ended" in header:
            self._told_full(bool(header["full"]))
            if self._meter is not None:
                self._meter.told(header["usage"])
            code = header["code"]
            self._finish(Ended(None if code is None else int(code), 0.0, 0))
        elif "usage" in header and self._meter is not None:
            self._meter.told(header["usage"])
        elif "idle" in header:
            self._settle(bool(header["idle"]) and header["held"] < _LEFT_BEHIND)

    def _settle(self, clean: bool) -> None:
        self.state = State.IDLE if clean and self.container.alive else State.SPENT
        self._settled.set()

    async def _pass_on(self, stream: int, data: bytes) -> None:
        """Waits while the execution's reader is behind: so is the program, in the end.

        Of a program that was killed nobody may have to read anything before its end is heard of.
        """
        end = self._ends.get(stream)
        view = memoryview(data)
        while view and end is not None:
            try:
                view = view[os.write(end, view) :]
            except BlockingIOError:
                if self._killed.is_set():
                    return
                await until_writable(end, self._killed)
            except BrokenPipeError:
                return

    async def _feed_program(self, source: int) -> None:
        """What the execution's writer gives goes to the program, a bounded part at a time."""
        os.set_blocking(source, False)
        try:
            while not self._deaf:
                data = await _read(source)
                async with self._allowance:
                    self._in_flight += len(data)
                    self.container.say({"do": "stdin", "close": not data}, data)
                    if not data:
                        return
                    await self._allowance.wait_for(
                        lambda: self._deaf or self._in_flight < _IN_FLIGHT
                    )
        finally:
            os.close(source)

    def _finish(self, ended: Ended) -> None:
        self.state = State.CLEANING
        if self._late is not None:
            self._late.cancel()
            self._late = None
        for end in self._ends.values():
            os.close(end)
        self._ends.clear()
        if self._feed is not None:
            self._feed.cancel()
            self._feed = None
        self.taken = False
        execution, self._execution = self._execution, None
        if execution is not None:
            execution.ended(ended)

    def _lost(self) -> None:
        """The container is gone, whether it was killed or died."""
        self._settle(clean=False)
        if self._execution is not None:
            self._judging = asyncio.create_task(self._judge_loss())

    async def _judge_loss(self) -> None:
        if self._meter is not None and await self.container.ran_out_of_memory():
            self._meter.ran_out_of_memory()
        self._finish(Ended(None, 0.0, 0))
        self.state = State.SPENT


def _pipe() -> tuple[int, int]:
    """Both ends stay with this process; the writing one never blocks."""
    source, end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(end, False)
    return source, end


async def _read(descriptor: int) -> bytes:
    """The next piece; empty at the end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        while True:
            try:
                return os.read(descriptor, _STDIN_PIECE)
            except BlockingIOError:
                ready.clear()
                await ready.wait()
    finally:
        loop.remove_reader(descriptor)
