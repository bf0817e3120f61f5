"""Which model answers for an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import SecretStr

from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.profiles import Profile
from agentmesh_agent_runtime.definitions.specs import LlmSettings, ProfileSpec, Provider
from agentmesh_agent_runtime.models.endpoints import Endpoint, ModelServers, load
from agentmesh_agent_runtime.models.patience import PatientReplySource
from agentmesh_agent_runtime.models.prices import Prices, ReplyBound
from agentmesh_agent_runtime.models.profiled import ProfiledModels
from agentmesh_agent_runtime.models.replies import ReplySource
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.models.scripted.source import MODEL as SCRIPTED
from agentmesh_agent_runtime.models.scripted.source import ScriptedReplySource

# With these an agent would be given another model than is counted, or an answer nobody can read.
_NOT_EXTRA = frozenset({"model", "messages", "stream", "stream_options"})

_WITHOUT_SERVERS = frozenset({Provider.SCRIPTED, Provider.COMPONENT})


@dataclass(frozen=True)
class ModelDefaults:
    """What holds for agents that set nothing else. Times are in seconds, as in Endpoint."""

    api_key: str = ""
    base_url: str = ""
    model: str = "gpt-4"
    temperature: float | None = 0.7
    max_tokens: int | None = 4000
    connect_timeout: float = 10.0
    reply_timeout: float = 120.0
    max_reply_chars: int = 2_000_000


class ModelCatalog:
    """Resolves an agent's settings to a model: its own, else its profile's, else the defaults.

    A model name that is the name of a profile means that profile, so that agents which were written
    for one model can be given another, and agents that name none as well.
    """

    def __init__(
        self,
        defaults: ModelDefaults,
        script: Script,
        profiles: Iterable[Profile] = (),
        *,
        script_word_delay: float = 0.0,
    ) -> None:
        self._defaults = defaults
        self._scripted = ScriptedReplySource(script, word_delay=script_word_delay)
        self._profiles = ProfiledModels(
            profiles, self._scripted, self._endpoint_of, lambda p, e: self._at(p).source(e)
        )
        self._servers: dict[Provider, ModelServers] = {}

    @property
    def default_model(self) -> str:
        """The model of agents that name none, as it will really answer."""
        model = self._defaults.model
        return model if self._defaults.api_key or self._profiles.get(model) else SCRIPTED

    @property
    def profiles(self) -> tuple[ProfileSpec, ...]:
        """The profiles that agents may name."""
        return tuple(profile.spec for profile in self._profiles)

    def problem(self, llm: LlmSettings) -> Finding | None:
        """What is wrong with the settings, at its path within them, or None."""
        llm = self._by_profile(llm)
        for name in sorted(_NOT_EXTRA & llm.extra.keys()):
            return Finding(f"extra.{name}", "is set by the mesh; remove it")
        if llm.profile:
            return self._profile_problem(llm)
        name = llm.model or self._defaults.model
        if name == SCRIPTED or self._defaults.base_url or self._known(Provider.OPENAI, name):
            return None
        return Finding(
            "model",
            f"unknown model {name!r}; use a model of OpenAI's, {SCRIPTED!r}, a profile, or set "
            "OPENAI_BASE_URL to the server that has it",
        )

    def stands_in_for(self, llm: LlmSettings) -> str | None:
        """The model that the scripted one replaces because there is no key, or None."""
        llm = self._by_profile(llm)
        if llm.profile:
            return None
        name = llm.model or self._defaults.model
        return name if name != SCRIPTED and not self._defaults.api_key else None

    def resolve(self, llm: LlmSettings) -> ReplySource:
        """The model that answers. Raises KeyError for what `problem` finds fault with."""
        llm = self._by_profile(llm)
        if llm.profile:
            return self._profiles.resolve(llm)
        name = llm.model or self._defaults.model
        if name == SCRIPTED or not self._defaults.api_key:
            return self._scripted
        return PatientReplySource(self._at(Provider.OPENAI).source(self._endpoint(llm)))

    def bound(self, llm: LlmSettings) -> ReplyBound:
        """What a reply of that model may have and costs. A fallback counts as its profile does."""
        llm = self._by_profile(llm)
        profile = self._profiles.get(llm.profile) if llm.profile else None
        if profile is None:
            return ReplyBound(llm.max_tokens or self._defaults.max_tokens)
        spec = profile.spec
        return ReplyBound(
            llm.max_tokens or spec.max_tokens or self._defaults.max_tokens,
            Prices(spec.input_price_micros, spec.output_price_micros),
        )

    async def prepare(self) -> None:
        """Loads what `problem` and `resolve` need. Without it they block until it is loaded."""
        wanted = {Provider.OPENAI, *(profile.provider for profile in self.profiles)}
        for provider in sorted(wanted - _WITHOUT_SERVERS - self._servers.keys()):
            self._servers.setdefault(provider, await asyncio.to_thread(load, provider))

    async def close(self) -> None:
        """Closes all connections."""
        for servers in self._servers.values():
            await servers.close()
        for profile in self._profiles:
            if profile.client is not None:
                with suppress(Exception):
                    await profile.client.close()

    def _by_profile(self, llm: LlmSettings) -> LlmSettings:
        """The same settings, by a profile if they name one in whichever way."""
        name = llm.model or self._defaults.model
        if llm.profile or self._profiles.get(name) is None:
            return llm
        return llm.model_copy(update={"profile": name, "model": ""})

    def _profile_problem(self, llm: LlmSettings) -> Finding | None:
        profile = self._profiles.get(llm.profile)
        if profile is None:
            names = ", ".join(sorted(spec.id for spec in self.profiles))
            remedy = f"there are: {names}" if names else "AGENTMESH_MODELS_FILE names none"
            return Finding("profile", f"unknown model profile {llm.profile!r}; {remedy}")
        spec = profile.spec
        if not llm.model or llm.model == spec.model:
            return None
        if spec.provider in _WITHOUT_SERVERS or spec.is_priced:
            return Finding(
                "model",
                f"profile {spec.id!r} stands for {spec.model or SCRIPTED!r} and its price; remove "
                "the model, or name the profile of this one",
            )
        if spec.base_url or self._known(spec.provider, llm.model):
            return None
        return Finding(
            "model", f"unknown model {llm.model!r}; use one of {spec.provider}'s, or remove it"
        )

    def _endpoint(self, llm: LlmSettings) -> Endpoint:
        defaults = self._defaults
        temperature = defaults.temperature if llm.temperature is None else llm.temperature
        return Endpoint(
            model=llm.model or defaults.model,
            base_url=defaults.base_url,
            api_key=SecretStr(defaults.api_key),
            remedy="check OPENAI_API_KEY and OPENAI_BASE_URL",
            temperature=temperature,
            max_tokens=llm.max_tokens or defaults.max_tokens,
            connect_timeout=defaults.connect_timeout,
            reply_timeout=llm.timeout or defaults.reply_timeout,
            extra=llm.extra,
            max_reply_chars=defaults.max_reply_chars,
        )

    def _endpoint_of(self, profile: Profile, llm: LlmSettings) -> Endpoint:
        spec = profile.spec
        temperature = spec.temperature if llm.temperature is None else llm.temperature
        settings = llm.model_copy(
            update={
                "model": llm.model or spec.model,
                "temperature": temperature,
                "max_tokens": llm.max_tokens or spec.max_tokens,
                "timeout": llm.timeout or spec.timeout,
            }
        )
        return replace(
            self._endpoint(settings),
            base_url=spec.base_url,
            api_key=profile.api_key,
            remedy=f"check key_ref and base_url of the model profile {spec.id!r}",
            vision=spec.vision,
            function_calling=spec.function_calling,
            structured_output=spec.structured_output,
        )

    def _known(self, provider: Provider, model: str) -> bool:
        return self._at(provider).known(model) is not None

    def _at(self, provider: Provider) -> ModelServers:
        servers = self._servers.get(provider)
        if servers is None:
            servers = self._servers[provider] = load(provider)
        return servers
