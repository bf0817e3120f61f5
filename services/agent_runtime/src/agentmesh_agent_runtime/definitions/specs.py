"""Agents, teams and model profiles as the runtime understands them, whatever they were read from.

All specs are immutable and refuse unknown fields, so that a misspelt key is an error where it is
written and not a setting that silently does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from agentmesh_agent_runtime.definitions.approval_policies import LONGEST_WAIT, ApprovalPolicySpec
from agentmesh_agent_runtime.definitions.network import NetworkSpec

IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]
Configuration = dict[str, JsonValue]
"""Of a component; its own model says more of it."""
MOST_OF_INT32: Final = (1 << 31) - 1
"""What the contracts can hold."""


class Spec(BaseModel):
    """Base of all specs."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HumanInputMode(StrEnum):
    """When an agent asks a person; it never does in a conversation without human input."""

    NEVER = "NEVER"
    TERMINATE = "TERMINATE"
    ALWAYS = "ALWAYS"


class TeamKind(StrEnum):
    """How a team decides who speaks."""

    SINGLE = "single"
    ROUND_ROBIN = "round_robin"
    SELECTOR = "selector"
    SWARM = "swarm"
    GRAPH = "graph"
    MAGENTIC_ONE = "magentic_one"
    COMPONENT = "component"


class LlmSettings(Spec):
    """A model and its settings; what is not set comes from the runtime's defaults.

    `timeout` is in seconds for one reply. `extra` goes to the model server as it stands.
    """

    model: str = Field(default="", max_length=200)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, gt=0)
    profile: str = ""
    timeout: float | None = Field(default=None, gt=0)
    extra: dict[str, Any] = Field(default_factory=dict)


class Provider(StrEnum):
    """Which protocol a model server speaks."""

    OPENAI = "openai"
    AZURE_OPENAI = "azure_openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"
    SCRIPTED = "scripted"
    COMPONENT = "component"


