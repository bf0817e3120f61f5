"""The reference: a grpc.aio server that passes bytes on and does nothing else, in its own process.

Publish(bytes)        every subscriber gets it; answers when it was handed out
Announce(size)        like Publish, a message of that size with the time at which it was known
Subscribe()           what is published from now on
Replay(count, size)   so many messages, one by one, as fast as they are taken
Stamped(count)        so many messages with the time at which each was written
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import psutil
import uvloop

from bench.harness.subscribers import stamp

SERVICE = "bench.Bare"
_GAP_SECONDS = 0.005


class Bare(grpc.GenericRpcHandler):
    """No schema, no interceptors, no serializers."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[bytes]] = set()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method of that path."""
        name = details.method.rpartition("/")[2]
        if name == "Publish":
            return grpc.unary_unary_rpc_method_handler(self._publish)
        if name == "Announce":
            return grpc.unary_unary_rpc_method_handler(self._announce)
        streams = {"Subscribe": self._subscribe, "Replay": _replay, "Stamped": _stamped}
        return grpc.unary_stream_rpc_method_handler(streams[name])

    async def _publish(self, message: bytes, _: Any) -> bytes:
        for queue in self._queues:
            queue.put_nowait(message)
        return b""

    async def _announce(self, request: bytes, context: Any) -> bytes:
        (size,) = struct.unpack("!I", request)
        return await self._publish(stamp(size).encode(), context)

    async def _subscribe(self, _: bytes, context: Any) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queues.add(queue)
        try:
            await context.write(b"")
            while True:
                await context.write(await queue.get())
        finally:
            self._queues.discard(queue)


async def _replay(request: bytes, context: Any) -> None:
    count, size = struct.unpack("!II", request)
    message = b"x" * size
    for _ in range(count):
        await context.write(message)


async def _stamped(request: bytes, context: Any) -> None:
    count, size = struct.unpack("!II", request)
    padding = b"x" * (size - 8)
    for _ in range(count):
        await asyncio.sleep(_GAP_SECONDS)
        await context.write(struct.pack("!Q", time.monotonic_ns()) + padding)


def counted(count: int, size: int) -> bytes:
    """A request of Replay or Stamped."""
    return struct.pack("!II", count, size)


@asynccontextmanager
async def bare_server() -> AsyncIterator[tuple[str, psutil.Process]]:
    """The address of a running one, and its process."""
    # A session of its own, as the mesh's processes have: the kernel shares time between sessions.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    try:
        yield f"127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.kill()
        await process.wait()


async def _serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Bare(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())
