"""Whether the run that a subscription follows has ended."""

from __future__ import annotations

import grpc
from agentmesh.conversation.v1 import stream_pb2
from meshkit.errors import MeshError

from .hubs import Served
from .wanted import Wanted


class RunCheck:
    """Asks the store how the conversation stands, as rarely as it can: events that came tell of
    runs that ended, but not whether one was under way when the subscription began, nor whether
    another one goes on."""

    def __init__(self, wanted: Wanted) -> None:
        self._needed = wanted.until == stream_pb2.SUBSCRIBE_UNTIL_RUN_END
        self._asked_at = -1
        self._active_at = -1
        self._afresh = False
        self.pending = False

    def begin(self) -> None:
        """Follows the run from now on. What was known of it may be older than what the caller has
        just had done."""
        self._needed = self._afresh = True
        self._asked_at = -1

    async def over(self, served: Served, position: int) -> bool:
        """True if no run is under way at `position`, the newest event known. While the store does
        not answer, `pending` is true: ask again."""
        if not self._needed:
            return False
        hub, feed = served.hub, served.feed
        if self._active_at >= hub.run_ended_at or self._asked_at == position:
            return False
        try:
            standing = await feed.standing(position, afresh=self._afresh)
        except MeshError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            self.pending = True
            return False
        self._asked_at = position
        self.pending = self._afresh = False
        if standing.active:
            self._active_at = position
        return not standing.active and standing.head <= position
