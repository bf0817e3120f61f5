"""Agents: one line for each, one line for each version, or all of one."""

from collections.abc import Iterator, Sequence

from agentmesh_client import Agent
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

from agentmesh_cli.rendering.json_output import to_json
from agentmesh_cli.rendering.tables import moment, new_table
from agentmesh_cli.rendering.terminal_text import one_line, strip_controls
from agentmesh_cli.rendering.words import word

_OWN = "* registered by this tenant"
_WIDTH = 19


def print_agents(console: Console, agents: Sequence[Agent]) -> None:
    """One line for each agent."""
    table = new_table("agent", "version", "role", "model", "tools")
    for agent in agents:
        table.add_row(
            Text(one_line(agent.id, 64)),
            _version(agent),
            Text(one_line(agent.role, 60)),
            Text(one_line(_model(agent), 40)),
            Text(one_line(", ".join(_tools(agent)), 80)),
        )
    console.print(table, soft_wrap=not console.is_terminal)
    if not all(agent.built_in for agent in agents):
        console.print(Text(_OWN, "dim"))


def print_versions(console: Console, versions: Sequence[Agent]) -> None:
    """One line for each version of an agent."""
    table = new_table("version", "written", "etag", "role", "model")
    for agent in versions:
        table.add_row(
            _version(agent),
            moment(agent.created_at),
            Text(one_line(agent.etag, 40)),
            Text(one_line(agent.role, 60)),
            Text(one_line(_model(agent), 40)),
        )
    console.print(table, soft_wrap=not console.is_terminal)
    if not all(agent.built_in for agent in versions):
        console.print(Text(_OWN, "dim"))


def print_agent(console: Console, agent: Agent) -> None:
    """Everything that an agent is made of."""
    for label, text in _facts(agent):
        console.print(Text.assemble((f"{label:<{_WIDTH}}", "dim"), one_line(text, 10_000)))
    if agent.system_message:
        console.print(Text("system message", "dim"))
        for line in strip_controls(agent.system_message).splitlines():
            console.print(Text(f"  {line}"), soft_wrap=True)


def _facts(agent: Agent) -> Iterator[tuple[str, str]]:
    raw = agent.raw
    yield "agent", agent.id
    if agent.name != agent.id:
        yield "name", agent.name
    yield "version", f"{agent.version}, {'shipped' if agent.built_in else 'of this tenant'}"
    yield "written", moment(agent.created_at)
    yield "etag", agent.etag
    if agent.role:
        yield "role", agent.role
    yield "model", _model(agent)
    yield from _fields(raw.llm_config, "model")
    yield "tools", ", ".join(_tools(agent)) or "-"
    for name in sorted(raw.tool_config):
        yield from _fields(raw.tool_config[name], name=name)
    if raw.handoffs:
        yield "handoffs", ", ".join(raw.handoffs)
    if raw.human_input_mode:
        yield "human input", word(raw, "human_input_mode")
    kind = raw.context.WhichOneof("kind")
    if kind:
        yield "context", f"{kind}: " + _values(getattr(raw.context, kind))
    for policy in raw.approvals:
        yield "approval for", _values(policy)
    if raw.HasField("budget"):
        yield "budget of a run", _values(raw.budget)
    if raw.HasField("output_schema"):
        yield "output schema", str(to_json(raw.output_schema))
    if raw.HasField("max_tool_iterations"):
        yield "tool iterations", f"at most {raw.max_tool_iterations}"
    if raw.component:
        yield "component", f"{raw.component} {to_json(raw.component_config)}"


def _fields(message: Message, *left_out: str, name: str = "") -> Iterator[tuple[str, str]]:
    """The fields of a message that are set, on a line of their own."""
    text = _values(message, *left_out)
    if text:
        yield "", f"{name}: {text}" if name else text


def _values(message: Message, *left_out: str) -> str:
    shown = to_json(message)
    fields = shown.items() if isinstance(shown, dict) else ()
    return ", ".join(
        f"{name} {value}"
        for name, value in fields
        if name not in left_out and value not in ("", None, [], {}, "unspecified")
    )


def _model(agent: Agent) -> str:
    return agent.raw.llm_config.model or "(default)"


def _tools(agent: Agent) -> list[str]:
    return [f"{tool} (missing)" if tool in agent.unresolved_tools else tool for tool in agent.tools]


def _version(agent: Agent) -> str:
    return str(agent.version) + ("" if agent.built_in else " *")
