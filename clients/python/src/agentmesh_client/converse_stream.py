"""One connection of a chat: requests go up in order, answers are taken out, items come down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from agentmesh_client.inbox import Inbox
from agentmesh_client.subscription import OpenAgain, Subscription, read_in_time


class ConverseStream:
    """Reads while the inbox has room, and beyond it for an answer that somebody waits for.

    Answers come behind the items that were sent before them. What is read on the way to one and
    finds no room is not kept: the stream is opened again behind the last item that was, and the
    server sends the rest from its log.
    """

    def __init__(
        self,
        converse: Callable[..., Any],
        metadata: tuple[tuple[str, str], ...],
        requests: Iterable[pb2.ConverseRequest],
        answered: Callable[[pb2.ConverseAck], None],
        awaited: Callable[[], bool],
        inbox: Inbox,
    ) -> None:
        self._requests: asyncio.Queue[pb2.ConverseRequest] = asyncio.Queue()
        for request in requests:
            self._requests.put_nowait(request)
        self._answered = answered
        self._awaited = awaited
        self._inbox = inbox
        self._passed_over = False
        self._call = converse(self._outgoing(), metadata=metadata)

    def send(self, request: pb2.ConverseRequest) -> None:
        """Puts a request behind those before it."""
        self._requests.put_nowait(request)

    async def read(self) -> Any:
        """The next response with an item, or grpc.aio.EOF. Raises OpenAgain."""
        while True:
            await self._inbox.wait_until(self._wanted)
            if self._passed_over and not self._inbox.full:
                raise OpenAgain
            response = await read_in_time(self._call)
            if response is grpc.aio.EOF:
                if self._passed_over:
                    raise OpenAgain
                return response
            if response.HasField("ack"):
                self._answered(response.ack)
            elif not self._inbox.full and not self._passed_over:
                return response
            elif not response.item.HasField("heartbeat"):
                self._passed_over = True

    def cancel(self) -> None:
        """Leaves."""
        self._call.cancel()

    def _wanted(self) -> bool:
        return not self._inbox.full or self._awaited()

    async def _outgoing(self) -> AsyncIterator[pb2.ConverseRequest]:
        while True:
            request = await self._requests.get()
            yield request
            if request.HasField("finish"):
                return


class ConverseItems(Subscription):
    """A subscription over connections that know by themselves when to read."""

    async def _read(self, call: ConverseStream) -> Any:
        return await call.read()