class ProfileSpec(Spec):
    """A named way to reach a model. `id` is the name that agents use.

    `timeout` is in seconds between two pieces of a reply. Prices are millionths of a currency per
    million tokens. `key_ref` names the key, and is never the key. What the model can do is known by
    its name where `vision`, `function_calling` and `structured_output` do not say it. `component`
    is the model client of an installed package, for the provider of that name.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")
    provider: Provider
    model: str = Field(default="", max_length=200)
    base_url: str = Field(default="", pattern=r"^$|^https?://[^\s@]+$")
    key_ref: str = Field(default="", max_length=256)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, gt=0)
    timeout: float | None = Field(default=None, gt=0)
    input_price_micros: int = Field(default=0, ge=0)
    output_price_micros: int = Field(default=0, ge=0)
    fallbacks: tuple[str, ...] = ()
    requests_per_minute: int | None = Field(default=None, gt=0, le=100_000)
    cache_replies: bool = False
    vision: bool | None = None
    function_calling: bool | None = None
    structured_output: bool | None = None
    component: str = ""
    component_config: Configuration = Field(default_factory=dict)

    @property
    def is_priced(self) -> bool:
        """True if its replies cost money."""
        return bool(self.input_price_micros or self.output_price_micros)


class ToolSettings(Spec):
    """How an agent uses one tool; `timeout` is in seconds for one call.

    `concurrency` is the most calls at once in a run; good results are kept for `cache_seconds`.
    """

    enabled: bool = True
    timeout: float | None = Field(default=None, gt=0, le=LONGEST_WAIT)
    retries: int | None = Field(default=None, ge=0, le=10)
    concurrency: int | None = Field(default=None, ge=1, le=1000)
    cache_seconds: float | None = Field(default=None, gt=0, le=LONGEST_WAIT)
    network: NetworkSpec | None = None


class TokenLimitSpec(Spec):
    """As many of the newest messages as fit into so many tokens, the newest one always.

    The system message, the tools and the instructions of a stage count too.
    """

    max_tokens: int = Field(gt=0, le=MOST_OF_INT32)


class SummarizingSpec(Spec):
    """A summary in the place of older messages once all take more than `max_tokens`.

    `keep` newest messages stay as they are, and the newest one always, even if they do not fit.
    What counts is as in TokenLimitSpec.
    """

    max_tokens: int = Field(gt=0, le=MOST_OF_INT32)
    keep: int = Field(default=0, ge=0, le=MOST_OF_INT32)


class ContextSpec(Spec):
    """Which messages a model is given, in one of four ways. Nothing set: all of them."""

    buffered: int | None = Field(default=None, gt=0)
    head: int | None = Field(default=None, ge=0)
    tail: int | None = Field(default=None, gt=0)
    token_limited: TokenLimitSpec | None = None
    summarizing: SummarizingSpec | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {
            "buffered": self.buffered,
            "head and tail": self.tail,
            "token_limited": self.token_limited,
            "summarizing": self.summarizing,
        }
        named = [way for way, setting in ways.items() if setting is not None]
        if len(named) > 1:
            raise ValueError(f"has {' and '.join(named)}; keep one of them")
        if self.head is not None and self.tail is None:
            raise ValueError("has head without tail; say how many of the newest messages to keep")
        return self

    @property
    def limit(self) -> tuple[str, int] | None:
        """The field that bounds the context in tokens, and its bound; None if none does."""
        for field in ("token_limited", "summarizing"):
            setting: TokenLimitSpec | SummarizingSpec | None = getattr(self, field)
            if setting is not None:
                return f"{field}.max_tokens", setting.max_tokens
        return None


class AgentBudgetSpec(Spec):
    """What an agent may consume in one run: tokens, and millionths of a currency."""

    max_tokens: int | None = Field(default=None, gt=0)
    max_cost_micros: int | None = Field(default=None, gt=0)


class AgentSpec(Spec):
    """An agent. `id` is the name that messages carry, `name` is for people.

    `output_schema` is a JSON Schema that each of its answers has to be valid under; none if empty.
    """

    id: Identifier
    name: str = Field(default="", max_length=200)
    role: str = Field(default="", max_length=2000)
    system_message: str = ""
    llm_config: LlmSettings = LlmSettings()
    tools: tuple[str, ...] = ()
    tool_config: dict[str, ToolSettings] = Field(default_factory=dict)
    human_input_mode: HumanInputMode = HumanInputMode.NEVER
    handoffs: tuple[str, ...] = ()
    max_tool_iterations: int | None = Field(default=None, gt=0, le=100)
    context: ContextSpec = ContextSpec()
    component: str = ""
    output_schema: dict[str, Any] = Field(default_factory=dict)
    approvals: tuple[ApprovalPolicySpec, ...] = ()
    budget: AgentBudgetSpec = AgentBudgetSpec()
    component_config: Configuration = Field(default_factory=dict)

    @field_validator("tools")
    @classmethod
    def _no_tool_twice(cls, tools: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tools)) != len(tools):
            raise ValueError("the same tool is named twice; name each tool once")
        return tools

    def usable_tools(self) -> tuple[str, ...]:
        """The agent's tools without those that `tool_config` takes away."""
        return tuple(
            tool for tool in self.tools if self.tool_config.get(tool, ToolSettings()).enabled
        )


class StageSpec(Spec):
    """One turn of a staged team: who speaks, and the instructions for that turn."""

    name: str = Field(min_length=1)
    agent: Identifier
    instructions: str = ""


class TerminationSpec(Spec):
    """When a team is done. The fields are alternatives; `all_of` must hold together."""

    text_mentions: tuple[str, ...] = ()
    text_mention_sources: tuple[str, ...] = ()
    max_messages: int | None = Field(default=None, gt=0)
    handoff_to: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    all_of: tuple[TerminationSpec, ...] = ()
    component: str = ""
    component_config: Configuration = Field(default_factory=dict)

    def is_empty(self) -> bool:
        """True if no condition is set."""
        return self == TerminationSpec()

    def components(self) -> Iterator[TerminationSpec]:
        """This one and those of `all_of`, as far as they are conditions of installed packages."""
        if self.component:
            yield self
        for part in self.all_of:
            yield from part.components()


class SelectorSpec(Spec):
    """How a selector team chooses who speaks.

    `prompt` may hold {roles}, {participants} and {history}. `candidate_function` names a function
    of an installed package that says who may be chosen.
    """

    llm_config: LlmSettings = LlmSettings()
    prompt: str = Field(default="", max_length=32_768)
    allow_repeated_speaker: bool = False
    candidate_function: str = ""


