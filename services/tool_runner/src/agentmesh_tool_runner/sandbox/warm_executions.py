"""Executions in sandboxes that are there: programs that residents fork, and interpreters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping

from meshkit.tasks import ended

from . import terminal
from .descriptors import Descriptors, Streams
from .execution import LocalExecution
from .interpreter import Interpreter
from .launcher_client import LauncherLostError
from .meters import ResidentMeter
from .model import ExecutionSpec, InterpreterUnavailableError, Limits
from .mounted import Mounted, Place
from .resident_client import Resident, ResidentLostError, plan
from .spares import group_limits
from .warm import WarmSandboxes

# What a program that an interpreter started still holds is not waited for.
_DRAIN_SECONDS = 0.2
# One that died since it was looked at is not the fault of what is to run next.
_TRIES = 4


class WarmExecutions:
    """Starts executions in the residents of a pool, and keeps an interpreter for a place."""

    def __init__(
        self,
        pool: WarmSandboxes,
        start: Callable[[Place], Awaitable[Resident]],
        *,
        python: str,
        environment: Mapping[str, str],
        limits: Limits,
        new_name: Callable[[], str],
    ) -> None:
        self.pool = pool
        self._start = start
        self._python = python
        self._environment = environment
        self._limits = limits
        self._new_name = new_name
        self._interpreters: dict[str, Interpreter] = {}
        self._making = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def launch(self, mounted: Mounted, spec: ExecutionSpec) -> LocalExecution | None:
        """Starts a program in the place's resident; None where none is free that fits."""
        place = mounted.place
        wanted, there = spec.limits, self._limits
        if (wanted.temporary_bytes, wanted.workspace_files) != (
            there.temporary_bytes,
            there.workspace_files,
        ):
            # Temporary folders have their sizes before a program is known.
            return None
        resident = self.pool.claim(place)
        if resident is None:
            return None
        told = plan(terminal.within(spec, self._python), self._environment, self._python)
        try:
            with Descriptors() as descriptors:
                streams = Streams.open(descriptors, spec)
                execution = self._execution(
                    mounted, spec, resident, lambda: self.pool.give_back(place, resident)
                )
                resident.run([*streams.theirs, descriptors.memory(told)], execution.ended)
                streams.attach(descriptors, execution)
        except (ResidentLostError, OSError):
            resident.lost = True
            self._in_background(self.pool.give_back(place, resident))
            return None
        execution.inner_started(resident.inner)
        return execution

    def remembers(self, place: Place) -> bool:
        """True if an interpreter of that place has variables."""
        interpreter = self._interpreters.get(place.name)
        return interpreter is not None and interpreter.alive

    async def interpret(self, mounted: Mounted, spec: ExecutionSpec) -> LocalExecution:
        """Runs the only file of `spec` in the place's interpreter; starts one where there is none.

        Raises InterpreterUnavailableError, LauncherLostError.
        """
        for _ in range(_TRIES):
            interpreter = await self._interpreter(mounted.place)
            await interpreter.turn.acquire()
            try:
                if interpreter.alive:
                    return self._interpret(interpreter, mounted, spec)
            except ResidentLostError:
                interpreter.resident.kill()
            except BaseException:
                interpreter.turn.release()
                raise
            interpreter.turn.release()
        raise InterpreterUnavailableError("it died whenever it was to run something")

    def _interpret(
        self, interpreter: Interpreter, mounted: Mounted, spec: ExecutionSpec
    ) -> LocalExecution:
        resident = interpreter.resident

        async def release() -> None:
            interpreter.turn.release()

        [source] = spec.files.values()
        with Descriptors() as descriptors:
            streams = Streams.open(descriptors, spec)
            execution = self._execution(mounted, spec, resident, release)
            execution.fresh_interpreter = not interpreter.used
            execution.drain_seconds = _DRAIN_SECONDS
            interpreter.run(streams.theirs, source, spec.environment, execution.ended)
            streams.attach(descriptors, execution)
        execution.inner_started(resident.inner)
        return execution

    def _execution(
        self,
        mounted: Mounted,
        spec: ExecutionSpec,
        resident: Resident,
        release: Callable[[], Awaitable[None]],
    ) -> LocalExecution:
        """Raises ResidentLostError."""
        before = resident.begin(group_limits(spec.limits))
        return LocalExecution(
            self._new_name(),
            spec,
            ResidentMeter(resident.group, before, release),
            kill=resident.kill,
            disk_is_full=lambda: mounted.files.full,
        )

    async def _interpreter(self, place: Place) -> Interpreter:
        async with self._making:
            known = self._interpreters.get(place.name)
            if known is not None and known.alive:
                return known
            if known is not None:
                del self._interpreters[place.name]
                self._in_background(self._remove(known))
            await self.pool.given_back(place)
            try:
                resident = self.pool.take_resident(place) or await self._start(place)
                interpreter = Interpreter(resident)
                wanted = ExecutionSpec([self._python], limits=self._limits)
                interpreter.start(plan(wanted, self._environment, self._python, "interpreter"))
            except (ResidentLostError, OSError) as error:
                raise InterpreterUnavailableError(str(error)) from error
            self._interpreters[place.name] = interpreter
            return interpreter

    async def drop(self, place: Place) -> None:
        """Ends what a place that is given up has."""
        interpreter = self._interpreters.pop(place.name, None)
        if interpreter is not None:
            await self._remove(interpreter)
        await self.pool.drop(place)

    async def forget_all(self) -> None:
        """The launcher is gone, and every sandbox with it."""
        await self._remove_interpreters()
        await self.pool.forget_all()

    async def close(self) -> None:
        """Ends everything."""
        await self._remove_interpreters()
        await ended(*self._tasks)
        await self.pool.close()

    async def _remove_interpreters(self) -> None:
        gone, self._interpreters = list(self._interpreters.values()), {}
        for interpreter in gone:
            await self._remove(interpreter)

    async def _remove(self, interpreter: Interpreter) -> None:
        with contextlib.suppress(OSError, LauncherLostError):
            await interpreter.remove()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
