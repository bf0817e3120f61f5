"""Definitions between their contracts and the runtime's specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.catalog.v1 import agent_pb2, model_profile_pb2, team_pb2

from agentmesh_agent_runtime.adapters.networks import policy_to_spec, spec_to_policy
from agentmesh_agent_runtime.adapters.policies import policies_to_specs, specs_to_policies
from agentmesh_agent_runtime.adapters.structs import plain
from agentmesh_agent_runtime.components import OfferedComponent
from agentmesh_agent_runtime.definitions.specs import (
    AgentBudgetSpec,
    AgentSpec,
    ContextSpec,
    EdgeSpec,
    GraphSpec,
    HumanInputMode,
    LlmSettings,
    ProfileSpec,
    Provider,
    SelectorSpec,
    StageSpec,
    SummarizingSpec,
    TeamKind,
    TeamSpec,
    TerminationSpec,
    TokenLimitSpec,
    ToolSettings,
)

_KINDS = {
    TeamKind.SINGLE: team_pb2.TEAM_KIND_SINGLE,
    TeamKind.ROUND_ROBIN: team_pb2.TEAM_KIND_ROUND_ROBIN,
    TeamKind.SELECTOR: team_pb2.TEAM_KIND_SELECTOR,
    TeamKind.SWARM: team_pb2.TEAM_KIND_SWARM,
    TeamKind.GRAPH: team_pb2.TEAM_KIND_GRAPH,
    TeamKind.MAGENTIC_ONE: team_pb2.TEAM_KIND_MAGENTIC_ONE,
    TeamKind.COMPONENT: team_pb2.TEAM_KIND_COMPONENT,
}
_KINDS_BACK = {number: kind for kind, number in _KINDS.items()}
_MODES = {
    HumanInputMode.NEVER: agent_pb2.HUMAN_INPUT_MODE_NEVER,
    HumanInputMode.TERMINATE: agent_pb2.HUMAN_INPUT_MODE_TERMINATE,
    HumanInputMode.ALWAYS: agent_pb2.HUMAN_INPUT_MODE_ALWAYS,
}
_MODES_BACK = {number: mode for mode, number in _MODES.items()}

_PROVIDERS = {
    Provider.OPENAI: model_profile_pb2.MODEL_PROVIDER_OPENAI,
    Provider.AZURE_OPENAI: model_profile_pb2.MODEL_PROVIDER_AZURE_OPENAI,
    Provider.ANTHROPIC: model_profile_pb2.MODEL_PROVIDER_ANTHROPIC,
    Provider.OLLAMA: model_profile_pb2.MODEL_PROVIDER_OLLAMA,
    Provider.SCRIPTED: model_profile_pb2.MODEL_PROVIDER_SCRIPTED,
    Provider.COMPONENT: model_profile_pb2.MODEL_PROVIDER_COMPONENT,
}


def agent_to_spec(agent: agent_pb2.AgentDefinition) -> AgentSpec:
    """Raises pydantic.ValidationError if the definition breaks a rule of the spec."""
    return AgentSpec(
        id=agent.id,
        name=agent.name,
        role=agent.role,
        system_message=agent.system_message,
        llm_config=_llm_to_settings(agent.llm_config),
        tools=tuple(agent.tools),
        tool_config={name: _tool_to_settings(c) for name, c in agent.tool_config.items()},
        human_input_mode=_MODES_BACK.get(agent.human_input_mode, HumanInputMode.NEVER),
        handoffs=tuple(agent.handoffs),
        max_tool_iterations=_optional(agent, "max_tool_iterations"),
        context=_context_to_spec(agent.context),
        component=agent.component,
        output_schema=plain(agent.output_schema),
        approvals=policies_to_specs(agent.approvals),
        budget=AgentBudgetSpec(
            max_tokens=_optional(agent.budget, "max_tokens"),
            max_cost_micros=_optional(agent.budget, "max_cost_micros"),
        ),
        component_config=plain(agent.component_config),
    )


def team_to_spec(team: team_pb2.TeamDefinition) -> TeamSpec:
    """Raises pydantic.ValidationError if the definition breaks a rule of the spec."""
    return TeamSpec(
        id=team.id,
        name=team.name,
        description=team.description,
        kind=_KINDS_BACK.get(team.kind, TeamKind.ROUND_ROBIN),
        participants=tuple(_participant_to_spec(member) for member in team.participants),
        termination=_termination_to_spec(team.termination),
        max_rounds=_optional(team, "max_rounds"),
        stages=tuple(
            StageSpec(name=stage.name, agent=stage.agent, instructions=stage.instructions)
            for stage in team.stages
        ),
        selector=SelectorSpec(
            llm_config=_llm_to_settings(team.selector.llm_config),
            prompt=team.selector.prompt,
            allow_repeated_speaker=team.selector.allow_repeated_speaker,
            candidate_function=team.selector.candidate_function,
        ),
        graph=_graph_to_spec(team.graph),
        orchestrator=_llm_to_settings(team.orchestrator),
        own_run=team.own_run,
        summarizer=(_llm_to_settings(team.summarizer) if team.HasField("summarizer") else None),
        approvals=policies_to_specs(team.approvals),
        component=team.component,
        component_config=plain(team.component_config),
    )


def agent_to_proto(agent: AgentSpec) -> agent_pb2.AgentDefinition:
    """As the catalog keeps it."""
    definition = agent_pb2.AgentDefinition(
        id=agent.id,
        name=agent.name,
        role=agent.role,
        system_message=agent.system_message,
        llm_config=_settings_to_llm(agent.llm_config),
        tools=agent.tools,
        human_input_mode=_MODES[agent.human_input_mode],
        handoffs=agent.handoffs,
        max_tool_iterations=agent.max_tool_iterations,
        component=agent.component,
        approvals=specs_to_policies(agent.approvals),
    )
    if agent.budget != AgentBudgetSpec():
        bounds = agent.budget.model_dump(exclude_none=True)
        definition.budget.CopyFrom(agent_pb2.AgentBudget(**bounds))
    for name, tool in agent.tool_config.items():
        settings = agent_pb2.ToolConfig(**tool.model_dump(exclude={"network"}))
        if tool.network is not None:
            settings.network.CopyFrom(spec_to_policy(tool.network))
        definition.tool_config[name].CopyFrom(settings)
    if agent.output_schema:
        definition.output_schema.update(agent.output_schema)
    _write_context(definition.context, agent.context)
    _write_config(definition, agent.component_config)
    return definition


def team_to_proto(team: TeamSpec) -> team_pb2.TeamDefinition:
    """As the catalog keeps it; members that are ids stay references."""
    definition = team_pb2.TeamDefinition(
        id=team.id,
        name=team.name,
        description=team.description,
        kind=_KINDS[team.kind],
        participants=[_participant_to_proto(member) for member in team.participants],
        termination=_termination_to_proto(team.termination),
        max_rounds=team.max_rounds,
        stages=[
            team_pb2.Stage(name=stage.name, agent=stage.agent, instructions=stage.instructions)
            for stage in team.stages
        ],
        approvals=specs_to_policies(team.approvals),
        component=team.component,
    )
    definition.own_run = team.own_run
    if team.summarizer is not None:
        definition.summarizer.CopyFrom(_settings_to_llm(team.summarizer))
    _write_config(definition, team.component_config)
    if team.kind is TeamKind.SELECTOR:
        selector = team.selector
        definition.selector.prompt = selector.prompt
        definition.selector.allow_repeated_speaker = selector.allow_repeated_speaker
        definition.selector.candidate_function = selector.candidate_function
        definition.selector.llm_config.CopyFrom(_settings_to_llm(selector.llm_config))
    elif team.kind is TeamKind.GRAPH:
        definition.graph.CopyFrom(_spec_to_graph(team.graph))
    elif team.orchestrator != LlmSettings() or team.kind is TeamKind.MAGENTIC_ONE:
        definition.orchestrator.CopyFrom(_settings_to_llm(team.orchestrator))
    return definition


def profile_to_proto(profile: ProfileSpec) -> model_profile_pb2.ModelProfile:
    """As the catalog keeps it."""
    definition = model_profile_pb2.ModelProfile(
        name=profile.id,
        provider=_PROVIDERS[profile.provider],
        model=profile.model,
        base_url=profile.base_url,
        key_ref=profile.key_ref,
        temperature=profile.temperature,
        max_tokens=profile.max_tokens,
        input_price_micros=profile.input_price_micros,
        output_price_micros=profile.output_price_micros,
        fallbacks=profile.fallbacks,
        requests_per_minute=profile.requests_per_minute,
        cache_replies=profile.cache_replies,
        vision=profile.vision,
        function_calling=profile.function_calling,
        structured_output=profile.structured_output,
        component=profile.component,
    )
    _write_config(definition, profile.component_config)
    if profile.timeout is not None:
        definition.timeout.FromNanoseconds(round(profile.timeout * 1e9))
    return definition


def model_to_proto(name: str, *, scripted: bool, base_url: str) -> model_profile_pb2.ModelProfile:
    """A model that this runtime can reach."""
    provider = (
        model_profile_pb2.MODEL_PROVIDER_SCRIPTED
        if scripted
        else model_profile_pb2.MODEL_PROVIDER_OPENAI
    )
    return model_profile_pb2.ModelProfile(
        name=name, provider=provider, model=name, base_url="" if scripted else base_url
    )


def component_to_proto(component: OfferedComponent) -> runtime_pb2.Component:
    """A component of an installed package."""
    listed = runtime_pb2.Component(
        name=component.name,
        kind=component.kind,
        distribution=component.distribution,
        problem=component.problem,
    )
    if component.config_schema:
        listed.config_schema.update(component.config_schema)
    return listed


def _llm_to_settings(llm: agent_pb2.LlmConfig) -> LlmSettings:
    timeout = llm.timeout.ToNanoseconds() / 1e9 if llm.HasField("timeout") else None
    return LlmSettings(
        model=llm.model,
        temperature=_optional(llm, "temperature"),
        max_tokens=_optional(llm, "max_tokens"),
        profile=llm.profile,
        timeout=timeout or None,
        extra=plain(llm.extra) if llm.HasField("extra") else {},
    )


def _settings_to_llm(llm: LlmSettings) -> agent_pb2.LlmConfig:
    config = agent_pb2.LlmConfig(
        model=llm.model,
        temperature=llm.temperature,
        max_tokens=llm.max_tokens,
        profile=llm.profile,
    )
    if llm.timeout is not None:
        config.timeout.FromNanoseconds(round(llm.timeout * 1e9))
    if llm.extra:
        config.extra.update(llm.extra)
    return config


def _graph_to_spec(graph: team_pb2.GraphOptions) -> GraphSpec:
    return GraphSpec(
        edges=tuple(
            EdgeSpec(
                source=edge.from_agent,
                target=edge.to_agent,
                condition=edge.condition,
                activation_group=edge.activation_group,
                activation_condition="any" if edge.activation_condition == "any" else "all",
            )
            for edge in graph.edges
        ),
        entry_points=tuple(graph.entry_points),
    )


def _spec_to_graph(graph: GraphSpec) -> team_pb2.GraphOptions:
    return team_pb2.GraphOptions(
        edges=[
            team_pb2.GraphEdge(
                from_agent=edge.source,
                to_agent=edge.target,
                condition=edge.condition,
                activation_group=edge.activation_group,
                activation_condition=edge.activation_condition,
            )
            for edge in graph.edges
        ],
        entry_points=graph.entry_points,
    )


def _tool_to_settings(config: agent_pb2.ToolConfig) -> ToolSettings:
    enabled = _optional(config, "enabled")
    return ToolSettings(
        enabled=True if enabled is None else enabled,
        timeout=_optional(config, "timeout"),
        retries=_optional(config, "retries"),
        concurrency=_optional(config, "concurrency"),
        cache_seconds=_optional(config, "cache_seconds"),
        network=policy_to_spec(config.network) if config.HasField("network") else None,
    )


def _context_to_spec(context: agent_pb2.ContextPolicy) -> ContextSpec:
    kind = context.WhichOneof("kind")
    if kind == "buffered":
        return ContextSpec(buffered=context.buffered.size)
    if kind == "head_and_tail":
        return ContextSpec(head=context.head_and_tail.head, tail=context.head_and_tail.tail)
    if kind == "token_limited":
        limited = TokenLimitSpec(max_tokens=context.token_limited.max_tokens)
        return ContextSpec(token_limited=limited)
    if kind == "summarizing":
        summarizing = context.summarizing
        return ContextSpec(
            summarizing=SummarizingSpec(max_tokens=summarizing.max_tokens, keep=summarizing.keep)
        )
    return ContextSpec()


def _write_context(policy: agent_pb2.ContextPolicy, spec: ContextSpec) -> None:
    if spec.buffered is not None:
        policy.buffered.size = spec.buffered
    elif spec.tail is not None:
        policy.head_and_tail.head = spec.head or 0
        policy.head_and_tail.tail = spec.tail
    elif spec.token_limited is not None:
        policy.token_limited.max_tokens = spec.token_limited.max_tokens
    elif spec.summarizing is not None:
        policy.summarizing.max_tokens = spec.summarizing.max_tokens
        policy.summarizing.keep = spec.summarizing.keep


def _participant_to_spec(member: team_pb2.Participant) -> AgentSpec | TeamSpec | str:
    match member.WhichOneof("kind"):
        case "agent":
            return agent_to_spec(member.agent)
        case "team":
            return team_to_spec(member.team)
        case "team_id":
            return member.team_id
        case _:
            return member.agent_id


def _participant_to_proto(member: AgentSpec | TeamSpec | str) -> team_pb2.Participant:
    if isinstance(member, AgentSpec):
        return team_pb2.Participant(agent=agent_to_proto(member))
    if isinstance(member, TeamSpec):
        return team_pb2.Participant(team=team_to_proto(member))
    return team_pb2.Participant(agent_id=member)


def _termination_to_spec(termination: team_pb2.Termination) -> TerminationSpec:
    return TerminationSpec(
        text_mentions=tuple(termination.text_mentions),
        text_mention_sources=tuple(termination.text_mention_sources),
        max_messages=_optional(termination, "max_messages"),
        handoff_to=tuple(termination.handoff_to),
        sources=tuple(termination.sources),
        all_of=tuple(_termination_to_spec(part) for part in termination.all_of),
        component=termination.component,
        component_config=plain(termination.component_config),
    )


def _termination_to_proto(termination: TerminationSpec) -> team_pb2.Termination:
    definition = team_pb2.Termination(
        text_mentions=termination.text_mentions,
        text_mention_sources=termination.text_mention_sources,
        max_messages=termination.max_messages,
        handoff_to=termination.handoff_to,
        sources=termination.sources,
        all_of=[_termination_to_proto(part) for part in termination.all_of],
        component=termination.component,
    )
    _write_config(definition, termination.component_config)
    return definition


def _write_config(definition: Any, config: Mapping[str, Any]) -> None:
    if config:
        definition.component_config.update(config)


def _optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None
