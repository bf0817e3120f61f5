"""What a restricted team keeps, and what it cannot be without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.catalog.v1.team_pb2 import (
    TEAM_KIND_ROUND_ROBIN,
    Participant,
    Stage,
    TeamDefinition,
    Termination,
)
from agentmesh_gateway.definitions.pinning import Pinned, pin
from meshkit.errors import MeshError

MEMBERS = ("planner", "coder", "critic")


class Definitions:
    """A catalog of one team whose members are written in place."""

    def __init__(self, termination: Termination) -> None:
        self._team = TeamDefinition(
            id="crew",
            kind=TEAM_KIND_ROUND_ROBIN,
            participants=[Participant(agent=AgentDefinition(id=name)) for name in MEMBERS],
            stages=[Stage(name=f"stage_{name}", agent=name) for name in MEMBERS],
            termination=termination,
        )

    async def teams(self, names: Sequence[str]) -> dict[str, TeamDefinition]:
        return {"crew": self._team} if "crew" in names else {}

    async def agents(self, names: Sequence[str]) -> dict[str, AgentDefinition]:
        return {}

    async def missing_tools(self, names: Sequence[str]) -> list[str]:
        return []


async def crew(termination: Termination, *agents: str) -> Pinned:
    catalog: Any = Definitions(termination)
    return await pin(catalog, agents, "crew")


@pytest.mark.parametrize(
    "termination",
    [
        Termination(sources=["critic"]),
        Termination(text_mentions=["DONE"], text_mention_sources=["coder", "critic"]),
        Termination(all_of=[Termination(max_messages=4), Termination(sources=["critic"])]),
    ],
    ids=["sources", "text_mention_sources", "all_of"],
)
async def test_members_whose_words_end_the_team_are_needed(termination: Termination) -> None:
    with pytest.raises(MeshError) as refused:
        await crew(termination, "planner", "coder")
    (violation,) = refused.value.violations
    assert violation.field == "agents"
    assert '"crew" ends by what critic says' in violation.description
    assert (await crew(termination, "coder", "critic")).agents == ("coder", "critic")


async def test_other_members_are_left_out_with_their_stages() -> None:
    pinned = await crew(Termination(text_mentions=["DONE"]), "critic", "coder")
    assert pinned.agents == ("coder", "critic")
    assert [stage.agent for stage in pinned.definition.stages] == ["coder", "critic"]
