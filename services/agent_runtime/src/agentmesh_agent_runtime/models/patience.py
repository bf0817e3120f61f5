"""Asks a model again after a failure that may pass."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import stamina

from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.turns.failures import ModelFailed

ATTEMPTS = 3
LONGEST_WAIT = 20.0
"""Seconds. A server that wants more is asked again by another attempt at the turn."""


class PatientReplySource:
    """A model that is asked up to `attempts` times for a reply, honouring Retry-After.

    Once a piece went out it is not asked again: pieces of a message are numbered under the lease's
    fence and cannot be taken back under the same one.
    """

    def __init__(self, source: ReplySource, *, attempts: int = ATTEMPTS) -> None:
        self._source = source
        self._attempts = attempts
        self.provider = source.provider
        self.model = source.model
        self.info = source.info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        begun = False

        def pause(error: Exception) -> bool | float:
            if begun or not isinstance(error, ModelFailed):
                return False
            if error.retry_after is None:
                return True
            return error.retry_after if error.retry_after <= LONGEST_WAIT else False

        async for attempt in stamina.retry_context(
            on=pause,
            attempts=self._attempts,
            timeout=None,
            wait_initial=0.25,
            wait_max=5.0,
            wait_jitter=0.25,
        ):
            with attempt:
                async for piece in self._source.stream(request):
                    begun = True
                    yield piece
