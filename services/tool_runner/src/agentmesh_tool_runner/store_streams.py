"""Long-lived streams to the store: raised fences come in, live output goes out."""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import grpc
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.conversation_store.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    turn_service_pb2,
    turn_service_pb2_grpc,
)

from .calls import Authority, ToolCall
from .sandbox.model import Output, Stream

logger = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 2.0
_JOIN_SECONDS: Final = 0.015
_MAX_WAITING_PIECES: Final = 2000
_MAX_DELTA_CHARACTERS: Final = 16 * 1024
# A message with them has to stay below what a service receives, 4 MiB.
_MAX_REQUEST_CHARACTERS: Final = 256 * 1024
_MAX_MESSAGES: Final = 1000
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # a store whose disk is full is one that comes back
        grpc.StatusCode.ABORTED,
    }
)
_KINDS = {
    Stream.STDOUT: stream_pb2.DELTA_KIND_STDOUT,
    Stream.STDERR: stream_pb2.DELTA_KIND_STDERR,
}


class Retry:
    """Growing pauses between attempts, reset by success."""

    def __init__(self) -> None:
        self._seconds = _FIRST_RETRY_SECONDS

    def reset(self) -> None:
        """The next pause is the shortest again."""
        self._seconds = _FIRST_RETRY_SECONDS

    async def pause(self) -> None:
        """Waits, longer each time."""
        await asyncio.sleep(self._seconds)
        self._seconds = min(self._seconds * 2, _LAST_RETRY_SECONDS)


async def watch_fences(
    turns: turn_service_pb2_grpc.TurnServiceAsyncStub,
    worker_id: str,
    raised: Callable[[str, str, int], None],
    rests: Callable[[str, str], None],
) -> None:
    """Tells raised fences as (tenant, run, fence), and (tenant, conversation) of those that wait,
    for ever."""
    retry = Retry()
    while True:
        try:
            request = turn_service_pb2.WatchFencesRequest(worker_id=worker_id)
            async for answer in turns.WatchFences(request):
                retry.reset()
                for fence in answer.raised:
                    _tell(raised, rests, fence)
        except grpc.aio.AioRpcError as error:
            logger.debug("the watch of fences ended: %s", error.code().name)
        await retry.pause()


def _tell(
    raised: Callable[[str, str, int], None],
    rests: Callable[[str, str], None],
    fence: turn_service_pb2.RaisedFence,
) -> None:
    try:
        raised(fence.tenant, fence.run_id, fence.current_fence)
        if fence.rests:
            rests(fence.tenant, fence.conversation_id)
    except Exception:
        # A defect with one run must not leave the fences of all others unheard.
        logger.exception("fence %d of %s was not heeded", fence.current_fence, fence.run_id)


async def publish_documents(
    catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
    documents: list[catalog_service_pb2.Document],
) -> None:
    """Publishes once, however long the store takes to be there."""
    retry = Retry()
    request = catalog_service_pb2.PublishDocumentsRequest(documents=documents)
    while True:
        try:
            await catalog.PublishDocuments(request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING:
                logger.error("the tools could not be published: %s", error.details())
                return
            await retry.pause()
        else:
            logger.info("%d tools are published", len(documents))
            return


class DeltaPublisher:
    """Live output of tools, joined for a moment, dropped when the store does not keep up."""

    def __init__(self, turns: turn_service_pb2_grpc.TurnServiceAsyncStub) -> None:
        self._turns = turns
        self._waiting: deque[tuple[str, stream_pb2.Delta]] = deque(maxlen=_MAX_WAITING_PIECES)
        self._arrived = asyncio.Event()
        self._numbers: dict[tuple[str, int], int] = {}
        self._decoders: dict[tuple[str, int, Stream], codecs.IncrementalDecoder] = {}

    def publish(self, authority: Authority, call: ToolCall, piece: Output) -> None:
        """Never waits. Pieces of a message are numbered from 0 under each fence."""
        message = (call.message_id, authority.fence)
        decoder_key = (*message, piece.stream)
        decoder = self._decoders.get(decoder_key)
        if decoder is None:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            self._decoders[decoder_key] = decoder
            self._forget_old()
        text = decoder.decode(piece.data)
        if not text:
            return
        number = self._numbers.get(message, 0)
        self._numbers[message] = number + 1
        delta = stream_pb2.Delta(
            conversation_id=authority.conversation_id,
            run_id=authority.run_id,
            turn=call.turn,
            message_id=call.message_id,
            agent=call.agent,
            kind=_KINDS[piece.stream],
            text=text,
            fence=authority.fence,
            first_index=number,
            last_index=number,
            tool=call.tool,
        )
        self._waiting.append((authority.token, delta))
        self._arrived.set()

    def _forget_old(self) -> None:
        while len(self._decoders) > _MAX_MESSAGES:
            oldest = next(iter(self._decoders))
            del self._decoders[oldest]
            self._numbers.pop(oldest[:2], None)

    async def run(self) -> None:
        """Keeps a stream to the store open, for ever."""
        retry = Retry()
        while True:
            # Not before there is something to say: an idle runner holds no stream.
            await self._arrived.wait()
            try:
                await self._turns.PublishDeltas(self._requests())
            except grpc.aio.AioRpcError as error:
                logger.debug("the stream of deltas ended: %s", error.code().name)
                await retry.pause()
                if self._waiting:
                    self._arrived.set()
            else:
                retry.reset()

    async def _requests(self) -> AsyncIterator[turn_service_pb2.PublishDeltasRequest]:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_JOIN_SECONDS)
            self._arrived.clear()
            while self._waiting:
                yield self._next_request()

    def _next_request(self) -> turn_service_pb2.PublishDeltasRequest:
        """As many deltas as go under one capability and into one message, neighbours joined."""
        token, delta = self._waiting.popleft()
        joined, characters = [delta], len(delta.text)
        while self._waiting and self._waiting[0][0] == token:
            characters += len(self._waiting[0][1].text)
            if characters > _MAX_REQUEST_CHARACTERS:
                break
            _, following = self._waiting.popleft()
            last = joined[-1]
            if _joinable(last, following):
                last.text += following.text
                last.last_index = following.last_index
            else:
                joined.append(following)
        return turn_service_pb2.PublishDeltasRequest(deltas=joined, capability=token)


def _joinable(last: stream_pb2.Delta, following: stream_pb2.Delta) -> bool:
    return (
        last.message_id == following.message_id
        and last.kind == following.kind
        and last.fence == following.fence
        and last.last_index + 1 == following.first_index
        and len(last.text) + len(following.text) <= _MAX_DELTA_CHARACTERS
    )
