"""What factories of components are given, and how they say which configuration they take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from autogen_agentchat.base import ChatAgent, Team, TerminationCondition
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage
from autogen_agentchat.teams import BaseGroupChat
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import ChatCompletionClient
from autogen_core.tools import Workbench
from pydantic import BaseModel, ConfigDict, SecretStr

F = TypeVar("F", bound=Callable[..., Any])


class ComponentConfig(BaseModel):
    """Base of configurations: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def takes(config_schema: type[BaseModel] | Mapping[str, Any]) -> Callable[[F], F]:
    """Says of a factory, a function or a class, what its `component_config` is: a pydantic model,
    or what a JSON Schema describes.

    Definitions whose configuration breaks a rule of it are refused, and `config` of the setup is an
    instance of the model, or the dictionary. A factory that says nothing takes no configuration.
    """

    def mark(factory: F) -> F:
        factory.config_schema = config_schema  # type: ignore[attr-defined]  # a mark
        return factory

    return mark


class Once(Protocol):
    """Does something once, however often its turn is attempted."""

    async def __call__(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, or what comes of it if that is to be awaited: JSON, recorded as a
        step and read back from there.

        `key` names the effect within the turn: letters, digits and underscores. Asked for the same
        key again within the turn, it is the next effect of that name. A kill between the effect and
        its record may repeat it, as with a model's reply; if it raises, the turn is attempted
        again. Models and tools need none, and are not asked within one.
        """
        ...


@dataclass(frozen=True)
class TurnInfo:
    """The turn that is being taken. `round` counts from 0 in each run, discarded turns left out."""

    conversation_id: str
    run_id: str
    turn: int
    round: int
    stage: str = ""


class CurrentTurn(Protocol):
    """Tells of the present turn."""

    def __call__(self) -> TurnInfo:
        """Raises RuntimeError between turns, and so in a factory."""
        ...


@dataclass(frozen=True)
class AgentSetup:
    """What the factory of an agent is given.

    What is asked of `model` and `private_model` and called of `tools` are recorded steps, which no
    attempt at a turn repeats. Replies of `model` are told to subscribers as the agent's messages,
    those of `private_model` as its reasoning. `tools` also take calls that no model asked for.
    `model_context` is None for all messages.
    """

    id: str
    name: str
    role: str
    system_message: str
    description: str
    config: Any
    model: ChatCompletionClient
    private_model: ChatCompletionClient
    tools: Workbench
    handoffs: tuple[str, ...]
    model_context: ChatCompletionContext | None
    max_tool_iterations: int
    once: Once
    turn: CurrentTurn


@dataclass(frozen=True)
class TeamSetup:
    """What the factory of a team is given.

    `max_turns` and `termination_condition` are handed to AutoGen's team as they are: the outermost
    team stops after each answer, and the mesh goes on with it. What is asked of `model` is recorded
    and not told to subscribers. `choosing` is what MeshGroupChat passes its choices through.
    """

    id: str
    description: str
    config: Any
    members: tuple[ChatAgent | Team, ...]
    max_turns: int
    termination_condition: TerminationCondition | None
    model: ChatCompletionClient
    once: Once
    turn: CurrentTurn
    choosing: Callable[[Awaitable[Sequence[str]]], Awaitable[list[str]]]


@dataclass(frozen=True)
class TerminationSetup:
    """What the factory of a termination condition is given; `agents` are ids of the members."""

    config: Any
    agents: tuple[str, ...]


@dataclass(frozen=True)
class ModelClientSetup:
    """What the factory of a model client is given: its profile. `timeout` is in seconds.

    Temperature, `max_tokens` and what agents set besides come with each request, as
    `extra_create_args`. `api_key` is empty without a `key_ref`.
    """

    profile: str
    model: str
    base_url: str
    api_key: SecretStr
    timeout: float | None
    config: Any


class AgentFactory(Protocol):
    """An entry point of the group `agentmesh.agents`."""

    def __call__(self, setup: AgentSetup, /) -> ChatAgent:
        """An agent whose name is the setup's id. Called often: do nothing slow."""
        ...


class TeamFactory(Protocol):
    """An entry point of the group `agentmesh.teams`."""

    def __call__(self, setup: TeamSetup, /) -> BaseGroupChat:
        """A team of the setup's members. Called often: do nothing slow."""
        ...


class TerminationFactory(Protocol):
    """An entry point of the group `agentmesh.terminations`."""

    def __call__(self, setup: TerminationSetup, /) -> TerminationCondition:
        """A fresh condition. It is asked once, with all messages of the run so far."""
        ...


class ModelClientFactory(Protocol):
    """An entry point of the group `agentmesh.model_clients`."""

    def __call__(self, setup: ModelClientSetup, /) -> ChatCompletionClient:
        """The client of a profile, made when the runtime starts and closed when it ends."""
        ...


class CandidateFunction(Protocol):
    """An entry point of the group `agentmesh.candidate_functions`."""

    def __call__(
        self, messages: Sequence[BaseAgentEvent | BaseChatMessage], /
    ) -> Sequence[str] | Awaitable[Sequence[str]]:
        """Names of the members that may speak next, at least one."""
        ...


@dataclass(frozen=True)
class Heard:
    """What is known of a message beside its text."""

    source: str
    turn: TurnInfo
    metadata: Mapping[str, str]
