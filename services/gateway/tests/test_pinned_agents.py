"""Pages of agents, and what conversations say of those that they pinned."""

from __future__ import annotations

from .front import QUICK_START, Front
from .test_agents import patched, registered


async def test_pinned_agents_are_told_whatever_they_are_made_of(front: Front) -> None:
    names = [f"wordy_{number}" for number in range(15)]
    for name in names:
        words = name[-1] * 260_000
        await registered(front, name, system_message=words, tools=[])
    task = "x" * 200_000
    started = (await front.started(agents=names, workflow="", task=task))["conversation_id"]
    debug = (await front.http.get(f"/conversations/{started}/debug")).json()
    assert [one["agent_id"] for one in debug["pinned_agents"]] == names


async def test_a_page_of_agents_is_as_long_as_a_response_may_be(own_front: Front) -> None:
    names = [f"wordy_{number:02}" for number in range(18)]
    for name in names:
        await registered(own_front, name, system_message=name[-1] * 260_000)
    listed: list[str] = []
    params = {"built_in": "false"}
    while True:
        page = (await own_front.http.get("/agents", params=params)).json()
        listed += [agent["id"] for agent in page["agents"]]
        params["page_token"] = page["next_page_token"]
        if not page["next_page_token"]:
            break
    assert listed == names


async def test_a_conversation_says_which_versions_it_pinned(own_front: Front) -> None:
    front = own_front
    before = (await front.started())["conversation_id"]
    nested = (await front.started(workflow="outer", agents=[]))["conversation_id"]
    await patched(front, "developer", role="changed")
    after = (await front.started())["conversation_id"]

    async def pinned(conversation: str) -> list[tuple[str, int, str]]:
        debug = (await front.http.get(f"/conversations/{conversation}/debug")).json()
        return [(one["agent_id"], one["version"], one["team"]) for one in debug["pinned_agents"]]

    team = [(name, 1, "") for name in QUICK_START["agents"]]
    assert await pinned(before) == team
    assert await pinned(after) == [
        ("developer", 2, "") if n == "developer" else (n, v, t) for n, v, t in team
    ]
    inner = [(name, 1, "software_development") for name in QUICK_START["agents"]]
    assert await pinned(nested) == [*inner, ("developer", 1, "")]
