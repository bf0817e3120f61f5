"""An event loop that code of a package really holds up: told, counted, and no turns meanwhile."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from agentmesh_agent_runtime.turns.hosting import whose_turn
from agentmesh_agent_runtime.worker.loop_watch import LoopWatch
from meshkit.metrics import Metrics

from services.agent_runtime.tests.component_package import install
from services.agent_runtime.tests.extension_world import hosting
from services.agent_runtime.tests.memory_world import MemoryRun, agent, asked, take_turn, team
from services.agent_runtime.tests.test_team_kinds import member
from tests.support.model_server import ModelServer

PATIENCE = 0.1
BLOCKER = """
import threading

from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage

named = threading.Event()


class Blocker(BaseChatAgent):
    def __init__(self, setup):
        super().__init__(setup.name, "blocks")

    produced_message_types = (TextMessage,)

    async def on_messages(self, messages, cancellation_token):
        self.think_without_awaiting()
        return Response(chat_message=TextMessage(content="done", source=self.name))

    def think_without_awaiting(self):
        assert named.wait(60)

    async def on_reset(self, cancellation_token):
        pass
"""


class Told:
    """Who hears that the loop is held up, and that it goes on."""

    def __init__(self) -> None:
        self.heard: list[bool] = []
        self.held_up = threading.Event()
        self.changed = threading.Event()

    def __call__(self, held_up: bool) -> None:
        self.heard.append(held_up)
        self.changed.set()
        if held_up:
            self.held_up.set()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def watch(told: Told, metrics: Metrics) -> Iterator[LoopWatch]:
    watching = LoopWatch(metrics, whose_turn, told, patience=PATIENCE)
    yield watching
    watching.stop()


async def _until(told: Told, heard: int) -> None:
    async with asyncio.timeout(60):
        while len(told.heard) < heard:
            await asyncio.sleep(0.01)


async def test_each_time_is_told_and_counted(
    watch: LoopWatch, told: Told, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    watch.start()
    for number in (1, 2):
        told.held_up.clear()
        assert told.held_up.wait(60), "this is the loop: while it waits here nothing else runs"
        await _until(told, 2 * number)
    assert told.heard[:4] == [True, False, True, False]
    for name in ("agentmesh_loop_blocked_total", "agentmesh_loop_blocked_seconds_count"):
        (counted,) = re.findall(rf"^{name} (\S+)$", metrics.exposition(), re.MULTILINE)
        assert float(counted) >= 2
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "test_each_time_is_told_and_counted" in errors[0]
    assert "belongs to no agent" in errors[0]


async def test_the_agent_and_the_run_are_named(
    metrics: Metrics,
    told: Told,
    model_server: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    points = {"agentmesh.agents": {"Blocker": "Blocker"}}
    install(tmp_path, monkeypatch, BLOCKER, points, name="blocker")
    blocker = importlib.import_module("blocker")

    def whose(frame: FrameType) -> str:
        blocker.named.set()
        return whose_turn(frame)

    spec = team(agent("odd", component="Blocker"), member("bob"))
    blocker.named.set()
    await take_turn(first := MemoryRun(spec, [asked()]), hosting(first, model_server))
    # Whatever is imported or made for the first time does not hold up the loop any more.
    blocker.named.clear()
    run = MemoryRun(spec, [asked()], run_id="run_2")
    turns = hosting(run, model_server)
    watch = LoopWatch(metrics, whose, told, patience=1.0)
    watch.start()
    await take_turn(run, turns)
    await _until(told, 2)
    watch.stop()
    errors = "".join(r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)
    assert "the agent component 'Blocker' of odd in turn 1 of run_2" in errors
    assert "think_without_awaiting" in errors


async def test_an_ear_that_fails_does_not_end_the_watch(metrics: Metrics) -> None:
    blocked = threading.Event()
    heard: list[bool] = []

    def ear(held_up: bool) -> None:
        heard.append(held_up)
        blocked.set()
        if len(heard) == 1:
            raise RuntimeError("no ear")

    watch = LoopWatch(metrics, whose_turn, ear, patience=PATIENCE)
    watch.start()
    for number in (1, 2):
        blocked.clear()
        assert blocked.wait(60), "this is the loop: while it waits here nothing else runs"
        async with asyncio.timeout(60):
            while len(heard) < 2 * number:
                await asyncio.sleep(0.01)
    watch.stop()
    assert heard[:4] == [True, False, True, False]