class EdgeSpec(Spec):
    """Who speaks after whom in a graph: if the message contains `condition`, always without one.

    Edges of one group into a member are joined: on all of them, or on any.
    """

    source: Identifier = Field(validation_alias=AliasChoices("from", "source"))
    target: Identifier = Field(validation_alias=AliasChoices("to", "target"))
    condition: str = ""
    activation_group: str = ""
    activation_condition: Literal["all", "any"] = "all"


class GraphSpec(Spec):
    """A graph of members. It begins with its entry points, else with those nothing leads to."""

    edges: tuple[EdgeSpec, ...] = ()
    entry_points: tuple[Identifier, ...] = ()


class TeamSpec(Spec):
    """A team. Members are agents or teams written in place, or ids that still need resolving.

    `selector`, `graph` and `orchestrator` are for teams of those kinds, and the latter also for the
    model that a `component` may ask. `summarizer` writes the summary of a run, which is its last
    message otherwise. `approvals` bind its members beside their own ones. A team with `own_run`
    works, as a member of another, in a run of its own.
    """

    id: Identifier
    name: str = ""
    description: str = ""
    kind: TeamKind = TeamKind.ROUND_ROBIN
    participants: tuple[AgentSpec | TeamSpec | Identifier, ...] = ()
    termination: TerminationSpec = TerminationSpec()
    max_rounds: int | None = Field(default=None, gt=0, le=10_000)
    stages: tuple[StageSpec, ...] = ()
    selector: SelectorSpec = SelectorSpec()
    graph: GraphSpec = GraphSpec()
    orchestrator: LlmSettings = LlmSettings()
    summarizer: LlmSettings | None = None
    approvals: tuple[ApprovalPolicySpec, ...] = ()
    component: str = ""
    component_config: Configuration = Field(default_factory=dict)
    own_run: bool = False

    def located(self, path: str = "", *, in_run: bool = False) -> Iterator[tuple[str, AgentSpec]]:
        """The agents written in place with their paths through the teams within this one; with
        `in_run` without those of teams that have runs of their own."""
        for member in self.participants:
            if isinstance(member, AgentSpec):
                yield f"{path}{member.id}", member
            elif isinstance(member, TeamSpec) and not (in_run and member.own_run):
                yield from member.located(f"{path}{member.id}/", in_run=in_run)

    def speakers(self) -> tuple[str, ...]:
        """Ids of all that speak in its run: agents, and teams that have runs of their own."""
        found: list[str] = []
        for member in self.participants:
            if isinstance(member, TeamSpec) and not member.own_run:
                found += member.speakers()
            else:
                found.append(member if isinstance(member, str) else member.id)
        return tuple(found)

    def is_resolved(self) -> bool:
        """True if no member, in this team or below, is an id that still needs resolving."""
        return all(
            not isinstance(member, str) and (isinstance(member, AgentSpec) or member.is_resolved())
            for member in self.participants
        )

    def agents(self) -> tuple[AgentSpec, ...]:
        """All agents written in place, those of the teams within it included, in order."""
        return tuple(agent for _, agent in self.located())

    def agents_in_run(self) -> tuple[AgentSpec, ...]:
        """As `agents`, without those of teams that have runs of their own."""
        return tuple(agent for _, agent in self.located(in_run=True))

    def models(self) -> tuple[LlmSettings, ...]:
        """The settings of every model that it asks: of agents, and of what chooses or sums up."""
        own = {
            TeamKind.SELECTOR: (self.selector.llm_config,),
            TeamKind.MAGENTIC_ONE: (self.orchestrator,),
            # Whether a component asks one is not known, unless one is named.
            TeamKind.COMPONENT: (self.orchestrator,) if self.orchestrator != LlmSettings() else (),
        }.get(self.kind, ())
        members = [member for member in self.participants if not isinstance(member, str)]
        return (
            *own,
            *((self.summarizer,) if self.summarizer is not None else ()),
            *(model for team in members if isinstance(team, TeamSpec) for model in team.models()),
            *(agent.llm_config for agent in members if isinstance(agent, AgentSpec)),
        )

    def agent(self, agent_id: str) -> AgentSpec:
        """The member of that id. Raises KeyError."""
        for member in self.agents():
            if member.id == agent_id:
                return member
        raise KeyError(agent_id)
