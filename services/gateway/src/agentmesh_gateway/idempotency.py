"""Repeatable requests whose effects lie outside of the store.

Whatever the store carries out itself it remembers in the same transaction, and needs nothing of
this. What changes workspaces, sandboxes and blobs is claimed at the store before it begins, on
whatever replica, and its answer is kept there for a day. A replica that dies leaves a claim that
ends soon: what may be done twice is then done again, what may not is answered with ABORTED.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1 import request_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from meshkit.errors import MeshError
from meshkit.ids import new_id
from meshkit.tasks import stop

Response = TypeVar("Response", bound=Message)

logger = logging.getLogger(__name__)

HOLD_SECONDS = 15
_RENEWALS = 3  # within the time that a claim holds
_POLL_SECONDS = 0.1


class _Claim:
    """A request that this replica carries out."""

    def __init__(self, stub: Any, request_id: str, digest: bytes) -> None:
        self._stub = stub
        self.request_id = request_id
        self._wanted = pb.ClaimRequestRequest(
            request_id=request_id,
            request_digest=digest,
            claim_id=new_id("claim"),
            hold=Duration(seconds=HOLD_SECONDS),
        )

    async def take(self) -> pb.ClaimRequestResponse:
        """How it stands with the request, once nobody else holds it."""
        while True:
            answer: pb.ClaimRequestResponse = await self._stub.ClaimRequest(self._wanted)
            if answer.state != pb.REQUEST_STATE_HELD:
                return answer
            await asyncio.sleep(_POLL_SECONDS)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Meanwhile the claim does not end."""
        renewing = asyncio.create_task(self._renew(), name="claim")
        try:
            yield
        finally:
            await stop(renewing)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(HOLD_SECONDS / _RENEWALS)
            with suppress(grpc.aio.AioRpcError):  # the next one may come through
                await self._stub.ClaimRequest(self._wanted)

    async def answer(self, response: bytes) -> None:
        """Keeps what the caller is about to be told."""
        await self._stub.FinishRequest(
            pb.FinishRequestRequest(
                request_id=self.request_id, claim_id=self._wanted.claim_id, response=response
            )
        )

    async def give_up(self) -> None:
        """Nothing was done, or it may be done again."""
        wanted = pb.FinishRequestRequest(
            request_id=self.request_id, claim_id=self._wanted.claim_id, nothing_done=True
        )
        try:
            await self._stub.FinishRequest(wanted)
        except grpc.aio.AioRpcError as error:
            logger.warning("a claim ends by itself: %s", error.details())


class OncePerRequest:
    """Carries out requests once for each `request_id`."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def repeatable(
        self, request: Message, kind: type[Response], work: Callable[[], Awaitable[Response]]
    ) -> Response:
        """What `work` returns or returned. It leaves the same behind if it is done twice, so that
        it is done again when nobody knows how far it came."""
        claim = self._claim(request)
        if claim is None:
            return await work()
        known = await claim.take()
        if known.state == pb.REQUEST_STATE_ANSWERED:
            return kind.FromString(known.response)
        async with claim.held():
            try:
                response = await work()
            except BaseException:
                await asyncio.shield(claim.give_up())
                raise
            await claim.answer(response.SerializeToString())
        return response

    async def recorded(
        self,
        request: Message,
        work: Callable[[], AsyncGenerator[bytes, None]],
    ) -> AsyncIterator[bytes]:
        """What `work` yields or yielded. It is never done twice: where nobody knows how far it
        came, that is what the caller is told."""
        claim = self._claim(request)
        if claim is None:
            async with aclosing(work()) as messages:
                async for message in messages:
                    yield message
            return
        known = await claim.take()
        if known.state == pb.REQUEST_STATE_ANSWERED:
            if known.response == Recording.UNKNOWN:
                raise MeshError.outcome_unknown(claim.request_id)
            for message in Recording.replay(known.response):
                yield message
            return
        if known.state == pb.REQUEST_STATE_ABANDONED:
            await claim.answer(Recording.UNKNOWN)
            raise MeshError.outcome_unknown(claim.request_id)
        kept = Recording()
        async with claim.held():
            try:
                async with aclosing(work()) as messages:
                    async for message in messages:
                        kept.add(message)
                        yield message
            except grpc.aio.AioRpcError as error:
                if not kept.begun and error.code() in _NOTHING_DONE:
                    await claim.give_up()
                raise
            await claim.answer(kept.kept())

    def _claim(self, request: Any) -> _Claim | None:
        request_id: str = request.request_id
        if not request_id:
            return None
        if "chunk" in request.DESCRIPTOR.fields_by_name:  # the pieces of a file may differ
            request = type(request).FromString(request.SerializeToString())
            request.ClearField("chunk")
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        return _Claim(self._stub, request_id, digest)


_NOTHING_DONE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""With these a service refuses a request before it begins with it."""


class Recording:
    """The messages of a stream, as they came, if they are not too many."""

    MOST_BYTES = 256 * 1024
    UNKNOWN = b"\xfe"
    """Kept in the place of a recording that nobody could finish."""
    _TOO_LONG = b"\xff"

    def __init__(self) -> None:
        self._parts = bytearray()
        self._too_long = False
        self.begun = False

    def add(self, message: bytes) -> None:
        """Takes one more."""
        self.begun = True
        self._too_long = self._too_long or len(self._parts) + len(message) > self.MOST_BYTES
        if not self._too_long:
            self._parts += len(message).to_bytes(4, "big") + message

    def kept(self) -> bytes:
        """All of it as one value, or that it is too long."""
        return self._TOO_LONG if self._too_long else bytes(self._parts)

    @classmethod
    def replay(cls, kept: bytes) -> list[bytes]:
        """The messages. Raises MeshError OUT_OF_RANGE if they were too many to be kept."""
        if kept == cls._TOO_LONG:
            raise MeshError(
                grpc.StatusCode.OUT_OF_RANGE,
                errors_pb2.ERROR_REASON_OUTPUT_REMOVED,
                "this request was carried out before; its output is too long to be kept",
            )
        messages, position = [], 0
        while position < len(kept):
            size = int.from_bytes(kept[position : position + 4], "big")
            messages.append(kept[position + 4 : position + 4 + size])
            position += 4 + size
        return messages
