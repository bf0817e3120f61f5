"""A worker process as the service sees it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentmesh_tool_runner.sandbox.model import Output, Stream
from agentmesh_tool_runner.tools.tool import ToolContext

from . import files
from .descent import MARK, kill_marked
from .frames import MAX_FRAME_BYTES, ProtocolError, packed, read_frame
from .taps import Bounded, Tap

logger = logging.getLogger(__name__)
_tools_log = logging.getLogger(f"{__name__}.tools")

_END_SECONDS: Final = 5.0
_numbers = itertools.count(1)

Frame = Mapping[str, Any]


@dataclass(frozen=True)
class WorkerRules:
    """How the workers of a package are started.

    `tools` are the values of its entry points by name, `environment` is all that they see of the
    environment of the service.
    """

    package: str
    tools: Mapping[str, str]
    folder: Path
    memory_bytes: int
    max_calls: int
    environment: Mapping[str, str] = field(default_factory=dict)
    import_seconds: float = 60.0


class WorkerDiedError(Exception):
    """The process ended, or says what no worker says; the text says how."""


@dataclass
class Worker:
    """One process, and what is known of it. It carries out one call at a time."""

    rules: WorkerRules
    process: asyncio.subprocess.Process
    mark: str
    taps: list[Tap]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    hello: Frame = field(default_factory=dict)
    calls: int = 0
    cpu_seconds: float = 0.0
    fit: bool = True

    @property
    def is_alive(self) -> bool:
        """False once it has ended."""
        return self.process.returncode is None

    async def call(self, context: ToolContext, tool: str, arguments_json: str) -> Frame:
        """The frame that ends the call.

        Raises WorkerDiedError, after which, as after any other error, the worker is to be killed.
        """
        self.calls += 1
        self.fit = False
        sink = Bounded(context.emit, context.limits.output_bytes)
        for tap in self.taps:
            tap.sink = sink
        try:
            await self._send(
                kind="call",
                call=self.calls,
                tool=tool,
                arguments=arguments_json,
                agent=context.agent,
                tool_call_id=context.tool_call_id,
                traceparent=context.traceparent,
                seconds=context.limits.wall_seconds,
            )
            done = await self._until_done(context, sink)
            for tap in self.taps:
                tap.drain()
        finally:
            for tap in self.taps:
                tap.sink = None
        spent = float(done.get("cpu_seconds", 0.0)) - self.cpu_seconds
        self.cpu_seconds += spent
        spare = int(done.get("peak_bytes", 0)) < self.rules.memory_bytes // 2
        self.fit = spare and not done.get("unfit") and self.calls < self.rules.max_calls
        return {**done, "cpu_seconds": max(0.0, spent)}

    async def _until_done(self, context: ToolContext, sink: Callable[[Output], None]) -> Frame:
        while True:
            frame = await self._next()
            if frame.get("call") != self.calls:
                continue
            match frame.get("kind"):
                case "done":
                    return frame
                case "file":
                    reply = await files.answer(context.opened, frame)
                    await self._send(kind="answer", number=frame["number"], **reply)
                case "progress":
                    text = f"{frame.get('text', '')}\n"
                    sink(Output(Stream.STDOUT, text.encode(errors="replace")))
                case "log":
                    level = int(frame.get("level", logging.INFO))
                    _tools_log.log(level, "%s: %s", self.rules.package, frame.get("text"))
                case other:
                    raise WorkerDiedError(f"it says {other!r}, which no worker says")

    async def _next(self) -> Frame:
        try:
            frame = await read_frame(self.reader)
        except ProtocolError as error:
            raise WorkerDiedError(f"it says {error}") from None
        if frame is None:
            raise WorkerDiedError(await self._how_it_ended())
        return frame

    async def _how_it_ended(self) -> str:
        try:
            async with asyncio.timeout(_END_SECONDS):
                code = await self.process.wait()
        except TimeoutError:
            return "its process closed the connection"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    async def _send(self, **frame: Any) -> None:
        try:
            self.writer.write(packed(frame))
            await self.writer.drain()
        except (ConnectionError, OSError):
            raise WorkerDiedError(await self._how_it_ended()) from None

    async def kill(self) -> None:
        """Leaves no process of it, wherever it went."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.writer.close()
        for tap in self.taps:
            tap.close()
        await asyncio.to_thread(kill_marked, self.mark.__eq__)
        await self.process.wait()


async def start_worker(rules: WorkerRules, mark_prefix: str) -> Worker:
    """Starts a process and waits until it has imported its package. Raises WorkerDiedError."""
    mark = f"{mark_prefix}{next(_numbers)}"
    ours, theirs = socket.socketpair()
    outputs = [os.pipe(), os.pipe()]
    given = {
        "package": rules.package,
        "tools": dict(rules.tools),
        "memory_bytes": rules.memory_bytes,
        "descriptor": theirs.fileno(),
        "parent": os.getpid(),
    }
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "agentmesh_tool_runner.tools.packages.inside"),
            json.dumps(given),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=outputs[0][1],
            stderr=outputs[1][1],
            pass_fds=(theirs.fileno(),),
            cwd=rules.folder,
            env=_environment(rules, mark),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        for reading, _ in outputs:
            os.close(reading)
        raise WorkerDiedError(f"no process can be started: {error}") from None
    finally:
        theirs.close()
        for _, writing in outputs:
            os.close(writing)
    reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_FRAME_BYTES)
    taps = [Tap(outputs[0][0], Stream.STDOUT), Tap(outputs[1][0], Stream.STDERR)]
    worker = Worker(rules, process, mark, taps, reader, writer)
    try:
        worker.hello = await _greeted(worker)
    except BaseException:
        await asyncio.shield(worker.kill())
        raise
    return worker


async def _greeted(worker: Worker) -> Frame:
    printed = bytearray()
    worker.taps[1].sink = lambda piece: printed.extend(piece.data[: 4000 - len(printed)])
    try:
        async with asyncio.timeout(worker.rules.import_seconds):
            hello = await worker._next()  # of this module
    except TimeoutError:
        seconds = worker.rules.import_seconds
        raise WorkerDiedError(f"its import took longer than {seconds:g} s") from None
    except WorkerDiedError as error:
        worker.taps[1].drain()
        raise WorkerDiedError(f"{error}: {printed.decode(errors='replace')[-2000:]}") from None
    finally:
        worker.taps[1].sink = None
    if hello.get("kind") != "hello":
        raise WorkerDiedError("it did not introduce itself")
    return hello


def _environment(rules: WorkerRules, mark: str) -> dict[str, str]:
    folder = str(rules.folder)
    own = {"HOME": folder, "TMPDIR": folder, "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}
    return {**own, **rules.environment, "PYTHONDONTWRITEBYTECODE": "1", MARK: mark}
