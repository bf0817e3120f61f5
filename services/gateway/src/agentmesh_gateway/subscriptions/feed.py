"""Keeps a hub fed: the one stream from the store, opened again when it breaks."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time

import grpc
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from google.protobuf.message import DecodeError
from meshkit.context import Principal, principal_scope
from meshkit.errors import MeshError, from_rpc_error
from meshkit.ids import new_id
from meshkit.roles import Role
from meshkit.tasks import stop

from agentmesh_gateway.upstream import STORE

from .hub import Hub
from .patience import Patience
from .store import Standing, StoreSubscriptions

logger = logging.getLogger(__name__)

_LIVED_SECONDS = 1.0
"""A stream that was open for so long worked, even if it had nothing to say."""


class Feed:
    """Feeds `hub` until it is closed or the store cannot be reached for `patience_seconds`.

    It acts for this service in the hub's tenant: what it fetches is for all who may
    read the conversation, and their access is checked before they get any of it.
    """

    def __init__(self, hub: Hub, store: StoreSubscriptions, patience_seconds: float) -> None:
        self._hub = hub
        self._store = store
        self._patience = Patience(patience_seconds)
        self._standings: dict[int, asyncio.Task[Standing]] = {}
        # In a context of its own: it outlives the call that caused it.
        self._context = contextvars.Context()
        self._task = asyncio.create_task(
            self._run(), name=f"feed {hub.conversation_id}", context=self._context
        )

    async def close(self) -> None:
        """Ends the stream."""
        await stop(self._task, *self._standings.values(), expected=(grpc.RpcError,))

    async def standing(self, position: int, *, afresh: bool = False) -> Standing:
        """How the conversation stood when its newest known event was `position`. Asked once for
        all subscribers, unless it has to be known `afresh`; raises MeshError."""
        task = None if afresh else self._standings.get(position)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            self._standings.clear()
            task = self._standings[position] = asyncio.create_task(
                self._ask(), context=self._context.copy()
            )
        try:
            # Nobody's leaving may end the question of the others.
            return await asyncio.shield(task)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    def _scope(self) -> Principal:
        return Principal(subject="gateway", tenant=self._hub.tenant, role=Role.OPERATOR)

    async def _ask(self) -> Standing:
        with principal_scope(self._scope()):
            return await self._store.standing(self._hub.conversation_id)

    async def _run(self) -> None:
        try:
            with principal_scope(self._scope()):
                while True:
                    await self._patience.wait(await self._follow())
        except MeshError as failure:
            logger.info("a subscription of %s ends: %s", self._hub.conversation_id, failure)
            self._hub.fail(failure)
        except Exception:
            reference = new_id("err")
            logger.exception("following %s failed: %s", self._hub.conversation_id, reference)
            self._hub.fail(MeshError.internal(reference))

    async def _follow(self) -> MeshError:
        """Reads one stream until it breaks; why it did."""
        call = self._store.open(self._request())
        opened = time.monotonic()
        try:
            while isinstance(response := await call.read(), bytes):  # else it is EOF
                self._patience.reset()
                self._hub.take(response)
                # Subscribers pass it on before this asks for more.
                await asyncio.sleep(0)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
        except DecodeError as error:
            failure = MeshError.unavailable(STORE, f"its stream cannot be read: {error}")
        else:
            failure = MeshError.unavailable(STORE, "its stream ended")
        finally:
            call.cancel()
        if time.monotonic() - opened > _LIVED_SECONDS:
            self._patience.reset()
        return failure

    def _request(self) -> store_pb2.SubscribeConversationRequest:
        return store_pb2.SubscribeConversationRequest(
            conversation_id=self._hub.conversation_id,
            after_sequence=self._hub.head,
            resume_token=self._hub.token,
        )
