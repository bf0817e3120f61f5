"""Serves subscriptions to conversations."""

from __future__ import annotations

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2

from agentmesh_gateway.access import ReadAccess
from agentmesh_gateway.open_streams import Credentials, OpenStreams

from .hubs import Hubs
from .pace import Pace
from .store import StoreSubscriptions
from .subscriber import Subscriber, Write
from .wanted import Wanted


class Subscriptions:
    """What the edge calls. Whoever may read a conversation shares what the gateway hears of it."""

    def __init__(
        self, store: StoreSubscriptions, streams: OpenStreams, access: ReadAccess, pace: Pace
    ) -> None:
        self._store = store
        self._streams = streams
        self._access = access
        self._pace = pace
        self._hubs = Hubs(store, pace)

    async def serve(
        self,
        tenant: str,
        request: store_pb2.SubscribeConversationRequest,
        credentials: Credentials,
        write: Write,
    ) -> None:
        """Writes serialized responses, until the request's `until`, a drain, or the end of what
        `credentials` allow. Calls of the store act for the current principal."""
        await self.run(self.subscriber(tenant, request, write), credentials)

    def subscriber(
        self, tenant: str, request: store_pb2.SubscribeConversationRequest, write: Write
    ) -> Subscriber:
        """A subscription to `run`, for those who change its end on the way."""
        wanted = Wanted.of(tenant, request)
        return Subscriber(self._hubs, self._store, wanted, self._pace, write)

    async def run(self, subscriber: Subscriber, credentials: Credentials) -> None:
        """As `serve`."""
        reading = await self._access.admit(subscriber.conversation_id)
        with self._streams.watched(credentials, subscriber.end, reading):
            await subscriber.serve()
