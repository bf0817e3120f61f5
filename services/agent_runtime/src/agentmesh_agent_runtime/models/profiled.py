"""Models of profiles: each with its price, pace, patience and cache, and what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from agentmesh_agent_runtime.definitions.profiles import Profile
from agentmesh_agent_runtime.definitions.specs import LlmSettings, Provider
from agentmesh_agent_runtime.models.component_clients import ComponentReplySource
from agentmesh_agent_runtime.models.endpoints import Endpoint
from agentmesh_agent_runtime.models.fallbacks import Candidate, FallbackReplySource, Rests
from agentmesh_agent_runtime.models.pace import Pace, PacedReplySource
from agentmesh_agent_runtime.models.patience import PatientReplySource
from agentmesh_agent_runtime.models.prices import PricedReplySource, Prices
from agentmesh_agent_runtime.models.replies import ReplySource
from agentmesh_agent_runtime.models.reply_cache import CachedReplySource, ReplyCache

OpenSource = Callable[[Provider, Endpoint], ReplySource]
"""The model at an endpoint, as its server answers."""


class ProfiledModels:
    """Keeps what the agents of a profile share.

    `scripted` answers for profiles of that provider; `endpoint_of` says how a profile's model is
    asked for an agent.
    """

    def __init__(
        self,
        profiles: Iterable[Profile],
        scripted: ReplySource,
        endpoint_of: Callable[[Profile, LlmSettings], Endpoint],
        open_source: OpenSource,
    ) -> None:
        self._profiles = {profile.spec.id: profile for profile in profiles}
        self._scripted = scripted
        self._endpoint_of = endpoint_of
        self._open_source = open_source
        self._rests = Rests()
        specs = [profile.spec for profile in self._profiles.values()]
        self._paces = {s.id: Pace(s.requests_per_minute) for s in specs if s.requests_per_minute}
        self._caches = {spec.id: ReplyCache() for spec in specs if spec.cache_replies}

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._profiles.values())

    def get(self, name: str) -> Profile | None:
        """The profile of that name."""
        return self._profiles.get(name)

    def resolve(self, llm: LlmSettings) -> ReplySource:
        """The model of `llm.profile`, and the ones behind it. Raises KeyError if it is unknown."""
        first = self._profiles[llm.profile]
        if not first.spec.fallbacks:
            return self._alone(first, llm)
        behind = [self._profiles[name] for name in first.spec.fallbacks]
        candidates = [
            Candidate(first.spec.id, self._alone(first, llm)),
            *(Candidate(p.spec.id, self._alone(p, _fitting(llm, first, p))) for p in behind),
        ]
        return FallbackReplySource(candidates, self._rests)

    def _alone(self, profile: Profile, llm: LlmSettings) -> ReplySource:
        spec = profile.spec
        if spec.provider is Provider.SCRIPTED:
            return self._scripted
        endpoint = self._endpoint_of(profile, llm)
        if profile.client is not None:
            source: ReplySource = ComponentReplySource(spec, profile.client, endpoint)
        else:
            source = self._open_source(spec.provider, endpoint)
        if spec.is_priced:
            source = PricedReplySource(
                source, Prices(spec.input_price_micros, spec.output_price_micros)
            )
        if pace := self._paces.get(spec.id):
            source = PacedReplySource(source, pace)
        source = PatientReplySource(source)
        if (cache := self._caches.get(spec.id)) is not None:
            source = CachedReplySource(source, endpoint, cache)
        return source


def _fitting(llm: LlmSettings, first: Profile, behind: Profile) -> LlmSettings:
    """An agent's settings without those that mean the first profile's server alone."""
    same = first.spec.provider is behind.spec.provider
    return llm.model_copy(update={"model": "", "extra": llm.extra if same else {}})
