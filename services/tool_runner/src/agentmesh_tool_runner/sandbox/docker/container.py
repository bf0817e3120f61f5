"""A running container and the conversation with the agent in it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agentmesh_tool_runner.sandbox.model import SandboxUnavailableError

from . import agent, boot, codec
from .engine import Engine
from .flags import ContainerPlan
from .frames import Frames, frame

_HELLO_SECONDS: Final = 30.0
_OLDEST_PYTHON: Final = (3, 11)
_READ_BYTES: Final = 64 * 1024
_TAIL_BYTES: Final = 2048
_STREAM = struct.Struct(">BxxxI")
_STDOUT: Final = 1
_FOLDER: Final = Path(__file__).parent
_PACKAGE: Final = __name__.rpartition(".")[0]
_AGENT_MODULES: Final = ("agent", "become", "counters", "frames", "inside")
_OPERATIONS: Final = ("files",)
COMMAND: Final = ("python3", "-I", "-S", "-c")

OnFrame = Callable[[Mapping[str, Any], bytes], Awaitable[None]]


def command(role: str) -> tuple[str, ...]:
    """What the container runs: the image's Python with the text that takes in the agent."""
    return (*COMMAND, Path(boot.__file__).read_text(encoding="utf-8"), agent.__name__, role)


def modules(role: str) -> bytes:
    """What the booting agent reads first. Only a keeper gets the operations on workspaces."""
    above = _PACKAGE.rpartition(".")[0]
    files = {f"{_PACKAGE}.{name}": _FOLDER / f"{name}.py" for name in _AGENT_MODULES}
    files[f"{above}.kernel"] = _FOLDER.parent / "kernel.py"
    if role == "keeper":
        files |= {f"{above}.{file.stem}": file for file in _FOLDER.parent.glob("[!_]*.py")}
        for folder in _OPERATIONS:
            found = (_FOLDER.parent / folder).glob("[!_]*.py")
            files |= {f"{above}.{folder}.{file.stem}": file for file in found}
        files |= {f"{_PACKAGE}.{name}": _FOLDER / f"{name}.py" for name in ("codec", "staging")}
    text = json.dumps({name: file.read_text(encoding="utf-8") for name, file in files.items()})
    return len(text.encode()).to_bytes(8, "big") + text.encode()


class Container:
    """A container whose agent has said hello. Its end is told once, by `on_end`."""

    def __init__(self, engine: Engine, identity: str, connection: socket.socket) -> None:
        self.id = identity
        self._engine = engine
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self._frames = Frames()
        self._tail = b""
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[tuple[Mapping[str, Any], bytes]]] = {}
        self._hello: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._listening: asyncio.Task[None] | None = None
        self._destroying: asyncio.Task[None] | None = None
        self.on_frame: OnFrame | None = None
        self.on_end: Callable[[], None] | None = None
        self.alive = True

    @classmethod
    async def start(cls, engine: Engine, plan: ContainerPlan) -> Container:
        """Raises SandboxUnavailableError, leaving nothing behind."""
        identity, connection = await engine.run_attached(plan)
        container = cls(engine, identity, connection)
        try:
            await container._greet(plan)
        except BaseException:
            await container.close()
            raise
        return container

    @property
    def hello(self) -> Mapping[str, Any]:
        """What the agent said of its Python and its place."""
        return self._hello.result()

    @property
    def last_words(self) -> str:
        """The last line of the agent's own errors."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    async def _greet(self, plan: ContainerPlan) -> None:
        reader, self._writer = await asyncio.open_connection(
            sock=self._connection, limit=_READ_BYTES
        )
        self._listening = asyncio.create_task(self._listen(reader))
        self._writer.write(modules(plan.role))
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = await asyncio.shield(self._hello)
        except TimeoutError as error:
            raise SandboxUnavailableError("the agent in the container does not answer") from error
        version = tuple(hello["hello"][:2])
        if version < _OLDEST_PYTHON:
            raise SandboxUnavailableError(
                f"{plan.image} has Python {'.'.join(map(str, version))}; 3.11 is the oldest"
            )
        if not hello["first"]:
            raise SandboxUnavailableError("the engine puts a process before the agent")

    def say(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        """Sends a frame; does nothing once the container is gone."""
        if self._writer is not None and self.alive:
            self._writer.write(frame(dict(header), payload))

    async def call(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Has the agent run an operation on the workspace. Raises what it raises."""
        if not self.alive:
            raise SandboxUnavailableError("the container that keeps the workspace is gone")
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            header, payload = codec.request(operation, args, kwargs)
            self.say({"do": "call", "call": number, **header}, payload)
            return codec.result(*await answer)
        finally:
            self._answers.pop(number, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                kind, length = _STREAM.unpack(await reader.readexactly(_STREAM.size))
                data = await reader.readexactly(length)
                if kind != _STDOUT:
                    self._tail = (self._tail + data)[-_TAIL_BYTES:]
                    continue
                for header, payload in self._frames.feed(data):
                    await self._take(header, payload)
        except (asyncio.IncompleteReadError, OSError, ValueError, KeyError):
            pass
        finally:
            self._end()

    async def _take(self, header: Mapping[str, Any], payload: bytes) -> None:
        if "answer" in header:
            answer = self._answers.get(header["answer"])
            if answer is not None and not answer.done():
                answer.set_result((header, payload))
        elif "hello" in header:
            if not self._hello.done():
                self._hello.set_result(header)
        elif self.on_frame is not None:
            await self.on_frame(header, payload)

    def _end(self) -> None:
        if not self.alive:
            return
        self.alive = False
        lost = SandboxUnavailableError(f"the container is gone: {self.last_words or 'no word'}")
        waiters: list[asyncio.Future[Any]] = [self._hello, *self._answers.values()]
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(lost)
        if not self._hello.cancelled():
            self._hello.exception()  # asked for, lest an unread one is complained about
        if self.on_end is not None:
            self.on_end()

    def destroy(self) -> asyncio.Task[None]:
        """Kills everything in the container, whatever its agent does. Idempotent."""
        if self._destroying is None:
            self._destroying = asyncio.create_task(self._engine.destroy(self.id))
        return self._destroying

    async def close(self) -> None:
        """Kills and removes the container."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._connection.close()
        await asyncio.shield(self.destroy())
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening

    async def ran_out_of_memory(self) -> bool:
        """True if the kernel killed it for that. Asked once it is no longer alive."""
        if self._destroying is not None:
            return False
        return await self._engine.ran_out_of_memory(self.id)
