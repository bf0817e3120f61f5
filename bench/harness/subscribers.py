"""Subscribers in a process of their own, as light as they can be: responses stay bytes.

Each message that is published carries the time at which it was sent (`stamp`), which they find in
the bytes and compare with the time at which it came; processes of one machine share that clock.
"""

from __future__ import annotations

import array
import asyncio
import base64
import gc
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import uvloop

_MARK = b"sent="
_DIGITS = 19
_CHANNELS = 20
_CONNECTING_AT_ONCE = 32
_LONG_LINE = 64 * 1024 * 1024


@dataclass(frozen=True)
class Watch:
    """What to subscribe to: a method's path, its serialized request, and by how many."""

    address: str
    method: str
    request: str
    count: int

    @classmethod
    def of(cls, address: str, method: str, request: bytes, count: int) -> Watch:
        """With the request's bytes."""
        return cls(address, method, base64.b64encode(request).decode(), count)


def stamp(size: int) -> str:
    """The text of a message that is sent now, `size` characters long."""
    return f"{_MARK.decode()}{time.monotonic_ns():0{_DIGITS}d}".ljust(size, ".")


def stamped_at(data: bytes) -> int | None:
    """When the first message in some bytes was sent, if it is stamped."""
    at = data.find(_MARK) + len(_MARK)
    return int(data[at : at + _DIGITS]) if at >= len(_MARK) else None


class Subscribers:
    """Speaks with the process that holds them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def latencies(self, events: int) -> list[float]:
        """Milliseconds of each event at each subscriber since the last call, once every
        subscriber has had so many."""
        taken: list[float] = await self._ask("take", events)
        return taken

    async def settle(self) -> None:
        """Forgets what came until now."""
        await self._ask("forget", 0)

    async def _ask(self, command: str, events: int) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command} {events}\n".encode())
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the subscribers' process ended")
        return json.loads(line)


@asynccontextmanager
async def subscribers(watch: Watch, *more: Watch) -> AsyncIterator[Subscribers]:
    """Connected ones; yields when each has its stream. `more` of them share the process and its
    connections, and are at the address of the first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        json.dumps(asdict(watch)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONG_LINE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        # More than a command line holds.
        process.stdin.write(json.dumps([asdict(one) for one in more]).encode() + b"\n")
        if not await process.stdout.readline():
            raise RuntimeError("the subscribers did not connect")
        yield Subscribers(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class _Crowd:
    def __init__(self, watches: list[Watch]) -> None:
        self._watches = watches
        self._count = sum(watch.count for watch in watches)
        self._latencies = array.array("q")
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            grpc.aio.insecure_channel(self._watches[0].address, options)
            for _ in range(min(_CHANNELS, self._count))
        ]
        at_once = asyncio.Semaphore(_CONNECTING_AT_ONCE)

        async def open_one(number: int, watch: Watch) -> None:
            method: Any = channels[number % len(channels)].unary_stream(watch.method)
            request = base64.b64decode(watch.request)
            async with at_once:
                call = method(request)
                # Every stream has something to say at once: from here on nothing is missed.
                await call.read()
                self._tasks.append(asyncio.create_task(self._read(call)))

        each = [watch for watch in self._watches for _ in range(watch.count)]
        await asyncio.gather(*itertools.starmap(open_one, enumerate(each)))

    async def _read(self, call: Any) -> None:
        note = self._latencies.append
        while (response := await call.read()) is not grpc.aio.EOF:
            arrived = time.monotonic_ns()
            at, before = response.find(_MARK), b""
            while at >= 0:
                at += len(_MARK)
                sent = response[at : at + _DIGITS]
                if sent != before:  # a message has its text twice: as such, and in its parts
                    note(arrived - int(sent))
                before, at = sent, response.find(_MARK, at)

    async def take(self, events: int) -> list[float]:
        while len(self._latencies) < events * self._count:
            ended = [task for task in self._tasks if task.done()]
            if ended:
                await ended[0]
                raise RuntimeError("a stream ended")
            await asyncio.sleep(0.02)
        taken = [round(latency / 1e6, 4) for latency in self._latencies]
        self.forget()
        return taken

    def forget(self) -> None:
        del self._latencies[:]


async def _run(first: Watch) -> None:
    reader = asyncio.StreamReader(limit=_LONG_LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    more = [Watch(**fields) for fields in json.loads(await reader.readline())]
    crowd = _Crowd([first, *more])
    await crowd.connect()
    gc.freeze()
    print("ready", flush=True)
    async for line in reader:
        command, events = line.decode().split()
        if command == "forget":
            crowd.forget()
        answer = await crowd.take(int(events)) if command == "take" else None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(_run(Watch(**json.loads(sys.argv[1]))))
