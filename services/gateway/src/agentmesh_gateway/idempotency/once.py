"""Carries out requests whose effects lie outside of the store once for each `request_id`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from agentmesh.conversation_store.v1 import request_service_pb2 as pb
from google.protobuf.message import Message
from meshkit.errors import MeshError

from .claims import Claim
from .outcomes import nothing_done
from .recording import Recording
from .waiting import Waiters

Response = TypeVar("Response", bound=Message)

_BEGUN = b"begun"


class Attempt:
    """One time that a request is carried out."""

    def __init__(self, claim: Claim | None = None, earlier: bytes | None = None) -> None:
        self._claim = claim
        self.earlier = earlier
        """What an attempt before this one noted when it began. Nobody knows how far that came. None
        if there was none."""
        self.begun = False

    @property
    def is_repeatable(self) -> bool:
        """Whether the request has an id."""
        return self._claim is not None

    async def begin(self, note: bytes = _BEGUN) -> None:
        """From here on doing it once more would do harm. The first `note` of a request is kept."""
        if self._claim is not None:
            await self._claim.begin(note)
            self.begun = True

    def unknown(self) -> MeshError:
        """For the caller, where it cannot be told what was done."""
        return MeshError.outcome_unknown(self._claim.request_id if self._claim else "")


class OncePerRequest:
    """One for each process, so that of all who wait for the same request one asks."""

    def __init__(self, stub: Any, waiters: Waiters | None = None) -> None:
        self._stub = stub
        self._waiters = waiters or Waiters()

    async def repeatable(
        self,
        request: Message,
        kind: type[Response],
        work: Callable[[Attempt], Awaitable[Response]],
    ) -> Response:
        """What `work` returns or returned. Until it begins its attempt it can be done again; after
        that it is, unless it is certain that nothing was done, told that it is not the first."""
        claim = self._claim(request)
        if claim is None:
            return await work(Attempt())
        known = await self._take(claim)
        if known.state == pb.REQUEST_STATE_ANSWERED:
            return kind.FromString(known.response)
        attempt = Attempt(claim, _earlier(known))
        try:
            async with claim.held():
                response = await work(attempt)
        except BaseException as failure:
            await claim.leave(nothing_done=not attempt.begun or nothing_done(failure))
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
        known = await self._take(claim)
        if known.state == pb.REQUEST_STATE_ANSWERED:
            for message in Recording.replay(known.response):
                yield message
            return
        attempt, kept = Attempt(claim, _earlier(known)), Recording()
        try:
            if attempt.earlier is not None:
                raise attempt.unknown()
            async with claim.held():
                await attempt.begin()
                async with aclosing(work()) as messages:
                    async for message in messages:
                        kept.add(message)
                        yield message
        except BaseException as failure:
            refused = not kept.begun and nothing_done(failure)
            await claim.leave(nothing_done=not attempt.begun or refused)
            raise
        await claim.answer(kept.kept())

    def _claim(self, request: Any) -> Claim | None:
        return Claim(self._stub, request) if request.request_id else None

    async def _take(self, claim: Claim) -> pb.ClaimRequestResponse:
        """How it stands with the request, once nobody else has it."""
        known = await claim.ask()
        return await self._waiters.wait(claim.key, claim.ask) if known is None else known


def _earlier(known: pb.ClaimRequestResponse) -> bytes | None:
    return known.note if known.state == pb.REQUEST_STATE_ABANDONED else None
