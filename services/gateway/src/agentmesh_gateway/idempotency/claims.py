"""Claims of requests, as the store keeps them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc
from agentmesh.conversation_store.v1 import request_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from meshkit.context import current_principal
from meshkit.ids import new_id
from meshkit.tasks import stop

from .waiting import RequestKey

logger = logging.getLogger(__name__)

HOLD_SECONDS = 15
_RENEWALS = 3  # within the time that a claim holds
_LAST_WORDS_SECONDS = 10.0
_HOLD = Duration(seconds=HOLD_SECONDS)

_ending: set[asyncio.Task[None]] = set()
"""Ends of claims that are on their way: nobody else may hold these tasks."""


class Claim:
    """A request that this replica carries out, or would like to."""

    def __init__(self, stub: Any, request: Any) -> None:
        self._stub = stub
        self.request_id: str = request.request_id
        self._claim_id = new_id("claim")
        self._digest = digest_of(request)
        principal = current_principal()
        self.key = RequestKey(
            principal.tenant, principal.subject, request.DESCRIPTOR.full_name, self.request_id
        )

    async def ask(self) -> pb.ClaimRequestResponse | None:
        """How it stands with the request; None while somebody else has it."""
        wanted = pb.ClaimRequestRequest(
            request_id=self.request_id,
            request_digest=self._digest,
            claim_id=self._claim_id,
            hold=_HOLD,
        )
        try:
            answer: pb.ClaimRequestResponse = await self._stub.ClaimRequest(wanted)
        except asyncio.CancelledError:
            await self.leave(nothing_done=True)  # perhaps it was given
            raise
        return None if answer.state == pb.REQUEST_STATE_HELD else answer

    async def begin(self, note: bytes) -> None:
        """Notes for whoever has the request later that its work begins. Raises AioRpcError, ABORTED
        if somebody else has it by now."""
        await self._renew(note)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Meanwhile the claim does not end by itself."""
        renewing = asyncio.create_task(self._keep(), name="claim")
        try:
            yield
        finally:
            await stop(renewing)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(HOLD_SECONDS / _RENEWALS)
            try:
                await self._renew()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ABORTED:
                    return  # somebody else has it, and is told that it was begun
                # The next one may come through.

    async def _renew(self, note: bytes = b"") -> None:
        await self._stub.RenewRequest(
            pb.RenewRequestRequest(
                request_id=self.request_id, claim_id=self._claim_id, hold=_HOLD, note=note
            ),
            timeout=HOLD_SECONDS / _RENEWALS,  # one that hangs must leave time for the next
        )

    async def answer(self, response: bytes) -> None:
        """Keeps what the caller is about to be told."""
        await self._finish(response=response)

    async def leave(self, *, nothing_done: bool) -> None:
        """Ends the claim without an answer."""
        await self._finish(nothing_done=nothing_done, abandoned=not nothing_done)

    async def _finish(self, **end: Any) -> None:
        wanted = pb.FinishRequestRequest(request_id=self.request_id, claim_id=self._claim_id, **end)
        await _to_the_end(self._told(wanted))

    async def _told(self, wanted: pb.FinishRequestRequest) -> None:
        try:
            await self._stub.FinishRequest(wanted, timeout=_LAST_WORDS_SECONDS)
        except grpc.aio.AioRpcError as error:
            # The work is done or not, whatever becomes of the claim: it ends by itself.
            if error.code() is not grpc.StatusCode.ABORTED:
                logger.warning("a claim ends by itself: %s", error.details())


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work`, which goes on if the caller leaves meanwhile."""
    task = asyncio.create_task(work)
    _ending.add(task)
    task.add_done_callback(_ending.discard)
    await asyncio.shield(task)


def digest_of(request: Any) -> bytes:
    """What two requests under one id are told apart by; the pieces of a file may differ."""
    if "chunk" in request.DESCRIPTOR.fields_by_name:
        request = type(request).FromString(request.SerializeToString())
        request.ClearField("chunk")
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
