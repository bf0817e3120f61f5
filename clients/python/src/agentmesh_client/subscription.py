"""Subscriptions that outlive their connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Literal, TypeVar

import grpc
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.gateway.v1.conversation_service_pb2 import (
    SubscribeConversationRequest,
    SubscribeTenantRequest,
)

from agentmesh_client.errors import AgentMeshError, UnavailableError, code_of, from_rpc_error
from agentmesh_client.models import Delta, Event
from agentmesh_client.transport import Backoff

# The server sends something at least every 15 s: a connection silent for longer is a dead one.
_SILENCE_SECONDS = 45.0
_RECONNECT_ON = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
Until = Literal["forever", "head", "run_end"]
UNTIL: dict[str, stream_pb2.SubscribeUntil.ValueType] = {
    "forever": stream_pb2.SUBSCRIBE_UNTIL_FOREVER,
    "head": stream_pb2.SUBSCRIBE_UNTIL_HEAD,
    "run_end": stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
}
_ENDS_BY_ITSELF = (stream_pb2.SUBSCRIBE_UNTIL_HEAD, stream_pb2.SUBSCRIBE_UNTIL_RUN_END)


_Item = TypeVar("_Item")


class OpenAgain(Exception):  # noqa: N818  nothing went wrong
    """What was read of a stream was not passed on: it is opened again where that began."""


async def read_in_time(call: Any) -> Any:
    """The next response of a stream, or grpc.aio.EOF. Raises TimeoutError if it went silent."""
    async with asyncio.timeout(_SILENCE_SECONDS):
        return await call.read()


class _Resumed(Generic[_Item]):
    """Opens a stream again where it broke."""

    ends_by_itself = False

    def __init__(
        self,
        subscribe: Callable[..., Any],
        request: Any,
        metadata: tuple[tuple[str, str], ...],
        reconnect_for: float,
    ) -> None:
        self._subscribe = subscribe
        self._request = request
        self._metadata = metadata
        self._reconnect_for = reconnect_for

    def __aiter__(self) -> AsyncIterator[_Item]:
        return self._items()

    async def _items(self) -> AsyncIterator[_Item]:
        backoff = Backoff(self._reconnect_for)
        while True:
            call = None
            try:
                call = self._subscribe(self._request, metadata=self._metadata)
                while True:
                    response = await self._read(call)
                    if response is grpc.aio.EOF:
                        break
                    for item in self._unpack(response.item):
                        yield item
                    # Only now: the time that the reader takes for an item is no failed attempt.
                    backoff.reset()
                    if response.item.resume_token:
                        self._request.resume_token = response.item.resume_token
                if self.ends_by_itself:
                    return
                error: AgentMeshError = UnavailableError("UNAVAILABLE", "the stream ended early")
            except grpc.aio.AioRpcError as failure:
                error = from_rpc_error(failure)
                if code_of(failure) not in _RECONNECT_ON:
                    raise error from None
            except (asyncio.CancelledError, grpc.aio.UsageError):
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise AgentMeshError("CANCELLED", "the client was closed") from None
            except OpenAgain:
                continue
            except UnavailableError as failure:
                error = failure
            except TimeoutError:
                error = UnavailableError("UNAVAILABLE", "the stream went silent")
            finally:
                if call is not None:
                    call.cancel()
            await backoff.wait(error)

    async def _read(self, call: Any) -> Any:
        return await read_in_time(call)

    def _unpack(self, item: stream_pb2.StreamItem) -> Iterator[_Item]:
        raise NotImplementedError


class Subscription(_Resumed[Event | Delta]):
    """Yields every event once and in order, and deltas between them, over any number of
    connections.

    `sequence` is that of the newest event that was yielded: given as `after`, another subscription
    goes on there, in this process or another.
    """

    def __init__(
        self,
        subscribe: Callable[..., Any],
        request: SubscribeConversationRequest,
        metadata: tuple[tuple[str, str], ...],
        reconnect_for: float,
    ) -> None:
        super().__init__(subscribe, request, metadata, reconnect_for)
        self.ends_by_itself = request.until in _ENDS_BY_ITSELF
        self._sequence = request.after_sequence
        self._previews = _Previews()

    @property
    def sequence(self) -> int:
        """Of the newest event that was yielded; where the subscription began before the first."""
        return self._sequence

    def _unpack(self, item: stream_pb2.StreamItem) -> Iterator[Event | Delta]:
        if item.HasField("events"):
            for raw in item.events.events:
                if raw.sequence > self._sequence:
                    self._sequence = raw.sequence
                    yield Event.of(raw)
        elif item.HasField("delta"):
            yield from self._previews.take(item.delta)
        elif item.HasField("discard"):
            yield from self._previews.discard(item.discard)


class TenantSubscription(_Resumed[Event]):
    """Yields every event of all conversations once, in order within each of them, over any number
    of connections.

    `resume_token` says what was yielded: with it another subscription goes on behind that, in this
    process or another. It is empty until the server has said where the subscription begins.
    """

    _request: SubscribeTenantRequest

    @property
    def resume_token(self) -> str:
        """Behind the newest event that was yielded."""
        return self._request.resume_token

    def _unpack(self, item: stream_pb2.StreamItem) -> Iterator[Event]:
        # Each item has one event at most: whoever leaves at it has had all that the token says.
        self._request.resume_token = item.resume_token or self._request.resume_token
        for raw in item.events.events:
            yield Event.of(raw)


class _Previews:
    """Which pieces of which message were shown, so that none is shown twice."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, int], tuple[int, int]] = {}

    def take(self, delta: stream_pb2.Delta) -> Iterator[Delta]:
        key = (delta.message_id, delta.kind)
        fence, last = self._shown.get(key, (delta.fence, -1))
        if delta.fence < fence or (delta.fence == fence and delta.last_index <= last):
            return
        # A server that we came back to sends the text so far in one piece.
        replaces = last >= 0 and (delta.fence > fence or delta.first_index <= last)
        self._shown[key] = (delta.fence, delta.last_index)
        yield _delta(delta, replaces=replaces)

    def discard(self, discard: stream_pb2.DeltaDiscard) -> Iterator[Delta]:
        for (message_id, kind), (fence, _) in list(self._shown.items()):
            if message_id == discard.message_id and fence < discard.fence:
                self._shown[message_id, kind] = (discard.fence, -1)
                empty = stream_pb2.Delta(
                    message_id=message_id, kind=stream_pb2.DeltaKind.ValueType(kind)
                )
                yield _delta(empty, replaces=True)


def _delta(raw: stream_pb2.Delta, *, replaces: bool) -> Delta:
    known = stream_pb2.DeltaKind
    name = known.Name(raw.kind) if raw.kind in known.values() else str(raw.kind)
    return Delta(
        message_id=raw.message_id,
        agent=raw.agent,
        kind=name.removeprefix("DELTA_KIND_").lower(),
        text=raw.text,
        replaces=replaces,
        raw=raw,
    )
