"""Asks the next profile when one fails."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from autogen_core.models import ModelInfo

from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.turns.failures import ModelBusy, ModelRefused, TurnFailure
from agentmesh_agent_runtime.turns.images import has_images

REST_SECONDS = 30.0


class Rests:
    """Which profiles failed a tenant lately. They are asked last for `seconds`.

    So a stream that broke after its first pieces, which is no longer another profile's to finish,
    is taken up by the fallback on the turn's next attempt. What one tenant asks, with a timeout
    that is too short for example, sends no other's requests elsewhere.
    """

    def __init__(
        self, *, seconds: float = REST_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: dict[tuple[str, str], float] = {}

    def begin(self, tenant: str, profile: str) -> None:
        """Notes that it failed just now."""
        now = self._clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[tenant, profile] = now + self._seconds

    def end(self, tenant: str, profile: str) -> None:
        """Notes that it answered."""
        self._until.pop((tenant, profile), None)

    def has(self, tenant: str, profile: str) -> bool:
        """True while it rests."""
        return self._until.get((tenant, profile), 0.0) > self._clock()


@dataclass(frozen=True)
class Candidate:
    """A profile that may answer."""

    profile: str
    source: ReplySource


class FallbackReplySource:
    """The first candidate that can do what is asked, and answers.

    What can be told of it beforehand is the first one's.
    """

    def __init__(self, candidates: Sequence[Candidate], rests: Rests) -> None:
        self._candidates = candidates
        self._rests = rests
        first = candidates[0].source
        self.provider = first.provider
        self.model = first.model
        self.info = first.info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource. Once a piece went out no other candidate is asked."""
        failures: list[tuple[str, TurnFailure]] = []
        tenant = request.tenant
        for candidate in sorted(self._candidates, key=lambda c: self._rests.has(tenant, c.profile)):
            begun = False
            if (cannot := _cannot(candidate.source.info, request)) is not None:
                failures.append((candidate.profile, ModelRefused(cannot)))
                continue
            try:
                async with aclosing(candidate.source.stream(request)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield self._signed(piece, candidate.source.model)
            except TurnFailure as failure:
                if not isinstance(failure, ModelBusy | ModelRefused):
                    self._rests.begin(tenant, candidate.profile)
                if begun:
                    raise
                failures.append((candidate.profile, failure))
            else:
                self._rests.end(tenant, candidate.profile)
                return
        raise _all_of(failures)

    def _signed(self, piece: Piece | ModelReply, model: str) -> Piece | ModelReply:
        """A whole reply names the model that was asked, where that is another than `model`."""
        if isinstance(piece, ModelReply) and model != self.model:
            return replace(piece, requested_model=model)
        return piece


def _cannot(info: ModelInfo, request: ModelRequest) -> str | None:
    """What a request asks for that a model cannot do, or None."""
    if not info["vision"] and has_images(request.messages):
        return "its model cannot see images"
    if not info["function_calling"] and request.tools and request.tool_choice != "none":
        return "its model cannot call tools"
    if not info["json_output"] and request.json_output:
        return "its model does not answer in JSON"
    return None


def _all_of(failures: Sequence[tuple[str, TurnFailure]]) -> TurnFailure:
    """Worth another attempt if one of them is."""
    worst = next((failure for _, failure in failures if failure.retryable), failures[0][1])
    waits = [f.retry_after for _, f in failures if f.retryable and f.retry_after is not None]
    told = "; ".join(f"{profile}: {failure.detail}" for profile, failure in failures)
    return type(worst)(f"no model profile answers. {told}", retry_after=min(waits, default=None))
