"""The components by themselves, without a mesh: how a package is tested where it is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agentmesh_agent_runtime.extension import (
    AgentSetup,
    ComponentError,
    ModelClientSetup,
    TeamSetup,
    TerminationSetup,
    TurnInfo,
)
from agentmesh_example.agents import (
    CustomAgent,
    CustomAgentConfig,
    DatabaseAgent,
    DatabaseAgentConfig,
    LotDrawer,
    LotDrawerConfig,
    MinuteTaker,
)
from agentmesh_example.candidates import critic_after_writer
from agentmesh_example.models import Parrot, ParrotConfig
from agentmesh_example.teams import ChairedTeam, ChairedTeamConfig
from agentmesh_example.terminations import WordBudgetConfig, word_budget
from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken
from autogen_core.models import CreateResult, UserMessage
from autogen_core.tools import FunctionTool, StaticWorkbench
from pydantic import SecretStr, ValidationError


class NotRecorded:
    """Stands in for the mesh's `once`: it does it every time."""

    async def __call__(self, key: str, make: Callable[[], Any]) -> Any:
        made = make()
        return await made if isinstance(made, Awaitable) else made


def parrot(**config: Any) -> Parrot:
    return Parrot(
        ModelClientSetup(
            profile="parrot",
            model="parrot-1",
            base_url="",
            api_key=SecretStr(""),
            timeout=None,
            config=ParrotConfig(**config),
        )
    )


def setup(agent_id: str, config: Any) -> AgentSetup:
    return AgentSetup(
        id=agent_id,
        name=agent_id,
        role="",
        system_message="",
        description=agent_id,
        config=config,
        model=parrot(),
        private_model=parrot(),
        tools=StaticWorkbench([]),
        handoffs=(),
        model_context=None,
        max_tool_iterations=1,
        once=NotRecorded(),
        turn=lambda: TurnInfo("conv_1", "run_1", 1, 0),
    )


async def all_in_order(choice: Awaitable[Any]) -> list[str]:
    return list(await choice)


def meeting(chair: str) -> TeamSetup:
    return TeamSetup(
        id="meeting",
        description="",
        config=ChairedTeamConfig(chair=chair),
        members=tuple(LotDrawer(setup(n, LotDrawerConfig(options=["a", "b"]))) for n in "xyz"),
        max_turns=1,
        termination_condition=None,
        model=parrot(),
        once=NotRecorded(),
        turn=lambda: TurnInfo("conv_1", "run_1", 1, 0),
        choosing=all_in_order,
    )


async def test_the_custom_agent_enhances_what_it_hears() -> None:
    config = CustomAgentConfig(glossary={"SLO": "what we promise"})
    agent = CustomAgent(setup("writer", config))
    result = await agent.run(task="Is the SLO met?")
    said = result.messages[-1].to_text()
    assert said == "I heard: Is the SLO met? In this house: SLO: what we promise"


async def test_the_database_agent_tells_what_the_database_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "facts.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE facts (name TEXT, fact TEXT)")
        database.execute("INSERT INTO facts VALUES ('Ada', 'wrote programs'), ('Bob', 'did not')")
        database.commit()
    with pytest.raises(ComponentError, match="EXAMPLE_DATABASE"):
        DatabaseAgent(setup("db", DatabaseAgentConfig()))
    monkeypatch.setenv("EXAMPLE_DATABASE", str(file))
    result = await DatabaseAgent(setup("db", DatabaseAgentConfig())).run(task="Who was Ada?")
    said = result.messages[-1].to_text()
    assert said == "I heard: Who was Ada? The database says: Ada: wrote programs"


async def test_the_lot_drawer_remembers_what_it_drew() -> None:
    config = LotDrawerConfig(options=["a", "b", "c"])
    drawer = LotDrawer(setup("chair", config))
    heard = [TextMessage(content="draw", source="user")]
    first = (await drawer.on_messages(heard, CancellationToken())).chat_message.to_text()
    other = LotDrawer(setup("chair", config))
    await other.load_state(await drawer.save_state())
    second = (await other.on_messages(heard, CancellationToken())).chat_message.to_text()
    assert first != second


async def test_the_minute_taker_writes_what_it_heard() -> None:
    written: list[str] = []

    def code_writer(path: str, content: str) -> str:
        written.append(content)
        return f"wrote {path}"

    tools = StaticWorkbench([FunctionTool(code_writer, description="writes")])
    clerk = MinuteTaker(replace(setup("clerk", None), tools=tools))
    said = [TextMessage(content="we met", source="chair")]
    answer = (await clerk.on_messages(said, CancellationToken())).chat_message.to_text()
    assert answer == "wrote minutes.md"
    other = MinuteTaker(replace(setup("clerk", None), tools=tools))
    await other.load_state(await clerk.save_state())
    await other.on_messages(said, CancellationToken())
    assert written[-1] == "# Minutes\n\n- chair: we met\n- chair: we met\n"
    alone = await MinuteTaker(setup("clerk", None)).on_messages(said, CancellationToken())
    assert alone.chat_message.to_text().startswith("The minutes are not written")


async def test_the_chair_has_every_other_word_and_the_last() -> None:
    team = ChairedTeam(meeting("y"))
    assert [await team.next_speakers(()) for _ in range(4)] == [("y",), ("x",), ("y",), ("z",)]
    assert await team.next_speakers([TextMessage(content="ADJOURNED", source="y")]) == ()
    with pytest.raises(ComponentError, match="no member"):
        ChairedTeam(meeting("nobody"))


async def test_the_word_budget_counts_what_agents_say() -> None:
    condition = word_budget(TerminationSetup(WordBudgetConfig(max_words=3), ("a",)))
    said = [TextMessage(content="one two", source=who) for who in ("user", "a", "b")]
    assert await condition(said) is None
    stop = await condition([TextMessage(content="three", source="a")])
    assert stop is not None
    assert stop.content == "3 of 3 words were said"
    with pytest.raises(ValidationError):
        WordBudgetConfig(max_words=0)


def test_the_critic_follows_the_writer() -> None:
    writer = TextMessage(content="a text", source="writer")
    assert critic_after_writer([writer]) == ["critic"]
    assert critic_after_writer([]) == ["writer"]


async def test_the_parrot_streams_and_counts() -> None:
    question = [UserMessage(content="a b c", source="user")]
    stream = parrot().create_stream(question, extra_create_args={"max_tokens": 4})
    *pieces, whole = [piece async for piece in stream]
    assert isinstance(whole, CreateResult)
    assert "".join(map(str, pieces)) == whole.content == "I heard: a b"
    assert whole.finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 4)
