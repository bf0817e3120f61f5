"""agentmesh agents: the agents that conversations can use, and what becomes of them."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

from agentmesh_client import Agent, AgentSettings
from cyclopts import App, Parameter
from rich.console import Console

from agentmesh_cli.errors import EXIT_OK, UsageError
from agentmesh_cli.gateway import Gateway
from agentmesh_cli.options import NO_CONNECTION, Connection, JsonFlag
from agentmesh_cli.rendering.agents import print_agent, print_agents, print_versions
from agentmesh_cli.rendering.json_output import dump, to_json

AGENTS_EXAMPLES = """Examples:
  agentmesh agents
  agentmesh agents show developer
  agentmesh agents register poet --role "writes poems" --model gpt-4
  agentmesh agents update poet --temperature 0.2 --unset max_tokens,tools
  agentmesh agents clone developer tester --tools code_executor
  agentmesh agents versions poet
  agentmesh agents delete poet

Changes apply to new conversations; those that have started keep their versions.
"""


class HumanInputMode(StrEnum):
    """When an agent asks a person."""

    NEVER = "never"
    TERMINATE = "terminate"
    ALWAYS = "always"


@Parameter(name="*")
@dataclass(frozen=True)
class SettingsOptions:
    """What an agent is made of."""

    name: Annotated[str | None, Parameter(help="Display name.")] = None
    role: Annotated[str | None, Parameter(help="What the agent is for.")] = None
    system_message: Annotated[
        str | None, Parameter(help="Instructions for the model; @FILE reads them from a file.")
    ] = None
    model: Annotated[str | None, Parameter(help="Model or model profile.")] = None
    temperature: Annotated[float | None, Parameter(help="Between 0 and 2.")] = None
    max_tokens: Annotated[int | None, Parameter(help="Maximum tokens per reply.")] = None
    tools: Annotated[str | None, Parameter(help="Comma-separated: code_executor,file_manager.")] = (
        None
    )
    handoffs: Annotated[
        str | None, Parameter(help="Agents it may hand over to, comma-separated.")
    ] = None
    human_input_mode: Annotated[HumanInputMode | None, Parameter(help="When it asks a person.")] = (
        None
    )
    max_tool_iterations: Annotated[
        int | None, Parameter(help="Maximum model/tool iterations per turn.")
    ] = None

    def given(self, unset: str = "") -> AgentSettings:
        """The settings that were named; None for those of `unset`."""
        settings: dict[str, object] = {}
        for name in _listed(unset):
            if name not in AgentSettings.__annotations__:
                known = ", ".join(sorted(AgentSettings.__annotations__))
                raise UsageError(f"--unset {name}: no such setting", remedy=f"use {known}")
            settings[name] = None
        for name, value in vars(self).items():
            if value is not None:
                settings[name] = _listed(value) if name in ("tools", "handoffs") else value
        if self.system_message is not None and self.system_message.startswith("@"):
            settings["system_message"] = _read(self.system_message[1:])
        return cast(AgentSettings, settings)


NO_SETTINGS = SettingsOptions()
Unset = Annotated[
    str, Parameter(help="Settings to clear, comma-separated; also context and tool_config.")
]
Etag = Annotated[str, Parameter(help="Fail unless this is the etag of the newest version.")]
Version = Annotated[int, Parameter(help="Which version [default: the newest].")]


def register(app: App, console: Console) -> None:
    """Adds the commands to `app`."""
    agents = App(
        name="agents",
        help="List, show, register, change, copy and delete agents.",
        help_epilogue=AGENTS_EXAMPLES,
    )
    app.command(agents)
    _register_reading(agents, console)
    _register_writing(agents, console)


def _register_reading(agents: App, console: Console) -> None:
    @agents.default
    @agents.command(name="list")
    async def list_(*, json: JsonFlag = False, connection: Connection = NO_CONNECTION) -> int:
        """List the agents that conversations can use."""
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.agents.list()
        if json:
            console.out(dump([to_json(agent.raw) for agent in found]), highlight=False)
        elif not found:
            console.print("no agents yet; agent_runtime publishes the shipped ones when it starts")
        else:
            print_agents(console, found)
        return EXIT_OK

    @agents.command
    async def show(
        agent: str,
        /,
        *,
        version: Version = 0,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Show the whole definition of an agent."""
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.agents.get(agent, version=version)
        _print(console, found, json)
        return EXIT_OK

    @agents.command
    async def versions(
        agent: str, /, *, json: JsonFlag = False, connection: Connection = NO_CONNECTION
    ) -> int:
        """List the versions of an agent, newest first."""
        async with Gateway.open(connection) as gateway:
            found = await gateway.mesh.agents.versions(agent)
        if json:
            console.out(dump([to_json(version.raw) for version in found]), highlight=False)
        else:
            print_versions(console, found)
        return EXIT_OK


def _register_writing(agents: App, console: Console) -> None:
    @agents.command(name="register")
    async def register_(
        agent: str,
        /,
        *,
        settings: SettingsOptions = NO_SETTINGS,
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Register an agent under an id of letters, digits and underscores."""
        given = settings.given()
        async with Gateway.open(connection) as gateway:
            _print(console, await gateway.mesh.agents.register(agent, **given), json)
        return EXIT_OK

    @agents.command
    async def update(
        agent: str,
        /,
        *,
        settings: SettingsOptions = NO_SETTINGS,
        unset: Unset = "",
        etag: Etag = "",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Write a new version of an agent with some settings changed."""
        changes = settings.given(unset)
        if not changes:
            raise UsageError("nothing to change", remedy="name settings, or --unset some")
        async with Gateway.open(connection) as gateway:
            _print(console, await gateway.mesh.agents.update(agent, etag=etag, **changes), json)
        return EXIT_OK

    @agents.command
    async def clone(
        agent: str,
        new_agent: str,
        /,
        *,
        version: Version = 0,
        settings: SettingsOptions = NO_SETTINGS,
        unset: Unset = "",
        json: JsonFlag = False,
        connection: Connection = NO_CONNECTION,
    ) -> int:
        """Copy an agent under another id, with some settings changed."""
        changes = settings.given(unset)
        async with Gateway.open(connection) as gateway:
            made = await gateway.mesh.agents.clone(agent, new_agent, version=version, **changes)
        _print(console, made, json)
        return EXIT_OK

    @agents.command
    async def delete(
        agent: str, /, *, etag: Etag = "", connection: Connection = NO_CONNECTION
    ) -> int:
        """Delete one of your agents; a shipped agent that it replaced becomes visible again."""
        async with Gateway.open(connection) as gateway:
            await gateway.mesh.agents.delete(agent, etag=etag)
        return EXIT_OK


def _print(console: Console, agent: Agent, json: bool) -> None:
    if json:
        console.out(dump(to_json(agent.raw)), highlight=False)
    else:
        print_agent(console, agent)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise UsageError(f"--system-message @{path}: {why}") from None
