"""Serves subscriptions to all conversations of a tenant.

Each has a stream of its own at the store, whose responses pass on as the bytes that came.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import grpc
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from meshkit.errors import MeshError, from_rpc_error

from agentmesh_gateway.open_streams import Credentials, OpenStreams
from agentmesh_gateway.upstream import STORE, BytesStream

from .pace import Pace
from .patience import Patience
from .responses import read_item
from .store import ByteCall
from .subscriber import Write

TenantStream: TypeAlias = "BytesStream[store_pb2.SubscribeTenantRequest]"


class TenantSubscriptions:
    """What the edge calls; the store takes the tenant from the current principal."""

    def __init__(self, subscribe: TenantStream, streams: OpenStreams, pace: Pace) -> None:
        self._subscribe = subscribe
        self._streams = streams
        self._pace = pace

    async def serve(
        self, request: store_pb2.SubscribeTenantRequest, credentials: Credentials, write: Write
    ) -> None:
        """Writes serialized responses until a drain, the end of what `credentials` allow, or an
        absence of the store that is longer than the pace's patience. Raises MeshError."""
        reader = _Reader(self._subscribe, request, Patience(self._pace.patience), write)
        with self._streams.watched(credentials, reader.end):
            await reader.serve()


class _Reader:
    """One subscription over any number of streams of the store."""

    def __init__(
        self,
        subscribe: TenantStream,
        request: store_pb2.SubscribeTenantRequest,
        patience: Patience,
        write: Write,
    ) -> None:
        self._subscribe = subscribe
        self._request = request
        self._patience = patience
        self._write = write
        self._newest = b""
        self._call: ByteCall | None = None
        self._failure: MeshError | None = None

    def end(self, failure: MeshError) -> None:
        """Ends the stream with `failure`."""
        self._failure = self._failure or failure
        if self._call is not None:
            self._call.cancel()

    async def serve(self) -> None:
        """Writes the stream. Raises MeshError."""
        while True:
            failure = await self._pass_through()
            if not self._newest:
                # Whoever has seen nothing yet is better told at once.
                raise failure
            self._request.resume_token = read_item(self._newest).resume_token
            await self._patience.wait(failure)

    async def _pass_through(self) -> MeshError:
        """One stream until it breaks; why it did."""
        if self._failure is not None:
            raise self._failure
        call = self._call = self._subscribe(self._request)
        try:
            async for response in call:
                self._patience.reset()
                await self._write(response)
                # In this feed every item says where to resume.
                self._newest = response
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        except asyncio.CancelledError:
            # A cancelled call and a cancelled task look alike; only the task's is passed on.
            task = asyncio.current_task()
            if self._failure is None or (task is not None and task.cancelling()):
                raise
            raise self._failure from None
        finally:
            self._call = None
            call.cancel()
        return MeshError.unavailable(STORE, "its stream ended")
