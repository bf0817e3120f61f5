"""How many at once, whose turn it is, and results that answer again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from agentmesh_tool_runner.calls.kept import KeptResults
from agentmesh_tool_runner.calls.steps import ToolCall
from agentmesh_tool_runner.rooms import Rooms
from agentmesh_tool_runner.tools.builtin import TOOLS
from agentmesh_tool_runner.tools.reply import Failure, ToolReply
from agentmesh_tool_runner.tools.spec import ToolSpec


class Queue:
    """Those who want into a room of one place, in the order in which they got in."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self.entered: list[str] = []
        self.leave = asyncio.Event()

    def come(self, name: str, group: str) -> asyncio.Task[None]:
        return asyncio.create_task(self._stay(name, group))

    async def _stay(self, name: str, group: str) -> None:
        async with self.rooms.place("room", group, 1):
            self.entered.append(name)
            await self.leave.wait()


async def test_groups_take_turns_and_an_empty_room_is_not_kept() -> None:
    queue = Queue()
    coming = [queue.come(f"a{number}", "a") for number in range(4)]
    coming += [queue.come("b0", "b"), queue.come("b1", "b"), queue.come("c0", "c")]
    await asyncio.sleep(0)
    assert queue.entered == ["a0"]
    queue.leave.set()
    await asyncio.gather(*coming)
    assert queue.entered == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
    assert len(queue.rooms) == 0


async def test_whoever_is_cancelled_takes_no_place_along() -> None:
    queue = Queue()
    first, second, third = (queue.come(name, "a") for name in ("first", "second", "third"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    first.cancel()  # its place goes to the third, and never to the second
    await asyncio.sleep(0)
    third.cancel()
    await asyncio.sleep(0)
    fourth = queue.come("fourth", "b")
    queue.leave.set()
    async with asyncio.timeout(5):
        await fourth
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert "second" not in queue.entered
    assert queue.entered[-1] == "fourth"
    assert len(queue.rooms) == 0


async def test_a_place_is_passed_on_when_it_is_called_and_cancelled_at_once() -> None:
    rooms = Rooms()
    holder = AsyncExitStack()
    await holder.enter_async_context(rooms.place("room", "a", 1))
    waiting = asyncio.create_task(holder_of(rooms))
    await asyncio.sleep(0)
    await holder.aclose()  # calls the one who waits
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5), rooms.place("room", "b", 1):
        pass
    assert len(rooms) == 0


async def holder_of(rooms: Rooms) -> None:
    async with rooms.place("room", "a", 1):
        await asyncio.sleep(60)


SPEC = ToolSpec("t", "a tool", {}, cacheable=True, uses_workspace=False, version="1")


def call(arguments: str = "{}", seconds: float = 60) -> ToolCall:
    return ToolCall(1, "call_1", "t", arguments, "agent", "msg", cache_seconds=seconds)


def test_no_tenant_and_no_version_has_anothers_result() -> None:
    kept = KeptResults(100_000)
    kept.keep("acme", SPEC, call(), ToolReply.ok("hers"))
    assert kept.find("acme", SPEC, call()) is not None
    assert kept.find("rival", SPEC, call()) is None
    assert kept.find("acme", ToolSpec(**{**vars(SPEC), "version": "2"}), call()) is None
    assert kept.find("acme", ToolSpec(**{**vars(SPEC), "name": "u"}), call()) is None
    assert kept.find("acme", SPEC, call('{"a": 1}')) is None


@pytest.mark.parametrize("change", [{"cacheable": False}, {"uses_workspace": True}])
def test_what_depends_on_more_than_arguments_is_not_kept(change: dict[str, bool]) -> None:
    kept = KeptResults(100_000)
    spec = ToolSpec(**{**vars(SPEC), **change})
    kept.keep("acme", spec, call(), ToolReply.ok("then"))
    assert kept.find("acme", spec, call()) is None


def test_only_good_results_of_calls_that_want_it_are_kept() -> None:
    kept = KeptResults(100_000)
    kept.keep("acme", SPEC, call(), ToolReply.failed(Failure.RAISED, "bad"))
    kept.keep("acme", SPEC, call(), ToolReply.error("bad"))
    kept.keep("acme", SPEC, call(seconds=0), ToolReply.ok("unwanted"))
    kept.keep("acme", SPEC, call("{no json"), ToolReply.ok("malformed"))
    assert kept.find("acme", SPEC, call()) is None
    assert kept.find("acme", SPEC, call("{no json")) is None


def test_kept_results_are_bounded_and_the_oldest_go() -> None:
    kept = KeptResults(10_000)
    for number in range(20):
        kept.keep("acme", SPEC, call(f"[{number}]"), ToolReply.ok("x" * 1000))
        kept.find("acme", SPEC, call("[0]"))
    there = [n for n in range(20) if kept.find("acme", SPEC, call(f"[{n}]"))]
    assert there == [0, 15, 16, 17, 18, 19]
    kept.keep("acme", SPEC, call("[99]"), ToolReply.ok("x" * 9000))
    assert kept.find("acme", SPEC, call("[99]")) is None


def test_no_schema_of_arguments_refers_to_anything() -> None:
    for tool in TOOLS.values():
        assert "$ref" not in str(tool.spec.parameters)
    tasks = TOOLS["task_planner"].spec.parameters["properties"]["tasks"]
    assert tasks["items"]["properties"]["title"]["minLength"] == 1
